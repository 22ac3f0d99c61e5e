"""Fixtures for everyone: a Docker engine if there is one, and the job images built from this checkout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.docker_engine import ROOT, build_image, engine_problem

pytest_plugins = ["tests.gpu_node.fixtures"]

# The reaper that testcontainers starts for itself is one more image to pull; our tests clean up.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """A Docker engine that answers; else a skip, or a failure where REQUIRE_DOCKER is set."""
    problem = engine_problem()
    if problem is None:
        return
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, but no Docker engine answers: {problem}")
    pytest.skip(f"needs a Docker engine: {problem}")


@pytest.fixture(scope="session")
def built_image(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Builds a backend's image once per session, also with several test workers; returns its name."""
    shared = tmp_path_factory.getbasetemp().parent

    def build(backend: str) -> str:
        with FileLock(shared / f"image-{backend}.lock"):
            return build_image(backend)

    return build


@pytest.fixture(scope="session")
def stub_image(built_image: Callable[[str], str]) -> str:
    return built_image("stub")


@pytest.fixture(scope="session")
def pytorch_image(built_image: Callable[[str], str]) -> str:
    return built_image("pytorch")


@pytest.fixture(scope="session")
def vllm_image(built_image: Callable[[str], str]) -> str:
    return built_image("vllm")


@pytest.fixture(autouse=True)
def own_leases(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated GPUs have the same UUIDs everywhere: tests that run side by side would wait for each other."""
    monkeypatch.setenv("JOULEHOUSE_LEASES", str(tmp_path_factory.getbasetemp() / "leases"))


@pytest.fixture(autouse=True)
def own_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement in the test's own process narrows what is visible; the next test sees all again."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that the patch puts back what was there, or nothing
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.fixture
def repository() -> Path:
    return ROOT
