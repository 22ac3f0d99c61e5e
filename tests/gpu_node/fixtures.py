"""Fixtures of the simulated GPU node; the root conftest names this module in pytest_plugins."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.gpu_node.library import ENV_NODE, SOURCES, build_library, use_in_process
from tests.gpu_node.node import Node

# Where .ci/engine puts the hook, first on dockerd's PATH.
_HOOK = Path("/usr/local/lib/gpu-node-hook/nvidia-container-runtime-hook")
_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "gpu-node"


@pytest.fixture(scope="session")
def gpu_library() -> Path:
    """The folder with the compiled libnvidia-ml.so.1 and libcuda.so.1; a skip where nothing compiles, but not in CI."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        problem = f"needs a C compiler for the simulated GPUs ('{compiler}' is not there)"
        pytest.fail(problem) if os.environ.get("REQUIRE_DOCKER") == "1" else pytest.skip(problem)
    return build_library(_CACHE)


@contextlib.contextmanager
def _active(node: Node, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv(ENV_NODE, str(node.file))
    use_in_process(library, node.file)
    try:
        yield node
    finally:
        # What a test has left initialised would hide a missing nvmlInit in the next one.
        with contextlib.suppress(pynvml.NVMLError):
            while True:
                pynvml.nvmlShutdown()
        node.close()


@pytest.fixture
def gpu_node(gpu_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node in real time with 8 GPUs at 100 W, which this process's nvmlInit finds."""
    with _active(Node.create(tmp_path / "gpu-node" / "node"), gpu_library, monkeypatch) as node:
        yield node


@pytest.fixture
def virtual_node(gpu_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """The same with a virtual clock, which stands at 1000 s."""
    node = Node.create(tmp_path / "virtual-node" / "node", virtual_s=1000.0)
    with _active(node, gpu_library, monkeypatch):
        yield node


def hook_problem() -> str | None:
    """Why --gpus cannot be tested with the engine that answers; None if it can."""
    if os.geteuid() != 0:
        return "needs root: the host's node lies in /run"
    try:
        process = Path("/proc") / Path("/var/run/docker.pid").read_text().strip()
        engine = dict(line.partition("=")[::2] for line in (process / "environ").read_text().split("\0"))
    except OSError as error:
        return f"the engine's environment cannot be read: {error}"
    if str(_HOOK.parent) not in engine.get("PATH", "").split(":"):
        return "the engine was not started by .ci/engine, which gives it the stand-in for NVIDIA's hook"
    if not _HOOK.exists() or _HOOK.read_bytes() != (SOURCES / _HOOK.name).read_bytes():
        return "the engine has another version of the hook; run .ci/engine"
    return None


@pytest.fixture
def host_node(gpu_library: Path, docker_engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """This host's node, which containers started with --gpus get a part of, and this process's nvmlInit finds too."""
    problem = hook_problem()
    if problem:
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(f"REQUIRE_DOCKER=1, but there are no simulated GPUs for containers: {problem}")
        pytest.skip(f"needs simulated GPUs in containers: {problem}")
    with Node.install() as node, _active(node, gpu_library, monkeypatch):
        yield node
