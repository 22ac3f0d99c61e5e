"""Studies for a cluster, and the manifests made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import yaml

from runner.cluster.render import render_study
from runner.studies.cluster_settings import KubernetesSettings
from runner.studies.study import Study
from tests.runner.sample_studies import study

DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGES = {name: f"registry.example:5000/team/joulehouse-{name}@{DIGEST}" for name in ("pytorch", "vllm", "trt", "stub")}
SETTINGS: dict[str, Any] = {"namespace": "bench", "images": IMAGES, "results": "pvc://results/team-a"}


def cluster_study(*names: str, kubernetes: dict[str, Any] | None = None, **fields: Any) -> Study:
    settings = KubernetesSettings.model_validate(SETTINGS | (kubernetes or {}))
    return replace(study(*names, **fields), kubernetes=settings, from_file=True)


def manifests(wanted: Study, *, allow_tag: bool = False) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render_study(wanted, allow_tag=allow_tag)))


def jobs(wanted: Study) -> list[dict[str, Any]]:
    return [one for one in manifests(wanted) if one["kind"] == "Job"]


def inputs_of(config_map: dict[str, Any]) -> dict[str, Any]:
    """What a ConfigMap holds, parsed where it is JSON."""
    return {key: json.loads(text) if key.endswith(".json") else text for key, text in config_map["data"].items()}


def pod(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    """In the order in which they run."""
    return [*pod(job).get("initContainers", []), *pod(job)["containers"]]
