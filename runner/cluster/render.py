"""Manifests as text: a study's, and the Role that its runner needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import yaml

from runner.cluster import names
from runner.cluster.images import study_images
from runner.cluster.manifests import ClusterJob, cluster_jobs
from runner.cluster.pods import Manifest, is_claim, require_place
from runner.studies.cluster_settings import KubernetesSettings
from runner.studies.study import Study

Rules: TypeAlias = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
"""API group, resources of it, and what may be done with them."""

RULES: Rules = (
    ("batch", ("jobs",), ("create", "delete", "get", "list", "watch")),
    ("", ("configmaps",), ("create", "delete", "get", "list")),
    ("", ("pods",), ("create", "delete", "get", "list", "watch")),
    ("", ("pods/log", "pods/proxy"), ("get",)),
    ("", ("events", "persistentvolumeclaims", "resourcequotas"), ("get", "list")),
)
"""Of any study."""
_OF_CLAIMS = (("create", "pods"), ("get", "pods/proxy"))
"""Only a claim is read through a pod of ours."""


def render_study(study: Study, *, allow_tag: bool) -> str:
    """Everything that `kubectl apply` needs to run the study; of an adaptive one its pilot.

    Raises:
        ConfigInvalid: something that a cluster needs to know is not said.
    """
    jobs = study_jobs(study, range(1, first_cycles(study) + 1), allow_tag=allow_tag)
    return _text(manifest for job in jobs for manifest in (job.inputs, job.manifest))


def study_jobs(study: Study, cycles: Iterable[int], *, allow_tag: bool) -> list[ClusterJob]:
    """
    Raises:
        ConfigInvalid: something that a cluster needs to know is not said.
    """
    require_place(study)
    images = study_images(study, allow_tag=allow_tag)
    return cluster_jobs(study, list(cycles), images, on_cpu=study.launcher.gpus == "none")


def describe_jobs(study: Study, *, allow_tag: bool) -> list[str]:
    """A line for each Job: what it runs, in which order.

    Raises:
        ConfigInvalid: something that a cluster needs to know is not said.
    """
    named = {one.config_hash: one.name for one in study.experiments}
    lines = []
    for job in study_jobs(study, range(1, first_cycles(study) + 1), allow_tag=allow_tag):
        cells = [f"{named[config_hash]} c{cycle:03d}" for config_hash, cycle in job.cells]
        how = "one after another in one pod" if len(job.cells) > 1 else "alone"
        if job.manifest["spec"].get("completionMode") == "Indexed":
            how = f"{job.manifest['spec']['parallelism']} at a time"
        lines.append(f"Job {job.name}: {', '.join(cells)}, {how}")
    return lines


def first_cycles(study: Study) -> int:
    """How many cycles are known to be wanted: all, or the pilot's."""
    return study.cycles if isinstance(study.cycles, int) else study.cycles.min


def rules_of(settings: KubernetesSettings) -> Rules:
    """What whoever runs a study has to be allowed."""
    if settings.results is None or is_claim(settings):
        return RULES
    needed = []
    for group, resources, verbs in RULES:
        each = {name: tuple(verb for verb in verbs if (verb, name) not in _OF_CLAIMS) for name in resources}
        for left in dict.fromkeys(each.values()):
            if left:
                needed.append((group, tuple(name for name in resources if each[name] == left), left))
    return tuple(needed)


def render_rbac(namespace: str | None, rules: Rules = RULES) -> str:
    """A Role for `runner run --launcher kubernetes`, to be bound to whoever runs it. Nothing of it is cluster-wide."""
    place = {} if namespace is None else {"namespace": namespace}
    about = {"name": f"{names.APP}-runner", **place, "labels": {"app.kubernetes.io/name": names.APP}}
    allowed = [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)} for group, resources, verbs in rules
    ]
    return _text([{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": about, "rules": allowed}])


class _Dumper(yaml.SafeDumper):
    """Every mapping is written in full where it stands."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(manifests: Iterable[Manifest]) -> str:
    return yaml.dump_all(
        manifests, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10_000, allow_unicode=True
    )
