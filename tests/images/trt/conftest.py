"""TensorRT-LLM's stand-in in the place of TensorRT-LLM, and GPUs that torch believes in."""

from __future__ import annotations

import sys

import pytest

from tests.images.trt.jobs import STAND_IN

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
