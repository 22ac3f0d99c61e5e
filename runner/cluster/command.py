"""What the command line asks of a cluster."""

from __future__ import annotations

from runner.cluster.api import Api
from runner.cluster.checks import cluster_checks
from runner.cluster.found import counted
from runner.cluster.observed import has_begun, is_over
from runner.cluster.overview import in_cluster
from runner.cluster.run import run_on_cluster
from runner.cluster.submitted import clear, clear_left, end, selector, submitted
from runner.interrupt import ending_signals
from runner.launchers import LaunchFailed
from runner.layout import Layout
from runner.schedule import Summary
from runner.studies.study import Study
from runner.view.checks import Check
from runner.view.progress import Progress, StandardError


def run(study: Study, layout: Layout, *, extend: bool, allow_tag: bool) -> Summary:
    """Run a study, with a live table, until it is done or somebody asks to end.

    Raises:
        JobError: it cannot be run; the message says what to do.
    """
    api = Api(study.kubernetes.namespace)
    progress = Progress(StandardError())
    progress.note(f"study {study.name}, in the namespace {api.namespace} of {api.server}")
    with ending_signals() as stop:
        try:
            return run_on_cluster(study, layout, api, progress, stop, allow_tag=allow_tag, extend=extend)
        finally:
            progress.stop()


def doctor(study: Study) -> list[Check]:
    """What the study needs of its cluster."""
    return cluster_checks(study)


def status(study: Study) -> list[str]:
    """What of the study is in its cluster now; one line says it where that cannot be asked."""
    try:
        return list(in_cluster(study, Api(study.kubernetes.namespace)))
    except LaunchFailed as error:
        return [str(error)]


def stop(study: Study, *, now: bool) -> str:
    """End a study that nobody follows: let running pods finish, or end them, too. Returns what was done."""
    api = Api(study.kubernetes.namespace)
    api.require_namespace()
    jobs = [one for job in api.find("Job", selector(study))[0] if (one := submitted(job)) is not None]
    pods = {pod["metadata"]["name"]: pod for pod in api.find("Pod", selector(study))[0]}
    n_running = sum(has_begun(pod) and not is_over(pod) for pod in pods.values())
    end(api, jobs, pods, running_too=now)
    if now:
        clear(api, study, {job.name for job in jobs})
        clear_left(api, study, older_than_s=0.0)
    found = f"study '{study.name}' in the namespace {api.namespace}: {counted(len(jobs), 'Job')}"
    pods_said = counted(n_running, "running pod")
    what = f"and {pods_said} ended" if now else f"removed; {pods_said} may finish, a block with all of its experiments"
    return f"{found} {what}. What is published is kept: `runner run` brings it home."
