"""What TensorRT-LLM raises, told apart: options, memory, GPU, or that it failed.

Its worker is a process of its own, so much arrives as a RuntimeError around the cause; the texts are what tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import ValidationError

from images.contract.job import (
    ConfigInvalid,
    GpuUnusable,
    JobError,
    MeasurementFailed,
    ModelUnavailable,
    OutOfMemory,
)
from images.models.reading import chain

_MEMORY = re.compile(
    r"out of memory|out_of_memory|OutOfMemory|cudaErrorMemoryAllocation|insufficient GPU memory"
    r"|cannot allocate memory|No enough GPU memory",
    re.IGNORECASE,
)
_TOO_FEW_GPUS = re.compile(r"GPUs? (are|is) available, but")
_CUDA = re.compile(r"CUDA (runtime |driver )?error|cudaError|NCCL error|no CUDA-capable device", re.IGNORECASE)
_REFUSED = (ValueError, TypeError, AssertionError, NotImplementedError)


@contextmanager
def engine_errors(*, loading: bool) -> Iterator[None]:
    """Turn what the engine raises into one clear line.

    Args:
        loading: whether the engine is being made, when it reads the model's files.

    Raises:
        ConfigInvalid: the engine refuses an option or a request, with its own words.
        ModelUnavailable: it cannot read a file of the model, or write its engine.
        OutOfMemory, GpuUnusable: as they are called.
        MeasurementFailed: it did not start, or failed while it ran.
    """
    try:
        yield
    except (RuntimeError, OSError, *_REFUSED) as error:
        raise _explain(error, loading=loading) from None


def _explain(error: BaseException, *, loading: bool) -> JobError:
    causes = list(chain(error, implied=False))
    text = " ".join(str(cause) for cause in causes)
    shown = _say(causes[-1]).rstrip(". ")
    if any(isinstance(cause, torch.OutOfMemoryError) for cause in causes) or _MEMORY.search(text):
        return OutOfMemory(
            f"the GPU ran out of memory: {shown}.",
            "Lower batch_size, trt.max_num_tokens, trt.max_seq_len or trt.kv_cache_free_gpu_memory_fraction, "
            "or raise gpus_per_process.",
        )
    if _TOO_FEW_GPUS.search(text):
        return GpuUnusable(f"{shown}.", "Give the job more GPUs, or lower gpus_per_process.")
    if _CUDA.search(text):
        return GpuUnusable(f"the GPU failed: {shown}.", "Check nvidia-smi, the driver and other processes.")
    if loading and isinstance(causes[-1], OSError):
        return ModelUnavailable(
            f"TensorRT-LLM cannot read or write a file: {shown}.", "Get the model again, or make room for the engine."
        )
    if isinstance(causes[-1], _REFUSED) or "not support" in text:
        return ConfigInvalid(f"TensorRT-LLM refuses this: {shown}.", "Correct the trt section, model or dtype.")
    # Its worker is gone, or gave up on a request.
    happened = "did not start" if loading else "failed while it ran"
    return MeasurementFailed(f"TensorRT-LLM's engine {happened}: {shown}.", "Its log stands above; run it again.")


def _say(error: BaseException) -> str:
    """Its own words, of a pydantic error without addresses of web pages."""
    if isinstance(error, ValidationError):
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return "; ".join(problems)[:300]
    return (str(error).strip() or type(error).__name__)[:300]
