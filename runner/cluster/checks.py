"""What a study needs of a cluster, whether it is there, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from images.contract.job import ConfigInvalid
from runner.cluster.api import Api
from runner.cluster.bucket import BucketSource
from runner.cluster.images import study_images
from runner.cluster.pods import SHARING, claim_of, is_claim, place_of
from runner.cluster.render import RULES
from runner.launchers import LaunchFailed
from runner.studies.study import Study
from runner.view.checks import Check

_OF_CLAIMS = (("create", "pods"), ("get", "pods/proxy"))
"""Only a claim is read through a pod of ours."""


def cluster_checks(study: Study) -> list[Check]:
    """One line each: the API server and namespace, permissions, images, the place of the results, quota, GPUs."""
    try:
        api = Api(study.kubernetes.namespace)
        api.require_namespace()
    except LaunchFailed as error:
        return [Check("cluster", "problem", error.message, error.advice)]
    return [
        Check("cluster", "ok", f"{api.server}, namespace {api.namespace}"),
        _permissions(study, api),
        *_images(study),
        *_results(study, api),
        *_quota(study, api),
        _gpus(study, api),
    ]


def _permissions(study: Study, api: Api) -> Check:
    needed = [
        (verb, group, resource)
        for group, resources, verbs in RULES
        for resource in resources
        for verb in verbs
        if (verb, resource) not in _OF_CLAIMS or is_claim(study.kubernetes)
    ]
    missing = [f"{verb} {resource}" for verb, group, resource in needed if not api.may(verb, group, resource)]
    if missing:
        step = "Ask for the Role that `runner render --rbac` prints."
        return Check("permissions", "problem", f"you may not {', '.join(missing)}", step)
    return Check("permissions", "ok", "all that `runner run` needs")


def _images(study: Study) -> Iterator[Check]:
    try:
        for backend, image in study_images(study, allow_tag=True).items():
            if image.digest is None:
                step = "Name it by digest, as `make push` prints it."
                yield Check(f"image {backend}", "warning", f"{image.reference} is a tag", step)
            else:
                yield Check(
                    f"image {backend}", "ok", f"{image.reference}; whether it can be pulled, its first pod shows"
                )
    except ConfigInvalid as error:
        yield Check("images", "problem", error.message, error.advice)


def _results(study: Study, api: Api) -> Iterator[Check]:
    if study.kubernetes.results is None:
        step = "Write kubernetes.results: pvc://CLAIM, or s3://BUCKET/PREFIX."
        yield Check("results", "problem", "nothing says where they go", step)
    elif is_claim(study.kubernetes):
        name = claim_of(study)[0]
        yield _claim(name, api.look("persistentvolumeclaims"))
    else:
        place = place_of(study)
        try:
            BucketSource(place, study.kubernetes.endpoint_url)
            yield Check("results", "ok", f"{place} can be read from here")
        except LaunchFailed as error:
            yield Check("results", "problem", error.message, error.advice)


def _claim(name: str, claims: list[dict[str, Any]] | None) -> Check:
    found = next((one for one in claims or () if one["metadata"]["name"] == name), None)
    if claims is None:
        return Check("results", "warning", f"the claim {name} may not be looked at", "Ask for the Role of `--rbac`.")
    if found is None:
        return Check("results", "problem", f"there is no claim {name}", "Make it, or correct kubernetes.results.")
    phase, modes = found.get("status", {}).get("phase"), found["spec"].get("accessModes") or []
    storage_class = found["spec"].get("storageClassName") or "default"
    if phase != "Bound":
        step = f"Look at kubectl describe pvc {name}; some storage classes wait for the first pod."
        return Check("results", "warning", f"the claim {name} is {phase} (storage class {storage_class})", step)
    if "ReadWriteMany" not in modes:
        step = "Pods on other nodes cannot use it: take a ReadWriteMany claim, or one node (node_selector)."
        return Check("results", "warning", f"the claim {name} is {', '.join(modes)}", step)
    return Check("results", "ok", f"the claim {name} is bound (storage class {storage_class})")


def _quota(study: Study, api: Api) -> Iterator[Check]:
    resource = study.kubernetes.gpu_resource
    needed = max(one.n_gpus for one in study.experiments)
    for quota in api.look("resourcequotas") or ():
        hard, used = (quota.get("status", {}).get(part) or {} for part in ("hard", "used"))
        limit = hard.get(f"requests.{resource}")
        if limit is None or study.launcher.gpus == "none":
            continue
        free = int(limit) - int(used.get(f"requests.{resource}", 0))
        found = f"{free} of {limit} GPUs left by {quota['metadata']['name']}"
        if needed > int(limit):
            yield Check("quota", "problem", f"{found}; a job needs {needed}", "Ask for a larger quota.")
        elif needed > free:
            yield Check("quota", "warning", f"{found}; a job needs {needed} and will wait", "Wait for room.")
        else:
            yield Check("quota", "ok", found)


def _gpus(study: Study, api: Api) -> Check:
    resource = study.kubernetes.gpu_resource
    if study.launcher.gpus == "none":
        return Check("GPUs", "ok", "the study asks for none")
    nodes = api.look("nodes")
    if nodes is None:
        step = "Ask whoever runs the cluster for nodes with whole GPUs, not shared by time-slicing or MPS."
        return Check("GPUs", "warning", "nodes may not be looked at", step)
    each = [int((node["status"].get("allocatable") or {}).get(resource, 0)) for node in nodes if _fits(study, node)]
    needed = max(one.n_gpus for one in study.experiments)
    found = f"{sum(each)} allocatable as {resource} on {sum(count > 0 for count in each)} nodes that fit"
    if max(each, default=0) < needed:
        step = "Correct kubernetes.{gpu_resource, node_selector}, or install NVIDIA's device plugin."
        return Check("GPUs", "problem", f"{found}; a job needs {needed} on one node", step)
    return Check("GPUs", "ok", found)


def _fits(study: Study, node: Mapping[str, Any]) -> bool:
    """Whether pods may go there: the selected labels, and whole GPUs."""
    labels = node["metadata"].get("labels") or {}
    shared = labels.get(SHARING) in ("time-slicing", "mps")
    return not shared and all(labels.get(name) == value for name, value in study.kubernetes.node_selector.items())
