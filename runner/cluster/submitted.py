"""A study's Jobs in the cluster: made, found again, ended. Nothing of others is touched."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runner.cluster import names
from runner.cluster.api import Api, Object
from runner.cluster.manifests import ClusterJob
from runner.cluster.observed import has_begun
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
    return f"{names.STUDY_ID}={names.study_id(study.name)},app.kubernetes.io/component=job"


def job_of(pod: Object) -> str | None:
    """Name of the Job that it is a pod of."""
    name = (pod["metadata"].get("labels") or {}).get(_JOB_OF)
    return None if name is None else str(name)


def submitted(job: Object) -> Submitted | None:
    """What it runs, as it was written down when it was made; None of a Job that says nothing."""
    try:
        text = job["metadata"]["annotations"][names.CELLS]
        cells = tuple((str(config_hash), int(cycle)) for config_hash, cycle in json.loads(text))
    except (KeyError, TypeError, ValueError):
        return None
    indexed = job["spec"].get("completionMode") == "Indexed"
    return Submitted(job["metadata"]["name"], job["metadata"]["uid"], indexed, cells)


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
