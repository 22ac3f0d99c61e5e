"""What `runner doctor` asks a Docker engine. Nothing is pulled, and nothing stays."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import DeviceRequest
from requests.exceptions import RequestException

from images.contract.job import CONTRACT_VERSION, LABEL_CONTRACT, LABEL_REVISION
from runner.launchers.docker import image_name
from runner.view.checks import Check, check_space

_UNAVAILABLE = (DockerException, RequestException)
_ANSWER_S = 10
_TOOLKIT = (
    "Install the NVIDIA Container Toolkit, run `nvidia-ctk runtime configure --runtime=docker` and restart Docker; "
    "or use --gpus none."
)


class Engine:
    """An engine that answers.

    Raises:
        DockerException, RequestException: it does not; `engine_check` says so in words.
    """

    def __init__(self) -> None:
        self._client = docker.from_env(timeout=_ANSWER_S)
        self.version = str(self._client.version()["Version"])

    def image_check(self, backend: str, checkout_revision: str | None) -> tuple[Check, str | None]:
        """Also its content id, if it can be run."""
        reference = image_name(backend)
        name, build = f"image {reference}", f"Run `make image BACKEND={backend}`."
        try:
            image = self._client.images.get(reference)
        except ImageNotFound:
            return Check(name, "problem", "not built", build), None
        except _UNAVAILABLE as error:
            return Check(name, "problem", f"cannot be looked at ({_reason(error)})", "See `docker images`."), None
        contract, revision = image.labels.get(LABEL_CONTRACT), image.labels.get(LABEL_REVISION)
        if contract != CONTRACT_VERSION:
            found = f"built for contract {contract}; this runner speaks {CONTRACT_VERSION}"
            return Check(name, "problem", found, build), None
        if checkout_revision is not None and revision != checkout_revision:
            found = f"built from revision {revision}; this checkout is at {checkout_revision}"
            return Check(name, "warning", found, build), image.id
        return Check(name, "ok", f"contract {contract}, revision {revision}"), image.id

    def gpu_check(self, image_id: str, gpu_uuids: Sequence[str]) -> Check:
        """Start a container with these GPUs that does nothing: no setting of the engine tells it as surely."""
        name = "GPUs in containers"
        container = f"joulehouse-doctor-{secrets.token_hex(4)}"
        request = DeviceRequest(device_ids=list(gpu_uuids), capabilities=[["gpu"]])
        try:
            started: Any = self._client.containers.create(
                image_id,
                name=container,
                entrypoint=["true"],
                device_requests=[request],
                network_mode="none",
                cap_drop=["ALL"],
            )
            started.start()
            code = int(started.wait(timeout=_ANSWER_S)["StatusCode"])
        except _UNAVAILABLE as error:
            reason = _reason(error)
            lacks_toolkit = "could not select device driver" in reason
            found = "Docker has no NVIDIA support" if lacks_toolkit else f"Docker cannot give them ({reason})"
            return Check(name, "problem", found, _TOOLKIT)
        finally:
            # By name: an engine that answers too late may have made it all the same.
            with contextlib.suppress(*_UNAVAILABLE):
                self._client.containers.get(container).remove(force=True, v=True)
        if code:
            return Check(name, "problem", f"a container with them ended with exit code {code}", _TOOLKIT)
        return Check(name, "ok", f"a container was started with {len(gpu_uuids)}")

    def space_check(self) -> Check | None:
        """Room for images and containers; None if the engine's disk is not this host's."""
        if not self._client.api.base_url.startswith("http+docker://"):
            return None
        try:
            root = str(self._client.info()["DockerRootDir"])
        except _UNAVAILABLE as error:
            return Check(
                "Docker's disk", "warning", f"the engine does not say ({_reason(error)})", "See `docker info`."
            )
        step = "Remove images that are not needed any more: `docker image prune`."
        return check_space("Docker's disk", Path(root), 10.0, 0.5, step)


def engine_check() -> tuple[Check, Engine | None]:
    """Whether an engine answers, and which."""
    try:
        engine = Engine()
    except _UNAVAILABLE as error:
        reason = _reason(error)
        where = os.environ.get("DOCKER_HOST")
        found = f"no engine answers{f' at {where}' if where else ''} ({reason})"
        step = "Start it, or use --launcher local."
        if "Permission denied" in reason:
            step = "Become a member of the group docker and log in again, or use --launcher local."
        return Check("Docker", "problem", found, step), None
    return Check("Docker", "ok", f"engine {engine.version}"), engine


def _reason(error: Exception) -> str:
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return " ".join(str(text).split())[:200] or type(error).__name__
