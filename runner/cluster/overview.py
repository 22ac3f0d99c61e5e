"""What of a study is in its cluster now, whether or not a runner follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.cluster.api import Api, Object
from runner.cluster.found import counted
from runner.cluster.observed import is_over, job_end, running_task, suspension_trouble, trouble_of
from runner.cluster.submitted import job_of, selector, submitted
from runner.studies.study import Study


def in_cluster(study: Study, api: Api) -> Iterator[str]:
    """A line for each Job.

    Raises:
        LaunchFailed: the cluster cannot be asked.
    """
    api.require_namespace()
    found = sorted(api.find("Job", selector(study))[0], key=lambda job: str(job["metadata"]["name"]))
    pods = api.find("Pod", selector(study))[0]
    where = f"the namespace {api.namespace} of {api.server}"
    left = [pod for pod in pods if not is_over(pod) and job_of(pod) not in {job["metadata"]["name"] for job in found}]
    yield f"{counted(len(found), 'Job')} in {where}" if found or left else f"nothing in {where}"
    for job in found:
        known = submitted(job)
        n_cycles = 0 if known is None else len(known.cells)
        name = job["metadata"]["name"]
        own = [pod for pod in pods if job_of(pod) == name and not is_over(pod)]
        yield f"{name}, of {counted(n_cycles, 'cycle')}: {_state(job, own)}"
    for pod in left:
        yield f"of a run that was stopped: {_pod_state(pod)}"


def _state(job: Object, pods: Sequence[Object]) -> str:
    ended = job_end(job)
    if ended is not None:
        how = ended.reason or ("failed" if ended.failed else "complete")
        return f"over ({how}); `runner run` brings home what it has"
    if (waits := suspension_trouble(job)) is not None:
        return waits.message
    if not pods:
        return "has no pod now"
    return "; ".join(_pod_state(pod) for pod in pods)


def _pod_state(pod: Object) -> str:
    name, task = pod["metadata"]["name"], running_task(pod)
    trouble = trouble_of(pod)
    if trouble is not None:
        return trouble.message
    where = f" on {pod['spec']['nodeName']}" if pod["spec"].get("nodeName") else ""
    return f"pod {name} {'starts' if task is None else f'works on {task}'}{where}"
