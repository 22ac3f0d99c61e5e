"""Jobs small enough to follow by eye, and the official client connected to the API of these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubernetes import config

from tests.runner.cluster.api_server import ApiServer
from tests.runner.cluster.object_store import Object

SPACE = "bench"
IGNORE_DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def connection(api: ApiServer, folder: Path) -> Any:
    return config.new_client_from_config(str(api.kubeconfig(folder / "kubeconfig", SPACE)))


def job(name: str = "study", *, init: int = 0, **spec: Any) -> Object:
    containers = [{"name": f"task-{number}", "image": f"image-{number}"} for number in range(init + 1)]
    pod: Object = {"restartPolicy": "Never", "containers": containers[-1:]}
    if init:
        pod["initContainers"] = containers[:-1]
    return {
        "metadata": {"name": name},
        "spec": {**spec, "template": {"metadata": {"labels": {"of": "us"}}, "spec": pod}},
    }


def indexed(completions: int, **spec: Any) -> Object:
    return job(completionMode="Indexed", completions=completions, parallelism=completions, **spec)


def rule(action: str, *codes: int) -> Object:
    return {"action": action, "onExitCodes": {"operator": "In", "values": list(codes)}}


def conditions(one: Object) -> dict[str, str]:
    """Reason of each that holds."""
    return {each["type"]: each.get("reason", "") for each in one["status"]["conditions"] if each["status"] == "True"}


def index_of(pod: Object) -> int:
    return int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])
