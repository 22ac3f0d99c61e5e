"""The pod that runs jobs: the image as it is, one container per job, nothing that a restricted namespace refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from images.contract.job import (
    ARG_CONFIG,
    ARG_CONTEXT,
    ARG_DEADLINE,
    ARG_KEEP_GOING,
    ARG_OUTPUT,
    ARG_PUBLISH,
    ARG_REPORT,
    ARG_TRIES,
    ENV_HF_HUB_CACHE,
    ENV_JOB,
    ENV_NODE,
    ENV_POD,
    MODELS_MOUNT,
    RESULTS_MOUNT,
    ConfigInvalid,
)
from runner.cluster import names
from runner.studies.cluster_settings import KubernetesSettings
from runner.studies.study import Study

Manifest = dict[str, Any]

INPUTS_MOUNT = "/inputs"
_SCRATCH_MOUNT = "/scratch"
_TERMINATION_LOG = "/dev/termination-log"
_GRACE_S = 300
"""A job without a result leaves 5 s after it is told to; one that is publishing needs the rest."""
_CLAIM = "pvc://"
JOB_UID = "batch.kubernetes.io/controller-uid"
"""Label that the Job controller gives its pods."""
SHARING = "nvidia.com/gpu.sharing-strategy"
"""Label that NVIDIA's GPU feature discovery gives nodes whose GPUs are shared by time-slicing or MPS."""
SLICED = "nvidia.com/gpu.slices.gi"
"""And nodes whose slices (MIG) go by the name of whole GPUs."""


@dataclass(frozen=True, slots=True)
class Task:
    """One container.

    Attributes:
        limit_s: after which it ends itself as a failure.
        config_key, context_key: file names in the ConfigMap; the context's may hold ``$(NAME)`` of `environment`.
    """

    name: str
    image: str
    config_key: str
    context_key: str
    n_gpus: int
    limit_s: float
    environment: Sequence[Manifest] = ()


def pod_spec(
    study: Study, tasks: Sequence[Task], inputs: str, *, keep_going: bool, most_tries: int | None = None
) -> Manifest:
    """A pod whose tasks run one after another on the same GPUs: all but the last as init containers.

    Args:
        inputs: name of the ConfigMap with configurations and contexts.
        keep_going: a task that fails does not keep the next ones from running.
        most_tries: at one cycle, by pods that were killed meanwhile; None: the Job counts.
    """
    settings = study.kubernetes
    containers = [_container(study, task, keep_going, most_tries) for task in tasks]
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_S,
        # From when a node has it, not from when it waits for one; once more for the image.
        "activeDeadlineSeconds": round(sum(task.limit_s for task in tasks) + study.timeouts.job_s),
        "securityContext": _pod_security(settings),
        "initContainers": containers[:-1],
        "containers": containers[-1:],
        "volumes": _volumes(settings, inputs),
    }
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    if settings.priority_class is not None:
        spec["priorityClassName"] = settings.priority_class
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [toleration.manifest() for toleration in settings.tolerations]
    if affinity := _affinity(study, uses_gpus=any(task.n_gpus for task in tasks)):
        spec["affinity"] = affinity
    return {key: value for key, value in spec.items() if value != []}


def _container(study: Study, task: Task, keep_going: bool, most_tries: int | None) -> Manifest:
    settings = study.kubernetes
    arguments = [
        *(ARG_CONFIG, f"{INPUTS_MOUNT}/{task.config_key}"),
        *(ARG_CONTEXT, f"{INPUTS_MOUNT}/{task.context_key}"),
        *(ARG_OUTPUT, _SCRATCH_MOUNT),
        *(ARG_PUBLISH, place_of(study)),
        *(ARG_REPORT, _TERMINATION_LOG),
        *(ARG_DEADLINE, f"{task.limit_s:g}"),
        *((ARG_KEEP_GOING,) if keep_going else ()),
        *((ARG_TRIES, str(most_tries)) if most_tries is not None else ()),
    ]
    secrets = [settings.credentials_secret] if settings.credentials_secret is not None else []
    container: Manifest = {
        "name": task.name,
        "image": task.image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "env": [*task.environment, *_environment(settings)],
        "envFrom": [{"secretRef": {"name": name}} for name in secrets],
        "resources": _resources(settings, task.n_gpus),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(study),
    }
    return {key: value for key, value in container.items() if value != []}


def require_place(study: Study) -> None:
    """
    Raises:
        ConfigInvalid: nothing says where results go.
    """
    if study.kubernetes.results is None:
        raise ConfigInvalid(
            "nothing says where results go.",
            "Write kubernetes.results: pvc://CLAIM, or s3://BUCKET/PREFIX, into the study file.",
        )


def place_of(study: Study) -> str:
    """Where the job publishes to, as it sees it: each study has a place of its own."""
    results = str(study.kubernetes.results)
    return RESULTS_MOUNT if results.startswith(_CLAIM) else f"{results}/{names.folder_name(study)}"


def claim_of(study: Study) -> tuple[str, str]:
    """Name of the claim, and the study's folder in it."""
    name, _, folder = str(study.kubernetes.results).removeprefix(_CLAIM).partition("/")
    return name, str(PurePosixPath(folder) / names.folder_name(study))


def is_claim(settings: KubernetesSettings) -> bool:
    return str(settings.results).startswith(_CLAIM)


def _environment(settings: KubernetesSettings) -> list[Manifest]:
    variables: list[Manifest] = [
        {"name": ENV_NODE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": ENV_POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": ENV_JOB, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{JOB_UID}']"}}},
    ]
    if settings.models_claim is not None:
        variables.append({"name": ENV_HF_HUB_CACHE, "value": MODELS_MOUNT})
    if settings.endpoint_url is not None:
        variables.append({"name": "AWS_ENDPOINT_URL", "value": settings.endpoint_url})
    if settings.token_secret is not None:
        reference = {"name": settings.token_secret, "key": "HF_TOKEN"}
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return variables


def _resources(settings: KubernetesSettings, n_gpus: int) -> Manifest:
    """Requests are limits: a job that gets more on an idle node than on a busy one measures its neighbours."""
    amounts = {"cpu": settings.cpu, "memory": settings.memory, "ephemeral-storage": settings.ephemeral_storage}
    if n_gpus:
        amounts[settings.gpu_resource] = str(n_gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _pod_security(settings: KubernetesSettings) -> Manifest:
    security: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.run_as_user is not None:
        # Group 0 is what an image gives its files to, so that any user can run it.
        security |= {
            "runAsUser": settings.run_as_user,
            "runAsGroup": 0,
            "fsGroup": 0,
            "fsGroupChangePolicy": "OnRootMismatch",
        }
    return security


def _volumes(settings: KubernetesSettings, inputs: str) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "inputs", "configMap": {"name": inputs}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
    ]
    if is_claim(settings):
        claim = str(settings.results).removeprefix(_CLAIM).partition("/")[0]
        volumes.append({"name": "results", "persistentVolumeClaim": {"claimName": claim}})
    if settings.models_claim is not None:
        volumes.append(
            {"name": "models", "persistentVolumeClaim": {"claimName": settings.models_claim, "readOnly": True}}
        )
    return volumes


def _mounts(study: Study) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "inputs", "mountPath": INPUTS_MOUNT, "readOnly": True},
        {"name": "scratch", "mountPath": _SCRATCH_MOUNT},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if is_claim(study.kubernetes):
        mounts.append({"name": "results", "mountPath": RESULTS_MOUNT, "subPath": claim_of(study)[1]})
    if study.kubernetes.models_claim is not None:
        mounts.append({"name": "models", "mountPath": MODELS_MOUNT, "readOnly": True})
    return mounts


def _affinity(study: Study, *, uses_gpus: bool) -> Manifest:
    affinity: Manifest = {}
    if uses_gpus:
        # A node without the label shares nothing, and fits.
        shared = {"key": SHARING, "operator": "NotIn", "values": ["time-slicing", "mps"]}
        sliced = {"key": SLICED, "operator": "DoesNotExist"}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [shared, sliced]}]}
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    if study.launcher.exclusive:
        ours = {"matchLabels": {"app.kubernetes.io/name": names.APP, "app.kubernetes.io/component": "job"}}
        # Of every namespace: whose jobs they are does not matter to a GPU's neighbours.
        term = {"labelSelector": ours, "namespaceSelector": {}, "topologyKey": "kubernetes.io/hostname"}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return affinity
