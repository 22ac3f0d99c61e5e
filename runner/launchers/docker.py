"""Jobs as containers of this host's Docker engine.

Containers are never removed by the engine, which would lose the exit code, and never by chance left
behind: whoever starts one waits, inspects, reads its log and removes it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Mount
from requests.exceptions import RequestException
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.contract.job import (
    ARG_CONFIG,
    ARG_CONTEXT,
    ARG_OUTPUT,
    CONFIG_FILE,
    CONTEXT_FILE,
    CONTRACT_VERSION,
    ENV_HF_HOME,
    ENV_HF_TOKEN_PATH,
    ENV_LOG_LEVEL,
    HF_TOKEN_FILE,
    LABEL_CONTRACT,
    LABEL_REVISION,
    MODELS_MOUNT,
    RESULTS_MOUNT,
)
from runner.launchers import LOG_TAIL_LINES, Ended, Identity, LaunchFailed, Running, Slot, require_backend
from runner.layout import Attempt, take_back

LABEL_STUDY = "io.joulehouse.study"
LABEL_ATTEMPT = "io.joulehouse.attempt"
_GRACE_S = 8
_PATIENCE_S = 20
_LOST_S = 120
_WAIT_S = 7 * 24 * 3600
_ROOT_RUNS_AS = 12345
_UNAVAILABLE = (DockerException, RequestException)


def image_name(backend: str) -> str:
    """The name that `make image` gives."""
    return f"joulehouse-{backend}:latest"


class DockerJob:
    """A container, from creation to removal."""

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
        if not self._over.is_set():
            if self._silent_since_s is not None and time.monotonic() - self._silent_since_s > _LOST_S:
                raise LaunchFailed(
                    f"the Docker engine has not answered for {_LOST_S} s.",
                    "Start it and run again; that ends the job, or keeps what it has finished.",
                )
            return None
        try:
            self._container.reload()
        except NotFound:
            return Ended(exit_code=137, log_tail=["the container was removed from outside"])
        except _UNAVAILABLE:
            return None
        state = self._container.attrs["State"]
        return Ended(int(state["ExitCode"]), bool(state["OOMKilled"]), self._log_tail())

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
        self._attempt.token.unlink(missing_ok=True)

    def _wait(self) -> None:
        while True:
            try:
                self._container.wait(timeout=_WAIT_S)
            except NotFound:
                break
            except _UNAVAILABLE:
                self._silent_since_s = self._silent_since_s or time.monotonic()
                time.sleep(1)
            else:
                break
        self._over.set()

    def _insist(self, done: str, call: Callable[[], object]) -> None:
        """An engine that restarts is given some time."""
        patiently = Retrying(
            retry=retry_if_exception_type(_UNAVAILABLE),
            stop=stop_after_delay(_PATIENCE_S),
            wait=wait_fixed(0.5),
            reraise=True,
        )
        try:
            patiently(lambda: _unless_gone(call))
        except _UNAVAILABLE as error:
            raise LaunchFailed(
                f"the container {self._container.name} could not be {done} ({_reason(error)}).",
                "Start Docker and run again; that ends it and keeps what it has finished.",
            ) from None


class DockerLauncher:
    """
    Args:
        memory: most memory of a container, as Docker writes it (``8g``); None is no limit.
        models: host folder of downloaded models, mounted for models that come from the hub.
    """

    name = "docker"

    def __init__(self, memory: str | None = None, models: Path | None = None) -> None:
        self._memory = memory
        self._images: dict[str, str] = {}
        self._models = models or Path.home() / ".cache" / "joulehouse" / "models"
        try:
            self._client = docker.from_env()
            self._client.ping()
        except _UNAVAILABLE as error:
            raise LaunchFailed(
                f"no Docker engine answers ({_reason(error)}).", "Start it, or use --launcher local."
            ) from None

    def check(self, config: ExperimentConfig) -> Identity:
        require_backend(config.backend)
        name = image_name(config.backend)
        with _launch_errors():
            try:
                image = self._client.images.get(name)
            except ImageNotFound:
                raise LaunchFailed(
                    f"the image {name} is not built.", f"Run `make image BACKEND={config.backend}`."
                ) from None
        _require_readable(config)
        contract = image.labels.get(LABEL_CONTRACT)
        if contract != CONTRACT_VERSION:
            raise LaunchFailed(
                f"the image {name} was built for contract {contract}; this runner speaks {CONTRACT_VERSION}.",
                f"Run `make image BACKEND={config.backend}`.",
            )
        # The tag may move while a study runs; every cycle runs, and names, the image that was checked.
        self._images[config.backend] = image.id
        digests = image.attrs.get("RepoDigests") or [None]
        return Identity(image.labels.get(LABEL_REVISION), name, image.id, digests[0])

    def start(self, study: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        from_hub = config.model != TINY_LLAMA and config.model_path is None and config.backend != "stub"
        uid = os.getuid() or _ROOT_RUNS_AS
        name = f"joulehouse-{attempt.folder.name}"
        try:
            has_token = from_hub and self._write_token(attempt, uid)
            if uid != os.getuid():
                for path in (attempt.folder, attempt.config, attempt.context):
                    os.chown(path, uid, 0)
            with _launch_errors():
                container = self._client.containers.create(
                    self._images[config.backend],
                    command=_arguments(),
                    name=name,
                    labels={LABEL_STUDY: study, LABEL_ATTEMPT: str(attempt.folder)},
                    user=f"{uid}:0",
                    environment=_environment(from_hub, has_token),
                    mounts=[*_mounts(config, attempt), *self._model_mounts(from_hub, has_token, attempt)],
                    device_requests=_device_requests(slot),
                    network_mode="bridge" if from_hub else "none",
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
                container.start()
        except BaseException:
            attempt.token.unlink(missing_ok=True)
            # By name: an engine that answers too late may have made it all the same.
            with contextlib.suppress(*_UNAVAILABLE):
                self._client.containers.get(name).remove(force=True, v=True)
            take_back(attempt.folder)
            raise
        return DockerJob(container, attempt).watch()

    def find(self, attempts: list[Attempt]) -> list[Running]:
        known = {str(attempt.folder): attempt for attempt in attempts}
        if not known:
            return []
        with _launch_errors():
            containers = self._client.containers.list(all=True, filters={"label": LABEL_ATTEMPT}, ignore_removed=True)
        return [
            DockerJob(container, known[folder])
            for container in containers
            if (folder := container.labels.get(LABEL_ATTEMPT)) in known
        ]

    def _model_mounts(self, from_hub: bool, has_token: bool, attempt: Attempt) -> list[Mount]:
        if not from_hub:
            return []
        self._models.mkdir(parents=True, exist_ok=True, mode=0o770)
        if os.getuid() == 0:
            self._models.chmod(0o770)  # the container's group is 0
        mounts = [Mount(MODELS_MOUNT, str(self._models.absolute()), type="bind")]
        if has_token:
            mounts.append(Mount(HF_TOKEN_FILE, str(attempt.token), type="bind", read_only=True))
        return mounts

    def _write_token(self, attempt: Attempt, uid: int) -> bool:
        """The token as a private file: environment and labels can be read by anyone who may inspect."""
        secret = os.environ.get("HF_TOKEN")
        if not secret:
            return False
        handle = os.open(attempt.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(secret)
        if uid != os.getuid():
            os.chown(attempt.token, uid, 0)
        return True


def _unless_gone(call: Callable[[], object]) -> None:
    with contextlib.suppress(NotFound):
        call()


def _arguments() -> list[str]:
    config, context = f"{RESULTS_MOUNT}/{CONFIG_FILE}", f"{RESULTS_MOUNT}/{CONTEXT_FILE}"
    return [ARG_CONFIG, config, ARG_CONTEXT, context, ARG_OUTPUT, RESULTS_MOUNT]


def _environment(from_hub: bool, has_token: bool) -> dict[str, str]:
    environment = {ENV_LOG_LEVEL: os.environ.get(ENV_LOG_LEVEL, "INFO")}
    if from_hub:
        environment[ENV_HF_HOME] = MODELS_MOUNT
    else:
        environment["HF_HUB_OFFLINE"] = "1"
    if has_token:
        environment[ENV_HF_TOKEN_PATH] = HF_TOKEN_FILE
    return environment


def _mounts(config: ExperimentConfig, attempt: Attempt) -> list[Mount]:
    """The attempt's folder, and the configuration's local files under their own path, read-only."""
    local = [path for path in (config.model_path, config.prompt_file) if path is not None]
    if config.model_path is not None:
        local += _link_targets(config.model_path)
    return [
        Mount(RESULTS_MOUNT, str(attempt.folder), type="bind"),
        *(Mount(str(path), str(path), type="bind", read_only=True) for path in local),
    ]


def _require_readable(config: ExperimentConfig) -> None:
    """Containers of root's run as another user, who must be able to read the local files."""
    if os.getuid() != 0:
        return
    model = [] if config.model_path is None else [config.model_path, *config.model_path.rglob("*")]
    for path in model if config.prompt_file is None else [*model, config.prompt_file]:
        status = path.stat() if path.exists() else None
        if status is None or status.st_mode & 0o004 or (status.st_gid == 0 and status.st_mode & 0o040):
            continue
        raise LaunchFailed(
            f"{path} is not readable by the container's user (uid {_ROOT_RUNS_AS}, gid 0).",
            "Run `chmod -R a+rX` on it, or use --launcher local.",
        )


def _link_targets(folder: Path) -> list[Path]:
    """Files outside `folder` that its links lead to, as those of a hub's cache do."""
    targets = {path.resolve() for path in folder.rglob("*") if path.is_symlink()}
    return sorted(target for target in targets if not target.is_relative_to(folder) and target.is_file())


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
            raise LaunchFailed(
                "Docker cannot give GPUs to containers here.",
                "Install the NVIDIA Container Toolkit and restart Docker, or use --gpus none.",
            ) from None
        raise LaunchFailed(f"Docker refused: {reason}.", "See `docker info`, or use --launcher local.") from None


def _reason(error: Exception) -> str:
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return str(text).strip().splitlines()[0][:300] if str(text).strip() else type(error).__name__
