"""A study as Kubernetes writes it: a Job for each block, or for each experiment, and a ConfigMap with what it reads.

Nothing here asks a cluster, and the same study gives the same text, so that it can be kept in git.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, ExitCode, JobContext
from images.contract.scheduling import Scheduling
from runner.cluster import names
from runner.cluster.images import Image
from runner.cluster.pods import INPUTS_MOUNT, Manifest, Task, pod_spec
from runner.hub.hub_cache import hub_models
from runner.studies.plan import Cell, Unit, plan_units
from runner.studies.study import Experiment, Job, Study

_MOST_BYTES = 1_000_000
"""A ConfigMap holds 1 MiB, its names and labels included."""
_MOST_JOBS = 1000
_MOST_JOB_BYTES = 1_000_000
"""What a cluster stores of one object is 1.5 MiB, and a pod's statuses add to it."""
_INDEX_VARIABLE = "JOULEHOUSE_INDEX"
_INDEX_LABEL = "metadata.labels['batch.kubernetes.io/job-completion-index']"
_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
_KUEUE_LEAST = "kueue.x-k8s.io/job-min-parallelism"
_STAYS = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of pods: a node that is too large is no reason to measure anew."""
_NEVER_BETTER = (ExitCode.CONFIG_INVALID, ExitCode.OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """One Job with its inputs.

    Attributes:
        cells: the experiment and cycle of each container, in order; of an Indexed Job those of each index.
    """

    name: str
    manifest: Manifest
    inputs: Manifest
    cells: tuple[Cell, ...]

    @property
    def parallelism(self) -> int:
        """Pods that it runs at a time."""
        return int(self.manifest["spec"]["parallelism"])


def cluster_jobs(
    study: Study, cycles: Sequence[int], images: dict[str, Image], *, on_cpu: bool, done: Collection[Cell] = ()
) -> list[ClusterJob]:
    """The Jobs that run what is still wanted of these cycles: one per block, or where there is nothing to compare on
    the same GPUs, one per experiment.

    Args:
        images: by backend.
        on_cpu: no GPU is asked for.
        done: cells that have their result.

    Raises:
        ConfigInvalid: a pod cannot see a local file, or the inputs are too large.
    """
    units = plan_units(study, cycles, done=done, on_cpu=on_cpu)
    if len(units) > _MOST_JOBS:
        raise ConfigInvalid(
            f"{len(units)} blocks are more Jobs than a cluster should be asked for at once ({_MOST_JOBS}).",
            "Take fewer cycles; more can be added with --extend.",
        )
    if study.placement == "block" and len(study.experiments) > 1:
        return [_block_job(study, unit, images) for unit in units]
    return [_indexed_job(study, jobs, n_gpus, images) for jobs, n_gpus in _by_experiment(study, units)]


def _limit_s(study: Study, experiment: Experiment) -> float:
    """Of one job, from its start; once more where it downloads its model, which a runner on a host does beforehand."""
    is_there = study.kubernetes.models_claim is not None or not hub_models([experiment.config])
    return study.timeouts.job_s * (1 if is_there else 2)


def _by_experiment(study: Study, units: Iterable[Unit]) -> Iterator[tuple[list[Job], int]]:
    every = [(job, unit.n_gpus) for unit in units for job in unit.jobs]
    for experiment in study.experiments:
        own = [(job, n_gpus) for job, n_gpus in every if job.config_hash == experiment.config_hash]
        if own:
            yield sorted((job for job, _ in own), key=lambda job: job.cycle), own[0][1]


def _block_job(study: Study, unit: Unit, images: dict[str, Image]) -> ClusterJob:
    inputs = _Inputs(study)
    tasks = [
        Task(
            name=names.container_name(number, f"{job.experiment.name}-c{job.cycle:03d}"),
            image=images[job.config.backend].reference,
            config_key=inputs.config(job.experiment),
            context_key=inputs.context(job, images),
            n_gpus=unit.n_gpus,
            limit_s=_limit_s(study, job.experiment),
        )
        for number, job in enumerate(unit.jobs, start=1)
    ]
    own = {names.CYCLE: str(unit.cycle)} if study.order != "sequential" else {}
    name = names.job_name(study, f"c{unit.cycle:03d}", f"g{unit.n_gpus}", _digest(study, unit.jobs, inputs, images))
    most_tries = study.retries.limit + 1
    spec = {
        "completions": 1,
        "parallelism": 1,
        # Each of its jobs counts its own tries, and ends the Job or lets the block go on.
        "backoffLimit": most_tries * len(unit.jobs),
        "podFailurePolicy": {"rules": [*_no_failure(study), _rule("FailJob", ExitCode.USAGE)]},
    }
    pod = pod_spec(study, tasks, name, keep_going=True, most_tries=most_tries)
    return _cluster_job(study, name, spec, pod, own, inputs, unit.jobs, images)


def _indexed_job(study: Study, jobs: Sequence[Job], n_gpus: int, images: dict[str, Image]) -> ClusterJob:
    inputs = _Inputs(study)
    experiment = jobs[0].experiment
    for index, job in enumerate(jobs):
        inputs.context(job, images, f"context-{index}.json")
    task = Task(
        name=names.container_name(1, experiment.name),
        image=images[experiment.config.backend].reference,
        config_key=inputs.config(experiment),
        context_key=f"context-$({_INDEX_VARIABLE}).json",
        n_gpus=n_gpus,
        limit_s=_limit_s(study, experiment),
        environment=[{"name": _INDEX_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": _INDEX_LABEL}}}],
    )
    own = {names.CONFIG_HASH: experiment.config_hash, names.BACKEND: experiment.config.backend}
    name = names.job_name(study, experiment.config_hash[:8], _digest(study, jobs, inputs, images))
    spec = {
        "completionMode": "Indexed",
        "completions": len(jobs),
        "parallelism": min(study.launcher.max_parallel or len(jobs), len(jobs)),
        "backoffLimitPerIndex": study.retries.limit,
        "maxFailedIndexes": len(jobs),
        "podFailurePolicy": {
            "rules": [*_no_failure(study), _rule("FailJob", ExitCode.USAGE), _rule("FailIndex", *_NEVER_BETTER)]
        },
    }
    pod = pod_spec(study, [task], name, keep_going=False)
    return _cluster_job(study, name, spec, pod, own, inputs, jobs, images)


def _cluster_job(
    study: Study,
    name: str,
    spec: Manifest,
    pod: Manifest,
    own: dict[str, str],
    inputs: _Inputs,
    jobs: Sequence[Job],
    images: Mapping[str, Image],
) -> ClusterJob:
    settings = study.kubernetes
    cells = tuple((job.config_hash, job.cycle) for job in jobs)
    labels = names.labels(study, {**settings.labels, **own})
    about = {"labels": labels, "annotations": {names.STUDY_NAME: study.name}}
    template = {"labels": labels, "annotations": {names.STUDY_NAME: study.name, **_STAYS}}
    place = {} if settings.namespace is None else {"namespace": settings.namespace}
    queue = {} if settings.queue is None else {_KUEUE_QUEUE: settings.queue}
    # Not all indexes at once, where the queue has no room for them.
    least = {_KUEUE_LEAST: "1"} if settings.queue is not None and spec["parallelism"] > 1 else {}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            **place,
            "labels": {**labels, **queue},
            "annotations": {
                names.STUDY_NAME: study.name,
                names.SETTINGS: settings_digest(study, images),
                names.CELLS: json.dumps(cells, separators=(",", ":")),
                **least,
            },
        },
        "spec": {
            **spec,
            **({} if settings.queue is None else {"suspend": True}),
            **({} if settings.keep_s is None else {"ttlSecondsAfterFinished": settings.keep_s}),
            "podReplacementPolicy": "Failed",
            "template": {"metadata": template, "spec": pod},
        },
    }
    if len(json.dumps(job)) > _MOST_JOB_BYTES:
        raise ConfigInvalid(
            f"a Job of {len(cells)} cycles is larger than a cluster stores.",
            "Take fewer experiments or cycles in one study, or an order other than sequential.",
        )
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **place, **about},
        "immutable": True,
        "data": inputs.data(),
    }
    return ClusterJob(name, job, config_map, cells)


def _no_failure(study: Study) -> list[Manifest]:
    """Evicted, preempted, or on a node that went away; a queue ends pods by a signal and gives no such reason."""
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return [disrupted] if study.kubernetes.queue is None else [disrupted, _rule("Ignore", ExitCode.INTERRUPTED)]


def _rule(action: str, *codes: int) -> Manifest:
    return {"action": action, "onExitCodes": {"operator": "In", "values": sorted(int(code) for code in codes)}}


def _digest(study: Study, jobs: Sequence[Job], inputs: _Inputs, images: Mapping[str, Image]) -> str:
    """Short name of exactly these cells, with all that their pods are made of: what is changed is another Job."""
    parts = (
        [(job.config_hash, job.cycle) for job in jobs],
        inputs.data(),
        settings_digest(study, images),
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def settings_digest(study: Study, images: Mapping[str, Image]) -> str:
    """Short name of what all of a study's pods are made of, beside what they measure."""
    parts = (
        {backend: image.reference for backend, image in images.items()},
        study.kubernetes.model_dump(mode="json"),
        (study.timeouts.job_s, study.retries.limit, study.launcher.exclusive, study.launcher.max_parallel),
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


class _Inputs:
    """Files of a ConfigMap."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._data: dict[str, str] = {}

    def config(self, experiment: Experiment) -> str:
        key = f"config-{experiment.config_hash}.json"
        self._data[key] = self._in_pod(experiment).model_dump_json()
        return key

    def context(self, job: Job, images: dict[str, Image], key: str | None = None) -> str:
        key = key or f"context-{job.config_hash}-c{job.cycle:03d}.json"
        study, image = self._study, images[job.config.backend]
        self._data[key] = JobContext(
            study=study.name,
            experiment=job.experiment.name if study.from_file else None,
            cycle=job.cycle,
            scheduling=Scheduling(placement=study.placement, order=study.order, seed=study.seed, position=job.position),
            measurement_config_hash=job.config_hash,
            image_name=image.name,
            image_repo_digest=image.digest and image.reference,
            launcher="kubernetes",
            gpu_uuids=[] if study.launcher.gpus == "none" else None,
        ).model_dump_json(exclude_none=True)
        return key

    def data(self) -> dict[str, str]:
        """
        Raises:
            ConfigInvalid: there is too much of it.
        """
        size = sum(len(key) + len(text.encode()) for key, text in self._data.items())
        if size > _MOST_BYTES:
            raise ConfigInvalid(
                f"a Job's configurations and prompts take {size / 1e6:.1f} MB, and a ConfigMap holds 1 MB.",
                "Use a shorter prompt file, or fewer experiments or cycles in one study.",
            )
        return dict(sorted(self._data.items()))

    def _in_pod(self, experiment: Experiment) -> ExperimentConfig:
        """With local files where the pod has them. The hash, which the job is told, is of what was here."""
        config = experiment.config
        for path in (config.model_path, config.drafter_path):
            if path is not None:
                raise ConfigInvalid(
                    f"experiment '{experiment.name}': {path} is a folder of this machine, which no pod sees.",
                    "Name the model as the hub does; kubernetes.models_claim can hold it.",
                )
        if config.prompt_file is None:
            return config
        source = f"{INPUTS_MOUNT}/{self._prompts(config.prompt_file)}"
        return config.model_copy(update={"workload": config.workload.model_copy(update={"source": source})})

    def _prompts(self, path: Path) -> str:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigInvalid(
                f"the prompt file {path} cannot be read ({error}).", "Correct workload.source."
            ) from None
        key = f"prompts-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
        self._data[key] = text
        return key
