"""Jobs as processes of this host, with the Python that runs the runner."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from images.contract.config import ExperimentConfig
from images.contract.job import ARG_CONFIG, ARG_CONTEXT, ARG_OUTPUT, ENV_HF_HUB_CACHE, ENV_HF_HUB_OFFLINE
from runner.hub.hub_cache import hub_cache
from runner.launchers import (
    LOG_TAIL_LINES,
    Ended,
    Identity,
    LaunchFailed,
    LaunchImpossible,
    Running,
    Slot,
    checkout_revision,
    require_backend,
)
from runner.layout import Attempt

_ROOT = Path(__file__).resolve().parents[2]
_GRACE_S = 8.0
_POLL_S = 0.05
_TOKENS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
# Looked for without being imported, which would take seconds.
_PACKAGES = {"pytorch": ("torch", "transformers"), "vllm": ("vllm",), "trt": ("tensorrt_llm",), "stub": ()}
_IMAGE_ONLY = ("vllm", "trt")
"""Their packages clash with those of this environment, or come with the vendor's image only."""


class LocalJob:
    """A process group started by this runner, or found by the attempt that its command line names."""

    def __init__(self, pid: int, attempt: Attempt, process: subprocess.Popen[bytes] | None = None) -> None:
        self._pid = pid
        self._attempt = attempt
        self._process = process
        self._memory_kills = _memory_kills()

    def poll(self) -> Ended | None:
        if self._process is None:
            return None if _works_in(self._pid, self._attempt) else Ended(exit_code=-1)
        code = self._process.poll()
        if code is None:
            return None
        lines = self._attempt.log.read_text(errors="replace").splitlines() if self._attempt.log.exists() else []
        # A shell's convention for a process ended by a signal.
        # Also of somebody else's process; but then this host is short of memory.
        out_of_memory = code == -signal.SIGKILL and _memory_kills() > self._memory_kills
        return Ended(128 - code if code < 0 else code, out_of_memory, lines[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + _GRACE_S
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise LaunchFailed(
                    f"process {self._pid} cannot be ended; it hangs in the kernel.", "Check the GPU and its driver."
                )
            time.sleep(_POLL_S)

    def collect(self) -> None:
        """They are ours already."""

    def remove(self) -> None:
        if self.poll() is None:
            self.kill()
        self._signal(signal.SIGKILL)  # its group: it may have left children behind

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            return


class LocalLauncher:
    name = "local"

    def check(self, config: ExperimentConfig) -> Identity:
        backend = config.backend
        require_backend(backend)
        missing = [package for package in _PACKAGES[backend] if importlib.util.find_spec(package) is None]
        if missing:
            raise LaunchImpossible(
                f"backend '{backend}' needs {' and '.join(missing)}, which this Python does not have.",
                "Use --launcher docker."
                if backend in _IMAGE_ONLY
                else f"Run `make install-{backend}`, or use --launcher docker.",
            )
        return Identity(git_revision=checkout_revision())

    def start(self, _study: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        environment = {
            **{name: value for name, value in os.environ.items() if name not in _TOKENS},
            "PYTHONPATH": str(_ROOT),
            # In the safe mode `import vllm` cannot find our folder images/vllm by accident.
            "PYTHONSAFEPATH": "1",
            # Models are here before a job starts; a relative HF_HOME would mean another folder there.
            ENV_HF_HUB_CACHE: str(hub_cache()),
            ENV_HF_HUB_OFFLINE: "1",
            "CUDA_VISIBLE_DEVICES": ",".join(slot.gpu_uuids),
        }
        arguments = [ARG_CONFIG, attempt.config, ARG_CONTEXT, attempt.context, ARG_OUTPUT, attempt.folder]
        with attempt.log.open("wb") as log:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", f"images.{config.backend}", *map(str, arguments)],
                    cwd=attempt.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise LaunchFailed(
                    f"no process can be started ({error.strerror}).", "Look at the host's memory and process limits."
                ) from None
        return LocalJob(process.pid, attempt, process)

    def find(self, below: Path) -> list[tuple[Attempt, Running]]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        working = [(pid, attempt) for pid in pids if (attempt := _attempt_of(pid)) is not None]
        return [(attempt, LocalJob(pid, attempt)) for pid, attempt in working if attempt.folder.is_relative_to(below)]


def _memory_kills() -> int:
    """How many processes of this host the kernel has killed for want of memory; 0 where it does not say."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counters.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def _attempt_of(pid: int) -> Attempt | None:
    """The attempt that the process is the job of; None of any other, such as one with a pid given out again."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    # Of a process that has ended but was not waited for, the command line is empty.
    module, output = arguments[2:3], arguments[-2:-1]
    is_job = module and module[0].startswith(b"images.") and arguments[-3:-2] == [os.fsencode(ARG_OUTPUT)]
    return Attempt(Path(os.fsdecode(output[0]))) if is_job else None


def _works_in(pid: int, attempt: Attempt) -> bool:
    return _attempt_of(pid) == attempt
