"""What a study needs of a cluster, whether it is there, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from images.contract.job import ConfigInvalid
from runner.cluster.api import Api, AtQuota, NoTrial, Object
from runner.cluster.bucket import BucketSource
from runner.cluster.images import study_images
from runner.cluster.manifests import ClusterJob
from runner.cluster.nodes import check_nodes, needs_of
from runner.cluster.permissions import ADVICE, missing_permissions
from runner.cluster.pods import Manifest, claim_of, is_claim, place_of
from runner.cluster.quotas import check_quotas
from runner.cluster.render import first_cycles, study_jobs
from runner.launchers import LaunchFailed
from runner.studies.study import Study
from runner.view.checks import Check

_READABLE, _WRITABLE = ("ReadWriteMany", "ReadOnlyMany"), ("ReadWriteMany",)
_TOKEN_KEY = "HF_TOKEN"


def cluster_checks(study: Study) -> list[Check]:
    """One line each: the API server and namespace, permissions, images, the place of the results, what the settings
    name, a Job and its pod as the cluster takes them, quotas, nodes. Nothing is made.
    """
    try:
        api = Api(study.kubernetes.namespace)
        api.require_namespace()
    except LaunchFailed as error:
        return [Check("cluster", "problem", error.message, error.advice)]
    images = list(_images(study))
    is_whole = study.kubernetes.results is not None and all(one.state != "problem" for one in images)
    return [
        Check("cluster", "ok", f"{api.server}, namespace {api.namespace}"),
        _permissions(study, api),
        *images,
        *_results(study, api),
        *_models(study, api),
        *_secrets(study, api),
        *_queue(study, api),
        *_jobs(study, api, is_whole=is_whole),
    ]


def _permissions(study: Study, api: Api) -> Check:
    if missing := missing_permissions(study, api):
        return Check("permissions", "problem", f"you may not {', '.join(missing)}", ADVICE)
    return Check("permissions", "ok", "all that `runner run` needs")


def _images(study: Study) -> Iterator[Check]:
    try:
        for backend, image in study_images(study, allow_tag=True).items():
            if image.digest is None:
                step = "Name it by digest, as `make push` prints it, or run with --allow-tag."
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
        yield _claim("results", "results", claim_of(study)[0], api, _WRITABLE)
    else:
        place = place_of(study)
        try:
            BucketSource(place, study.kubernetes.endpoint_url)
            yield Check("results", "ok", f"{place} can be read from here")
        except LaunchFailed as error:
            yield Check("results", "problem", error.message, error.advice)


def _models(study: Study, api: Api) -> Iterator[Check]:
    if study.kubernetes.models_claim is not None:
        yield _claim("models", "models_claim", study.kubernetes.models_claim, api, _READABLE)


def _claim(what: str, field: str, name: str, api: Api, shared: Sequence[str]) -> Check:
    """
    Args:
        shared: access modes with which pods on several nodes can use it.
    """
    claims = api.look("persistentvolumeclaims", name)
    if claims is None:
        return Check(what, "warning", f"the claim {name} may not be looked at", "Ask for the Role of `--rbac`.")
    if not claims:
        return Check(what, "problem", f"there is no claim {name}", f"Make it, or correct kubernetes.{field}.")
    (found,) = claims
    phase, modes = found.get("status", {}).get("phase"), found["spec"].get("accessModes") or []
    storage_class = found["spec"].get("storageClassName") or "default"
    if phase != "Bound":
        step = f"Look at kubectl describe pvc {name}; some storage classes wait for the first pod."
        return Check(what, "warning", f"the claim {name} is {phase} (storage class {storage_class})", step)
    if not set(shared) & set(modes):
        step = f"Pods on other nodes cannot use it: take a {shared[0]} claim, or one node (node_selector)."
        return Check(what, "warning", f"the claim {name} is {', '.join(modes)}", step)
    return Check(what, "ok", f"the claim {name} is bound (storage class {storage_class})")


def _secrets(study: Study, api: Api) -> Iterator[Check]:
    """Of those that may be looked at."""
    settings = study.kubernetes
    for field, name in (("credentials_secret", settings.credentials_secret), ("token_secret", settings.token_secret)):
        found = None if name is None else api.look("secrets", name)
        if found == []:
            yield _missing(f"secret {name}", f"kubernetes.{field}")
        elif found and field == "token_secret" and _TOKEN_KEY not in (found[0].get("data") or {}):
            yield Check(f"secret {name}", "problem", f"it has no key {_TOKEN_KEY}", "Add the key to the Secret.")
        elif found:
            yield Check(f"secret {name}", "ok", f"it is there, for kubernetes.{field}")
    for name in settings.image_pull_secrets:
        if api.look("secrets", name) == []:
            step = "Make it, or correct kubernetes.image_pull_secrets; without it only public images are pulled."
            yield Check(f"secret {name}", "warning", "there is none", step)


def _queue(study: Study, api: Api) -> Iterator[Check]:
    name = study.kubernetes.queue
    found = None if name is None else api.look("localqueues", name)
    if found == []:
        yield _missing(f"queue {name}", "kubernetes.queue")
    for queue in found or ():
        conditions = (queue.get("status") or {}).get("conditions") or ()
        stopped = [one for one in conditions if one["type"] == "Active" and one["status"] == "False"]
        if stopped:
            step = "Ask who runs the queues; Jobs wait in it."
            yield Check(f"queue {name}", "warning", f"it is not active: {stopped[0].get('message')}", step)
        else:
            yield Check(f"queue {name}", "ok", "it takes Jobs")


def _missing(what: str, field: str) -> Check:
    return Check(what, "problem", "there is none in the namespace", f"Make it, or correct {field}.")


def _jobs(study: Study, api: Api, *, is_whole: bool) -> Iterator[Check]:
    """
    Args:
        is_whole: the study says all that its Jobs are made of; else only what their pods ask for is looked at.
    """
    try:
        jobs = study_jobs(study if is_whole else _sketch(study), range(1, first_cycles(study) + 1), allow_tag=True)
    except ConfigInvalid as error:
        yield Check("Jobs", "problem", error.message, error.advice)
        return
    resource = study.kubernetes.gpu_resource
    largest = max(jobs, key=lambda job: needs_of(_pod(job)).get(resource, 0))
    made = None
    if is_whole and api.may("create", "batch", "jobs"):
        check, made = _tried(largest, len(jobs), api)
        yield check
    if made is None:
        yield from _names_of_pods(study, api)
    pod = _pod(largest) if made is None else made["spec"]
    yield from check_quotas(pod, len(jobs), api.look("resourcequotas") or ())
    nodes = api.look("nodes")
    if nodes is not None:
        yield check_nodes(pod, nodes, resource, is_final=made is not None)
    elif resource in needs_of(pod):
        step = (
            "Ask whoever runs the cluster for nodes with whole GPUs, not shared by time-slicing or MPS, nor in slices."
        )
        yield Check("nodes", "warning", "they may not be looked at", step)
    else:
        yield Check("nodes", "ok", "they may not be looked at; the study asks for no GPUs")


def _sketch(study: Study) -> Study:
    """With something in the place of the images and the place for results."""
    images = {experiment.config.backend: "any" for experiment in study.experiments}
    return replace(study, kubernetes=study.kubernetes.model_copy(update={"images": images, "results": "pvc://any"}))


def _pod(job: ClusterJob) -> Manifest:
    spec: Manifest = job.manifest["spec"]["template"]["spec"]
    return spec


def _tried(job: ClusterJob, n_jobs: int, api: Api) -> tuple[Check, Object | None]:
    """What the cluster says to a Job and, if its pods may be made, to one of them; the pod as it would be."""
    template = job.manifest["spec"]["template"]
    about = {**template["metadata"], "generateName": f"{job.name}-"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]}
    made = None
    try:
        api.tried(job.manifest)
        if api.may("create", "", "pods"):
            made = api.tried(pod)
    except (AtQuota, NoTrial) as error:
        return Check("dry run", "warning", error.message, error.advice), None
    except LaunchFailed as error:
        return Check("dry run", "problem", error.message, error.advice), None
    if made is None:
        return Check("dry run", "ok", f"a Job of {n_jobs} is taken; whether its pods are, shows later"), None
    return Check("dry run", "ok", f"a Job of {n_jobs} is taken, and a pod of it"), made


def _names_of_pods(study: Study, api: Api) -> Iterator[Check]:
    """What only a pod that is made shows, as far as it may be looked at."""
    settings = study.kubernetes
    if settings.service_account is not None and api.look("serviceaccounts", settings.service_account) == []:
        yield _missing(f"service account {settings.service_account}", "kubernetes.service_account")
    if settings.priority_class is not None and api.look("priorityclasses", settings.priority_class) == []:
        step = "Make it, or correct kubernetes.priority_class."
        yield Check(f"priority class {settings.priority_class}", "problem", "there is none in the cluster", step)
