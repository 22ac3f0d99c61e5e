"""What a study file may say about a Kubernetes cluster. None of it enters a configuration's hash."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from images.contract.config import BackendName
from runner.studies.settings import Part

_QUANTITY = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?)(?:m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
_RESULTS = re.compile(r"pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/]+)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_OURS = ("joulehouse.io", "kubernetes.io", "k8s.io")
_SHARED = re.compile(r".*\.shared|.*/mig-.*")


def _quantity(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"'{text}' is not a quantity such as 500m, 4, 16Gi")
    if not _amount(text):
        raise ValueError(f"'{text}' is nothing; a job needs some")
    return text


def _amount(quantity: str) -> float:
    number = quantity.rstrip("mkMGTi")
    return float(number) * _FACTORS[quantity[len(number) :]]


def _results(text: str) -> str:
    if not _RESULTS.fullmatch(text) or ".." in text.split("/"):
        raise ValueError(f"'{text}' is neither pvc://CLAIM[/folder] nor s3://BUCKET[/prefix]")
    return text


def _whole_gpu(text: str) -> str:
    if _SHARED.fullmatch(text):
        raise ValueError(f"'{text}' is a part of a GPU, which has no energy of its own; whole ones are measured")
    return text


def _not_ours(text: str) -> str:
    if text.partition("/")[0].endswith(_OURS):
        raise ValueError(f"'{text}' is what joulehouse or Kubernetes write themselves")
    return text


def _named(pattern: re.Pattern[str], what: str) -> AfterValidator:
    """Names as Kubernetes takes them."""

    def checked(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"'{text}' is no {what}")
        return text

    return AfterValidator(checked)


Quantity = Annotated[str, AfterValidator(_quantity)]
LabelValue = Annotated[str, _named(_LABEL_VALUE, "label value: at most 63 letters, digits, '-', '_' and '.'")]
LabelKey = Annotated[str, _named(_LABEL_KEY, "label: write name or domain/name, of letters, digits, '-', '_' and '.'")]
OwnLabelKey = Annotated[LabelKey, AfterValidator(_not_ours)]
Namespace = Annotated[str, _named(_NAMESPACE, "namespace: at most 63 of a-z, 0-9 and '-'")]
ObjectName = Annotated[str, _named(_OBJECT, "name of an object: a-z, 0-9, '-' and '.'")]


class Toleration(Part):
    """A taint of nodes that pods may go to all the same, in Kubernetes' own words."""

    key: LabelKey | None = Field(None, description="of the taint; null, with operator Exists: every one")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Exists: whatever the taint's value is")
    value: LabelValue | None = Field(None, description="of the taint, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="null: each")
    toleration_seconds: int | None = Field(
        None, ge=0, alias="tolerationSeconds", description="how long, with effect NoExecute; null: for ever (s)"
    )

    def manifest(self) -> dict[str, str | int]:
        """As Kubernetes writes it."""
        written: dict[str, str | int] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return written

    @model_validator(mode="after")
    def _as_kubernetes_takes_it(self) -> Self:
        if self.key is None and self.operator != "Exists":
            raise ValueError("a toleration without key needs operator Exists")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a toleration with operator Exists has no value")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds is for effect NoExecute")
        return self


class KubernetesSettings(Part):
    """Where in a cluster jobs run, with what, and where their results go."""

    namespace: Namespace | None = Field(
        None, description="null is the kubeconfig's, or in a cluster the service account's"
    )
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
    tolerations: list[Toleration] = Field(default_factory=list, description="as Kubernetes writes them")
    priority_class: ObjectName | None = Field(None, description="PriorityClass of the pods")
    queue: LabelValue | None = Field(None, description="Kueue's LocalQueue; jobs then begin suspended")
    labels: dict[OwnLabelKey, LabelValue] = Field(
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

    @model_validator(mode="after")
    def _shared_memory_is_memory(self) -> Self:
        if _amount(self.shared_memory) > _amount(self.memory):
            raise ValueError(f"shared_memory ({self.shared_memory}) is a part of memory ({self.memory}), and larger")
        return self
