"""trt jobs as processes, with TensorRT-LLM's stand-in, and the backend without a job around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.images.stub.jobs import ROOT

STAND_IN = Path(__file__).with_name("stand_in")


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
