"""TensorRT-LLM's stand-in in the place of TensorRT-LLM, and GPUs that torch believes in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from images.contract.config import parse_config
from images.contract.job import JobContext
from tests.images.trt.jobs import STAND_IN, Load

sys.path.insert(0, str(STAND_IN))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU of compute capability 8.0, which computes in bfloat16 and not in FP8."""
    torch = pytest.importorskip("torch")
    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "STAND-IN GPU",
        "get_device_capability": (8, 0),
        "mem_get_info": (10_000_000_000, 80_000_000_000),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads the backend with these changes to a configuration of batch_size 4."""
    pytest.importorskip("torch")
    from images.harness.backend import LoadedModel
    from images.trt.backend import Backend

    loaded: list[Backend] = []

    def one(**changes: Any) -> tuple[Backend, LoadedModel]:
        backend = Backend()
        model = backend.load(parse_config({"backend": "trt", "batch_size": 4, **changes}), JobContext())
        loaded.append(backend)
        return backend, model

    yield one
    for backend in loaded:
        backend.close()
