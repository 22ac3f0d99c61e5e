"""Job processes: what an image's entry point does, without the image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.contract.failure import JobFailure

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Job:
    """A job process and the folder it writes into."""

    process: subprocess.Popen[str]
    output: Path

    def end(self, timeout_s: float = 60.0) -> Ended:
        _, stderr = self.process.communicate(timeout=timeout_s)
        return Ended(self.process.returncode, stderr, self.output)


@dataclass(frozen=True)
class Ended:
    """A job that has left."""

    code: int
    stderr: str
    output: Path

    @property
    def directory(self) -> Path:
        """The one directory it left; fails if anything else is there."""
        (only,) = self.output.iterdir()
        return only

    @property
    def failure(self) -> JobFailure:
        """Its failure.json, which is all that a failed job leaves."""
        assert [path.name for path in self.directory.iterdir()] == ["failure.json"]
        return JobFailure.model_validate_json((self.directory / "failure.json").read_text())

    @property
    def errors(self) -> list[str]:
        """Lines of stderr that are neither progress nor warnings."""
        return [line for line in self.stderr.splitlines() if " INFO " not in line and " WARNING " not in line]


def start(folder: Path, document: Any, *arguments: str, backend: str = "stub", **process: Any) -> Job:
    """Start a job on `document` (text is written as it is) with its output in `folder`/out.

    Args:
        process: for Popen; `env` is added to this process's environment.
    """
    output = folder / "out"
    output.mkdir(exist_ok=True)
    config = folder / "config.json"
    config.write_text(document if isinstance(document, str) else json.dumps(document))
    if "--output" not in arguments:
        arguments = (*arguments, "--output", str(output))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **process.pop("env", {})}
    command = [sys.executable, "-m", f"images.{backend}", "--config", str(config), *arguments]
    return Job(
        subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **process), output
    )


def run(folder: Path, document: Any, *arguments: str, backend: str = "stub", **process: Any) -> Ended:
    """Start a job and wait for its end."""
    return start(folder, document, *arguments, backend=backend, **process).end()


def stub(workload: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A configuration for the stub that ends at once, with options of its section."""
    return {
        "backend": "stub",
        "workload": {"n_prompts": 3, "max_output_tokens": 4, **(workload or {})},
        "measurement": {"warmup": {"window": 2, "max_rounds": 2}},
        "stub": {"window_s": 0.01, **options},
    }
