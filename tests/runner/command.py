"""Run the real `runner` command and look at what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.result import ExperimentResult

RUNNER = [sys.executable, "-c", "from runner.cli import main; main()"]


@dataclass(frozen=True)
class Ran:
    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return self.stderr.strip().splitlines()[-1]

    def is_one_clear_line(self) -> bool:
        return self.stderr.count("\n") == 1 and "Traceback" not in self.stderr


def runner(*arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 120) -> Ran:
    done = subprocess.run(
        [*RUNNER, *map(str, arguments)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def results(output: Path) -> list[ExperimentResult]:
    return [
        ExperimentResult.from_json(directory)
        for directory in files.find_directories(output)
        if (directory / files.RESULT_FILE).exists()
    ]


def failures(output: Path) -> list[JobFailure]:
    return [
        JobFailure.from_json(directory)
        for directory in files.find_directories(output)
        if (directory / files.FAILURE_FILE).exists()
    ]


def leftovers(output: Path) -> list[Path]:
    """What may not be there once a runner has ended: attempt folders, locks, unfinished directories."""
    attempts = [path for path in (output / ".attempts").iterdir() if path.name != ".lock"]
    return [*attempts, *(path for path in output.glob(".*") if path.name != ".attempts")]
