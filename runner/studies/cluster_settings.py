"""What a study file may say about a Kubernetes cluster. None of it enters a configuration's hash."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from images.contract.config import BackendName
from runner.studies.settings import Part

_QUANTITY = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?)(?:m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_RESULTS = re.compile(r"pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)*|s3://[a-zA-Z0-9._-]+(/[^/]+)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_SHARED = re.compile(r".*\.shared|.*/mig-.*")


def _quantity(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"'{text}' is not a quantity such as 500m, 4, 16Gi")
    return text


def _results(text: str) -> str:
    if not _RESULTS.fullmatch(text) or ".." in text.split("/"):
        raise ValueError(f"'{text}' is neither pvc://CLAIM[/folder] nor s3://BUCKET[/prefix]")
    return text


def _whole_gpu(text: str) -> str:
    if _SHARED.fullmatch(text):
        raise ValueError(f"'{text}' is a part of a GPU, which has no energy of its own; whole ones are measured")
    return text


def _label_value(text: str) -> str:
    if not _LABEL_VALUE.fullmatch(text):
        raise ValueError(f"'{text}' is no label value: at most 63 letters, digits, '-', '_' and '.'")
    return text


def _label_key(text: str) -> str:
    if not _LABEL_KEY.fullmatch(text):
        raise ValueError(f"'{text}' is no label: write name or domain/name, of letters, digits, '-', '_' and '.'")
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(f"'{text}' is no namespace: at most 63 of a-z, 0-9 and '-'")
    return text


def _object(text: str) -> str:
    if not _OBJECT.fullmatch(text):
        raise ValueError(f"'{text}' is no name of an object: a-z, 0-9, '-' and '.'")
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]
LabelValue = Annotated[str, AfterValidator(_label_value)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
ObjectName = Annotated[str, AfterValidator(_object)]


class KubernetesSettings(Part):
    """Where in a cluster jobs run, with what, and where their results go."""

    namespace: Annotated[str, AfterValidator(_namespace)] | None = Field(None, description="null is the kubeconfig's")
    images: dict[BackendName, str] = Field(
        default_factory=dict, description="image of each backend, by digest: registry/name@sha256:..."
    )
    results: Annotated[str, AfterValidator(_results)] | None = Field(
        None, description="pvc://CLAIM[/folder] or s3://BUCKET[/prefix]; each study gets a folder of its own in it"
    )
    endpoint_url: str | None = Field(None, description="of object storage that is not AWS's")
    credentials_secret: ObjectName | None = Field(
        None, description="Secret whose keys are AWS_ACCESS_KEY_ID and the like; null: the service account's role"
    )
    token_secret: ObjectName | None = Field(None, description="Secret whose key HF_TOKEN opens gated models")
    models_claim: ObjectName | None = Field(
        None, description="PersistentVolumeClaim with a hub cache, read only, at /models"
    )
    image_pull_secrets: list[ObjectName] = Field(default_factory=list, description="Secrets for the registry")
    service_account: ObjectName | None = Field(None, description="its token is never mounted")
    gpu_resource: Annotated[str, AfterValidator(_whole_gpu)] = Field(
        "nvidia.com/gpu", description="what whole GPUs are called"
    )
    cpu: Quantity = Field("4", description="cores that each job is promised, and gets")
    memory: Quantity = Field("16Gi", description="of each job, and its limit")
    ephemeral_storage: Quantity = Field("20Gi", description="of each pod, for models without a claim and for scratch")
    shared_memory: Quantity = Field("8Gi", description="size of /dev/shm, which counts as memory")
    run_as_user: int | None = Field(12345, ge=1, description="any but root; null: the cluster chooses (OpenShift)")
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="labels that nodes must have")
    tolerations: list[dict[str, Any]] = Field(default_factory=list, description="as Kubernetes writes them")
    priority_class: ObjectName | None = Field(None, description="PriorityClass of the pods")
    queue: LabelValue | None = Field(None, description="Kueue's LocalQueue; jobs then begin suspended")
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, description="further labels, such as a cost centre"
    )
    keep_s: int | None = Field(None, ge=0, description="how long finished Jobs stay; null: until removed (s)")

    @model_validator(mode="after")
    def _needed_for_object_storage(self) -> Self:
        bucket = self.results is not None and self.results.startswith("s3://")
        given = [name for name in ("endpoint_url", "credentials_secret") if getattr(self, name) is not None]
        if given and not bucket:
            raise ValueError(f"{given[0]} is for results in object storage (results: s3://...)")
        return self
