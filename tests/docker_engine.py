"""The Docker engine of this machine, as tests use it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runner.launchers.docker import LABEL_STUDY

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


def docker_command(*arguments: str, given: str | None = None) -> str:
    """Output of a docker command that must succeed."""
    return subprocess.run(["docker", *arguments], input=given, check=True, capture_output=True, text=True).stdout


def containers_of(study: str) -> list[str]:
    """Names of all containers, running or not, that a study has on this engine."""
    return docker_command("ps", "-a", "--filter", f"label={LABEL_STUDY}={study}", "--format", "{{.Names}}").split()
