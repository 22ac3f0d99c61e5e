"""Jobs as processes of this host, with the Python that runs the runner."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from images.contract.config import ExperimentConfig
from images.contract.job import ARG_CONFIG, ARG_CONTEXT, ARG_OUTPUT
from runner.launchers import LOG_TAIL_LINES, Ended, Identity, LaunchFailed, Running, Slot
from runner.layout import Attempt

_ROOT = Path(__file__).resolve().parents[2]
_GRACE_S = 8.0
_POLL_S = 0.05
# Looked for without being imported, which would take seconds.
_PACKAGES = {"pytorch": ("torch", "transformers"), "vllm": ("vllm",), "trt": ("tensorrt_llm",), "stub": ()}


class LocalJob:
    """A process started by this runner, or found by its pid and start time."""

    def __init__(self, pid: int, attempt: Attempt, process: subprocess.Popen[bytes] | None = None) -> None:
        self._pid = pid
        self._attempt = attempt
        self._process = process

    def poll(self) -> Ended | None:
        if self._process is None:
            return None if _alive(self._pid) else Ended(exit_code=-1)
        code = self._process.poll()
        if code is None:
            return None
        lines = self._attempt.log.read_text(errors="replace").splitlines() if self._attempt.log.exists() else []
        # A shell's convention for a process ended by a signal.
        return Ended(exit_code=128 - code if code < 0 else code, log_tail=lines[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._signal(signal.SIGKILL)  # the whole group: a job may have left children
        while self.poll() is None:
            time.sleep(_POLL_S)

    def remove(self) -> None:
        if self.poll() is None:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            return


class LocalLauncher:
    name = "local"

    def check(self, config: ExperimentConfig) -> Identity:
        backend = config.backend
        if not (_ROOT / "images" / backend / "backend.py").is_file():
            raise LaunchFailed(f"this checkout has no backend '{backend}' yet.", "Use another backend.")
        missing = [package for package in _PACKAGES[backend] if importlib.util.find_spec(package) is None]
        if missing:
            raise LaunchFailed(
                f"backend '{backend}' needs {' and '.join(missing)}, which this Python does not have.",
                f"Run `make install-{backend}`, or use --launcher docker.",
            )
        return Identity(git_revision=_git_revision())

    def start(self, _study: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        # In the safe mode `import vllm` cannot find our folder images/vllm by accident.
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "PYTHONSAFEPATH": "1",
            "CUDA_VISIBLE_DEVICES": ",".join(slot.gpu_uuids),
        }
        arguments = [ARG_CONFIG, attempt.config, ARG_CONTEXT, attempt.context, ARG_OUTPUT, attempt.folder]
        with attempt.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"images.{config.backend}", *map(str, arguments)],
                cwd=attempt.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        attempt.process.write_text(json.dumps({"pid": process.pid, "start_ticks": _start_ticks(process.pid)}))
        return LocalJob(process.pid, attempt, process)

    def find(self, _study: str, attempts: list[Attempt]) -> list[Running]:
        found: list[Running] = []
        for attempt in attempts:
            try:
                identity = json.loads(attempt.process.read_text())
                ours = _start_ticks(identity["pid"]) == identity["start_ticks"] is not None
            except (OSError, ValueError, KeyError):
                continue
            if ours:
                found.append(LocalJob(identity["pid"], attempt))
        return found


def _start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, which with its pid names it; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _git_revision() -> str | None:
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
