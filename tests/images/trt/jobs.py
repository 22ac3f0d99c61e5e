"""trt jobs as processes, with TensorRT-LLM's stand-in, and the backend without a job around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from images.harness.backend import LoadedModel, Request
from tests.images.stub.jobs import ROOT

if TYPE_CHECKING:
    from images.trt.backend import Backend  # needs torch

STAND_IN = Path(__file__).with_name("stand_in")
Load = Callable[..., "tuple[Backend, LoadedModel]"]
MOST = 20
PROMPTS = [tuple(3 + (number * 37 + at) % 200 for at in range(2 + number)) for number in range(24)]


def environment(gpus: int, **more: str) -> dict[str, str]:
    """With it `tensorrt_llm` is the stand-in, and torch sees `gpus` GPUs."""
    return {"PYTHONPATH": f"{ROOT}:{STAND_IN}", "STAND_IN_GPUS": str(gpus), **more}


def small(**changes: Any) -> dict[str, Any]:
    """A configuration of a few short requests without a baseline."""
    return {
        "backend": "trt",
        "batch_size": 4,
        "workload": {"n_prompts": 6, "max_output_tokens": 16, **changes.pop("workload", {})},
        "measurement": {"warmup": {"window": 2, "max_rounds": 2}, "baseline": {"enabled": False}},
        **changes,
    }


def requests(*, ignore_eos: bool = False) -> list[Request]:
    return [Request(index, prompt, MOST, ignore_eos) for index, prompt in enumerate(PROMPTS)]
