"""The Docker engine of this machine, as tests use it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def engine_problem() -> str | None:
    """Why no engine answers; None if one does."""
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = answer.stderr.strip().splitlines()
    return None if answer.returncode == 0 else (lines[-1] if lines else "docker info failed")


def build_image(backend: str) -> str:
    """Build an image as the README says, and return its name."""
    built = subprocess.run(["make", "image", f"BACKEND={backend}"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, f"make image BACKEND={backend} failed:\n{built.stdout}\n{built.stderr}"
    return f"joulehouse-{backend}:latest"


def containers_of(study: str) -> list[str]:
    """Names of all containers, running or not, that a study has on this engine."""
    command = ["docker", "ps", "-a", "--filter", f"label=io.joulehouse.study={study}", "--format", "{{.Names}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
