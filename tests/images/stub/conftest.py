"""A simulated GPU node for jobs that are processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.stub.simulated import Machine


@pytest.fixture
def machine(gpu_library: Path, tmp_path: Path) -> Machine:
    return Machine(tmp_path, gpu_library)


@pytest.fixture(scope="module")
def shared_machine(gpu_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for all tests of a module."""
    return Machine(tmp_path_factory.mktemp("machine"), gpu_library)
