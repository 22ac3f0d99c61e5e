"""How jobs are started: the smallest interface that a launcher has to honour."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from images.contract.config import ExperimentConfig
from images.contract.job import ExitCode, JobError
from runner.layout import Attempt

LOG_TAIL_LINES = 50
_IMAGES = Path(__file__).resolve().parents[2] / "images"


class LaunchFailed(JobError):
    """The job could not be started at all."""

    exit_code = ExitCode.LAUNCHER


class EngineAway(LaunchFailed):
    """Whatever starts the jobs does not answer; it may come back, so this is worth another try."""


class LaunchImpossible(LaunchFailed):
    """No further try can go better: something has to be installed, built or corrected first."""


def require_backend(backend: str) -> None:
    """
    Raises:
        LaunchImpossible: this checkout has no such backend.
    """
    if not (_IMAGES / backend / "backend.py").is_file():
        there = sorted(path.parent.name for path in _IMAGES.glob("*/backend.py") if path.parent.name != "harness")
        raise LaunchImpossible(f"this checkout has no backend '{backend}' yet.", f"There are: {', '.join(there)}.")


def checkout_revision() -> str | None:
    """Git revision of this checkout, with -dirty after it where files differ; None outside of git."""
    command = ["git", "-C", str(_IMAGES), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a job runs; no GPUs is the CPU."""

    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """What code a job runs."""

    git_revision: str | None
    image_name: str | None = None
    image_id: str | None = None
    image_repo_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    exit_code: int
    oom_killed: bool = False
    log_tail: list[str] = field(default_factory=list)


class Running(Protocol):
    """A started job."""

    def poll(self) -> Ended | None:
        """How it ended, or None while it runs.

        Raises:
            LaunchFailed: nothing has been heard of it for a long time; nobody knows whether it runs.
        """
        ...

    def kill(self) -> None:
        """End it: SIGTERM, a grace period for its failure.json, SIGKILL. Returns when it is over.

        Raises:
            LaunchFailed: it cannot be reached.
        """
        ...

    def collect(self) -> None:
        """Make the files that it left the calling user's."""
        ...

    def remove(self) -> None:
        """Leave nothing of it behind but its files.

        Raises:
            LaunchFailed: it could not be removed; the next runner of this output directory tries again.
        """
        ...


class Launcher(Protocol):
    """`check` comes before `start`."""

    name: str

    def check(self, config: ExperimentConfig) -> Identity:
        """What would run.

        Raises:
            LaunchFailed: it cannot, which is EngineAway if it may be able to later, LaunchImpossible if it never
                will be; the message says what to do.
        """
        ...

    def start(self, study: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        """Start a job whose configuration and context lie in the attempt's folder.

        Raises:
            LaunchFailed: nothing is left behind, if it can be reached (see `check`).
        """
        ...

    def find(self, below: Path) -> list[tuple[Attempt, Running]]:
        """Jobs that a runner started and did not remove, whose attempt's folder is `below` or in it.

        Also those whose folder is gone, and those that were made but never started.
        """
        ...
