"""Jobs as containers of this host's Docker engine.

Containers are never removed by the engine, which would lose the exit code, and never by chance left
behind: whoever starts one waits, inspects, reads its log and removes it. They have no network and no token;
models are on the host before they start, and they see the one that they read, read-only.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Mount
from requests.exceptions import RequestException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from images.contract.config import ExperimentConfig
from images.contract.job import (
    ARG_CONFIG,
    ARG_CONTEXT,
    ARG_OUTPUT,
    CONFIG_FILE,
    CONTEXT_FILE,
    CONTRACT_VERSION,
    LABEL_CONTRACT,
    LABEL_REVISION,
    RESULTS_MOUNT,
)
from runner.hub import hub_cache
from runner.launchers import (
    LOG_TAIL_LINES,
    Ended,
    EngineAway,
    Identity,
    LaunchFailed,
    LaunchImpossible,
    Running,
    Slot,
    require_backend,
)
from runner.launchers.host_files import environment, local_files, require_readable, seen_of_the_host
from runner.layout import Attempt, take_back

LABEL_STUDY = "io.joulehouse.study"
LABEL_ATTEMPT = "io.joulehouse.attempt"
_GRACE_S = 8
_PATIENCE_S = 120
"""Longest that an engine may be away, as when it is upgraded."""
_LOST_S = 180
_RETRY_S = 0.5
_WAIT_S = 7 * 24 * 3600
_CONNECTIONS = 64
_ROOT_RUNS_AS = 12345
_KILLED = 137
_LOST_BY_ENGINE = 255
_UNAVAILABLE = (DockerException, RequestException)


def image_name(backend: str) -> str:
    """The name that `make image` gives."""
    return f"joulehouse-{backend}:latest"


class DockerJob:
    """A container, from creation to removal.

    When the engine is stopped or upgraded it ends its containers as `docker stop` does: the job's own 16, or 143 of
    one that had not come to its signal handlers, or 137 after the grace period. An engine that was killed does the
    same once it is back, to containers that still run. Of those that ended without it, with the host for instance,
    it knows nothing and reports 255 (tried with 20.10; 23.0 to 24.0.2 report 0), which no job ends with: that
    counts as killed from outside.
    """

    def __init__(self, container: Any, attempt: Attempt) -> None:
        self._container = container
        self._attempt = attempt
        self._over = threading.Event()
        self._silent_since_s: float | None = None

    def watch(self) -> DockerJob:
        """Wait for the end in a thread: asking again and again would take the CPU from what is measured."""
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def poll(self) -> Ended | None:
        silent_since_s = self._silent_since_s
        if silent_since_s is not None and time.monotonic() - silent_since_s > _LOST_S:
            raise EngineAway(
                f"the Docker engine has not answered for {_LOST_S} s.",
                "Start it and run again; that ends the job, or keeps what it has finished.",
            )
        if not self._over.is_set():
            return None
        try:
            self._container.reload()
        except NotFound:
            return Ended(exit_code=_KILLED, log_tail=["the container was removed from outside"])
        except _UNAVAILABLE:
            self._silent()
            return None
        self._silent_since_s = None
        state = self._container.attrs["State"]
        if state["Running"]:  # an engine that shuts down may let go of those who wait
            self._over.clear()
            self.watch()
            return None
        code, log_tail = int(state["ExitCode"]), self._log_tail()
        if code == _LOST_BY_ENGINE and self._attempt.finished_directory() is None:
            code = _KILLED
            log_tail.append("the Docker engine does not know how the container ended: it, or the host, went down")
        return Ended(code, bool(state["OOMKilled"]), log_tail)

    def _log_tail(self) -> list[str]:
        try:
            text: str = self._container.logs(tail=LOG_TAIL_LINES).decode(errors="replace")
        except _UNAVAILABLE as error:
            return [f"the container's log cannot be read: {_reason(error)}"]
        return text.splitlines()

    def kill(self) -> None:
        self._insist("ended", lambda: self._container.stop(timeout=_GRACE_S))

    def collect(self) -> None:
        take_back(self._attempt.folder)

    def remove(self) -> None:
        self._insist("removed", lambda: self._container.remove(force=True, v=True))

    def _wait(self) -> None:
        while True:
            try:
                self._container.reload()  # an engine that is back is heard of at once, not when the job ends
                self._silent_since_s = None
                self._container.wait(timeout=_WAIT_S)
            except NotFound:
                break
            except _UNAVAILABLE:
                self._silent()
                time.sleep(1)
            else:
                break
        self._over.set()

    def _silent(self) -> None:
        self._silent_since_s = self._silent_since_s or time.monotonic()

    def _insist(self, done: str, call: Callable[[], object]) -> None:
        """An engine that restarts is given some time."""
        try:
            _patiently(_is_refusal_or_away)(lambda: _unless_gone(call))
        except _UNAVAILABLE as error:
            raise _failed(error)(
                f"the container {self._container.name} could not be {done} ({_reason(error)}).",
                "Start Docker and run again; that ends it and keeps what it has finished.",
            ) from None


class DockerLauncher:
    """
    Args:
        memory: most memory of a container, as Docker writes it (``8g``); None is no limit.
        models: hub cache on this host; None is the calling user's own, so that what any tool of theirs has
            downloaded is used.
    """

    name = "docker"

    def __init__(self, memory: str | None = None, models: Path | None = None) -> None:
        self._memory = memory
        self._images: dict[str, str] = {}
        self._models = (models or hub_cache.hub_cache()).absolute()
        try:
            self._client = docker.from_env(max_pool_size=_CONNECTIONS)  # many threads share it
            self._client.ping()
        except _UNAVAILABLE as error:
            raise EngineAway(
                f"no Docker engine answers ({_reason(error)}).", "Start it, or use --launcher local."
            ) from None

    def check(self, config: ExperimentConfig) -> Identity:
        require_backend(config.backend)
        name = image_name(config.backend)
        with _launch_errors():
            try:
                image = _patiently(_is_away)(self._client.images.get, name)
            except ImageNotFound:
                raise LaunchImpossible(
                    f"the image {name} is not built.", f"Run `make image BACKEND={config.backend}`."
                ) from None
        require_readable(local_files(config), _container_uid())
        contract = image.labels.get(LABEL_CONTRACT)
        if contract != CONTRACT_VERSION:
            raise LaunchImpossible(
                f"the image {name} was built for contract {contract}; this runner speaks {CONTRACT_VERSION}.",
                f"Run `make image BACKEND={config.backend}`.",
            )
        # The tag may move while a study runs; every cycle runs, and names, the image that was checked.
        self._images[config.backend] = image.id
        digests = image.attrs.get("RepoDigests") or [None]
        return Identity(image.labels.get(LABEL_REVISION), name, image.id, digests[0])

    def start(self, study: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        uid = _container_uid()
        name = f"joulehouse-{attempt.folder.name}"
        try:
            seen = seen_of_the_host(config, attempt.folder, self._models, _container_uid())
            if uid != os.getuid():
                for path in (attempt.folder, attempt.config, attempt.context):
                    os.chown(path, uid, 0)
            with _launch_errors():
                container = _patiently(_is_away)(
                    self._ensure_started,
                    name,
                    image=self._images[config.backend],
                    command=_arguments(),
                    labels={LABEL_STUDY: study, LABEL_ATTEMPT: str(attempt.folder)},
                    user=f"{uid}:0",
                    environment=environment(config),
                    mounts=[Mount(one.target, str(one.source), type="bind", read_only=one.read_only) for one in seen],
                    device_requests=_device_requests(slot),
                    network_mode="none",
                    read_only=True,
                    tmpfs={"/tmp": "rw,exec,nosuid,nodev,mode=1777"},  # torch.compile runs what it builds there
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    init=True,
                    shm_size="1g",
                    mem_limit=self._memory,
                    memswap_limit=self._memory,
                    # Whatever the engine's default is, this one can be read, and is bounded.
                    log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m"}),
                )
        except BaseException:
            # By name: an engine that answers too late may have made it all the same.
            with contextlib.suppress(*_UNAVAILABLE):
                self._client.containers.get(name).remove(force=True, v=True)
            take_back(attempt.folder)
            raise
        return DockerJob(container, attempt).watch()

    def find(self, below: Path) -> list[tuple[Attempt, Running]]:
        of_jobs = {"label": LABEL_ATTEMPT}
        with _launch_errors():
            list_ = partial(self._client.containers.list, all=True, filters=of_jobs, ignore_removed=True)
            containers = _patiently(_is_away)(list_)
        attempts = [(Attempt(Path(container.labels[LABEL_ATTEMPT])), container) for container in containers]
        return [
            (attempt, DockerJob(container, attempt))
            for attempt, container in attempts
            if attempt.folder.is_relative_to(below)
        ]

    def _ensure_started(self, name: str, **options: Any) -> Any:
        """The container, once; also when an engine that went away in between had made or started it."""
        try:
            container = self._client.containers.get(name)
        except NotFound:
            container = self._client.containers.create(name=name, **options)
        if container.status == "created":
            container.start()
        return container


def _unless_gone(call: Callable[[], object]) -> None:
    with contextlib.suppress(NotFound):
        call()


def _arguments() -> list[str]:
    config, context = f"{RESULTS_MOUNT}/{CONFIG_FILE}", f"{RESULTS_MOUNT}/{CONTEXT_FILE}"
    return [ARG_CONFIG, config, ARG_CONTEXT, context, ARG_OUTPUT, RESULTS_MOUNT]


def _container_uid() -> int:
    """The caller's, so that files are the caller's; never root."""
    return os.getuid() or _ROOT_RUNS_AS


def _device_requests(slot: Slot) -> list[DeviceRequest]:
    if not slot.gpu_uuids:
        return []
    return [DeviceRequest(device_ids=list(slot.gpu_uuids), capabilities=[["gpu"]])]


@contextlib.contextmanager
def _launch_errors() -> Iterator[None]:
    try:
        yield
    except _UNAVAILABLE as error:
        reason = _reason(error)
        if "could not select device driver" in reason:
            raise LaunchImpossible(
                "Docker cannot give GPUs to containers here.",
                "Install the NVIDIA Container Toolkit and restart Docker, or use --gpus none.",
            ) from None
        if isinstance(error, ImageNotFound):
            raise LaunchImpossible(f"the image is gone: {reason}.", "Run `make image` again.") from None
        if _failed(error) is EngineAway:
            raise EngineAway(
                f"the Docker engine does not answer ({reason}).", "Start it, or use --launcher local."
            ) from None
        raise LaunchFailed(f"Docker refused: {reason}.", "See `docker info`, or use --launcher local.") from None


def _failed(error: Exception) -> type[LaunchFailed]:
    return EngineAway if _is_away(error) else LaunchFailed


def _is_away(error: BaseException) -> bool:
    """Whether no answer came; an APIError is one, though it is a RequestException, too."""
    return isinstance(error, RequestException) and not isinstance(error, APIError)


def _is_refusal_or_away(error: BaseException) -> bool:
    return isinstance(error, _UNAVAILABLE)


def _patiently(passing: Callable[[BaseException], bool]) -> Retrying:
    return Retrying(
        retry=retry_if_exception(passing),
        stop=stop_after_delay(_PATIENCE_S),
        wait=wait_fixed(_RETRY_S),
        reraise=True,
    )


def _reason(error: Exception) -> str:
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return str(text).strip().splitlines()[0][:300] if str(text).strip() else type(error).__name__
