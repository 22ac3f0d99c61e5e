"""A study's Jobs in the cluster: made, found again, ended. Nothing of others is touched."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from runner.cluster import names
from runner.cluster.api import Api, Object
from runner.cluster.manifests import ClusterJob
from runner.cluster.observed import has_begun, is_over
from runner.cluster.pods import JOB_UID
from runner.studies.plan import Cell
from runner.studies.study import Study

_JOB_OF = "batch.kubernetes.io/job-name"
_INDEX_OF = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True)
class Submitted:
    """
    Attributes:
        cells: in the order of its containers, or of its indexes.
    """

    name: str
    uid: str
    indexed: bool
    cells: tuple[Cell, ...]
    parallelism: int = 1

    def cell_of(self, pod: Object, container: str) -> Cell | None:
        """Which cycle a container of a pod of this Job works on."""
        if self.indexed:
            index = (pod["metadata"].get("labels") or {}).get(_INDEX_OF)
            return self.cells[int(index)] if index is not None and int(index) < len(self.cells) else None
        spec = pod["spec"]
        tasks = [one["name"] for one in (*(spec.get("initContainers") or ()), *spec["containers"])]
        at = tasks.index(container) if container in tasks else len(self.cells)
        return self.cells[at] if at < len(self.cells) else None


def selector(study: Study) -> str:
    """Of everything that is this study's and is a job's."""
    return f"{names.STUDY_ID}={names.study_id(study)},app.kubernetes.io/component=job"


def job_of(pod: Object) -> str | None:
    """Name of the Job that it is a pod of."""
    name = (pod["metadata"].get("labels") or {}).get(_JOB_OF)
    return None if name is None else str(name)


def launch_of(pod: Object) -> str:
    """Uid of the Job that made it; empty of another pod."""
    return str((pod["metadata"].get("labels") or {}).get(JOB_UID) or "")


def submitted(job: Object) -> Submitted | None:
    """What it runs, as it was written down when it was made; None of a Job that says nothing."""
    try:
        text = job["metadata"]["annotations"][names.CELLS]
        cells = tuple((str(config_hash), int(cycle)) for config_hash, cycle in json.loads(text))
    except (KeyError, TypeError, ValueError):
        return None
    spec = job["spec"]
    indexed = spec.get("completionMode") == "Indexed"
    return Submitted(job["metadata"]["name"], job["metadata"]["uid"], indexed, cells, int(spec.get("parallelism", 1)))


def submit(api: Api, job: ClusterJob) -> Submitted:
    """Make its inputs, and then it; what is there already, from a runner that was killed, is taken as it is.

    Raises:
        LaunchFailed: the cluster does not take it.
    """
    api.create(job.inputs)
    made = api.create(job.manifest) or api.get("Job", job.name)
    found = None if made is None else submitted(made)
    if found is None:
        raise AssertionError(f"the Job {job.name} is not what was submitted")
    return found


def end(api: Api, jobs: Collection[Submitted], pods: Mapping[str, Object], *, running_too: bool) -> None:
    """Remove Jobs; pods that run may finish, unless they are to be ended, too.

    Args:
        pods: of these Jobs, by name.
    """
    for job in jobs:
        api.delete("Job", job.name, job.uid, orphans=not running_too)
    for name, pod in pods.items():
        if running_too or not has_begun(pod):
            api.delete("Pod", name, pod["metadata"]["uid"])


def clear(api: Api, study: Study, over: Collection[str]) -> None:
    """Remove Jobs that are over, with their pods and inputs.

    Args:
        over: their names; what another client has submitted is not among them.
    """
    for kind in ("Job", "Pod", "ConfigMap"):
        found, _ = api.find(kind, selector(study))
        for one in found:
            name = job_of(one) if kind == "Pod" else one["metadata"]["name"]
            if name in over:
                api.delete(kind, one["metadata"]["name"], one["metadata"]["uid"])


def orphans(api: Api, study: Study) -> list[Object]:
    """Pods that work on after their Job was removed, so that they may finish."""
    jobs = {job["metadata"]["name"] for job in api.find("Job", selector(study))[0]}
    pods = api.find("Pod", selector(study))[0]
    return [pod for pod in pods if not is_over(pod) and job_of(pod) not in jobs]


def clear_left(api: Api, study: Study, *, older_than_s: float) -> None:
    """Remove pods that are over and inputs that belong to no Job any more, as a client leaves them that was killed."""
    jobs = {job["metadata"]["name"] for job in api.find("Job", selector(study))[0]}
    pods = api.find("Pod", selector(study))[0]
    used = jobs | {job_of(pod) for pod in pods if not is_over(pod)}
    for pod in pods:
        if is_over(pod) and job_of(pod) not in jobs:
            api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])
    for inputs in api.find("ConfigMap", selector(study))[0]:
        about = inputs["metadata"]
        if about["name"] not in used and _age_s(about["creationTimestamp"]) >= older_than_s:
            api.delete("ConfigMap", about["name"], about["uid"])


def _age_s(created: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
