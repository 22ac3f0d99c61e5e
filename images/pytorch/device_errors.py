"""What PyTorch raises while it computes, told as one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from images.contract.job import ConfigInvalid, GpuUnusable, JobError, OutOfMemory

_LESS = "Lower batch_size, workload.max_input_tokens or workload.max_output_tokens, or take a smaller dtype."
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch")


@contextmanager
def device_errors() -> Iterator[None]:
    """
    Raises:
        OutOfMemory: the GPU or the host has too little.
        GpuUnusable: the GPU failed.
        ConfigInvalid: the model cannot be compiled as asked.
    """
    try:
        yield
    except (RuntimeError, FailOnRecompileLimitHit) as error:
        told = _explain(error)
        if told is None:
            raise
        raise told from None


def _explain(error: Exception) -> JobError | None:
    """PyTorch has no classes of its own for most of these."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"the GPU ran out of memory: {text}"[:300], _LESS)
    if "can't allocate memory" in text:
        return OutOfMemory(f"the host ran out of memory: {text}"[:300], _LESS)
    if "CUDA error: out of memory" in text or "CUDA out of memory" in text or "ALLOC_FAILED" in text:
        return OutOfMemory(f"the GPU ran out of memory: {text}"[:300], _LESS)
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return GpuUnusable(
            f"the GPU failed: {_first_line(text)}"[:300].rstrip(".") + ".",
            "Check nvidia-smi, the driver and other processes.",
        )
    if "output of CUDAGraphs that has been overwritten" in text:
        return ConfigInvalid(
            "CUDA graphs of torch.compile cannot run with this KV cache, which is another tensor at each step.",
            "Set pytorch.cache_implementation: static, or pytorch.torch_compile_mode: default.",
        )
    if text.startswith("FlashAttention only support"):
        return ConfigInvalid(f"{_first_line(text)}.", "Set dtype: bfloat16, or another pytorch.attn_implementation.")
    if type(error).__module__.startswith(_COMPILERS):
        return ConfigInvalid(
            f"torch.compile cannot compile this model as asked: {_first_line(text)}"[:300].rstrip(".") + ".",
            "Set pytorch.torch_compile: false, or another torch_compile_mode; of flex_attention, another "
            "attn_implementation or batch_size: 1.",
        )
    return None


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "no reason given")
