"""What this backend takes from TensorRT-LLM, in one place, and what it means if that cannot be imported.

Written against the public LLM API of TensorRT-LLM 1.2.
"""

from __future__ import annotations

from images.contract.job import ConfigInvalid
from images.trt.device import require_gpus

try:
    from tensorrt_llm import LLM, SamplingParams, _tensorrt_engine, llmapi
    from tensorrt_llm.llmapi import (
        BuildCacheConfig,
        BuildConfig,
        CudaGraphConfig,
        KvCacheConfig,
        QuantAlgo,
        QuantConfig,
        SchedulerConfig,
    )
except ImportError as error:
    # Its compiled parts are linked with the driver's libraries, which are there only on a machine with a GPU.
    require_gpus(1)
    if error.name != "tensorrt_llm":
        raise
    raise ConfigInvalid(
        "backend trt needs TensorRT-LLM, and there is none here.", "Use --launcher docker: its image has it."
    ) from None

__all__ = [
    "LLM",
    "BuildCacheConfig",
    "BuildConfig",
    "CudaGraphConfig",
    "KvCacheConfig",
    "QuantAlgo",
    "QuantConfig",
    "SamplingParams",
    "SchedulerConfig",
    "_tensorrt_engine",
    "llmapi",
]
