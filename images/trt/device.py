"""The job's GPUs, before anything is loaded: are they there, and can they compute what is asked for."""

from __future__ import annotations

import torch

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, GpuUnusable
from images.contract.options.trt import TrtOptions

# Lowest compute capability, from the precision table of TensorRT-LLM's support matrix.
_NEEDED = {
    "FP8": (8, 9),
    "FP8_PER_CHANNEL_PER_TOKEN": (8, 9),
    "FP8_BLOCK_SCALES": (9, 0),
    "W4A8_AWQ": (8, 9),
    "NVFP4": (10, 0),
}
_BFLOAT16 = (8, 0)


def require_gpus(needed: int) -> None:
    """
    Args:
        needed: gpus_per_process.

    Raises:
        GpuUnusable: none, or fewer than that.
    """
    if not torch.cuda.is_available():
        raise GpuUnusable("backend trt needs an NVIDIA GPU, and none is visible to the job.", "Give the job one.")
    count = torch.cuda.device_count()
    if count < needed:
        raise GpuUnusable(
            f"gpus_per_process is {needed}, and the job sees {count} GPU{'s' * (count != 1)}.",
            "Give it more GPUs, or lower gpus_per_process.",
        )


def require_number_formats(config: ExperimentConfig) -> None:
    """
    Raises:
        ConfigInvalid: the GPU has no instructions for a requested quantization or dtype.
    """
    options = config.trt or TrtOptions()
    has = torch.cuda.get_device_capability()
    asked = {
        "trt.quant_algo": options.quant_algo,
        "trt.kv_cache_quant_algo": options.kv_cache_quant_algo,
        "trt.kv_cache_dtype": options.kv_cache_dtype and options.kv_cache_dtype.upper(),
        "dtype": config.dtype,
    }
    for field, value in asked.items():
        needs = _BFLOAT16 if value == "bfloat16" else _NEEDED.get(value or "")
        if needs is not None and has < needs:
            raise ConfigInvalid(
                f"{field} {value} needs compute capability {needs[0]}.{needs[1]}, "
                f"and {torch.cuda.get_device_name()} has {has[0]}.{has[1]}.",
                "Choose another one, or a newer GPU.",
            )


def memory_in_use_mb() -> float:
    """On all GPUs of this process, by whomever (MB)."""
    free_and_total = [torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]
    return float(sum(total - free for free, total in free_and_total)) / 1e6


def device_name() -> str:
    return str(torch.cuda.get_device_name())
