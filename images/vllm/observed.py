"""What the engine really uses, beside what was asked for: vLLM changes settings that a device or a model lacks."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from images.contract.config import ExperimentConfig
from images.contract.options.vllm import VllmOptions

_PLACES: dict[str, str] = {
    "async_scheduling": "scheduler_config.async_scheduling",
    "attention_backend": "attention_config.backend",
    "block_size": "cache_config.block_size",
    "compilation_mode": "compilation_config.mode",
    "cpu_offload_gb": "offload_config.uva.cpu_offload_gb",
    "cudagraph_mode": "compilation_config.cudagraph_mode",
    "disable_custom_all_reduce": "parallel_config.disable_custom_all_reduce",
    "distributed_executor_backend": "parallel_config.distributed_executor_backend",
    "enable_chunked_prefill": "scheduler_config.enable_chunked_prefill",
    "enable_expert_parallel": "parallel_config.enable_expert_parallel",
    "enable_prefix_caching": "cache_config.enable_prefix_caching",
    "enforce_eager": "model_config.enforce_eager",
    "gpu_memory_utilization": "cache_config.gpu_memory_utilization",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "kv_cache_memory_bytes": "cache_config.kv_cache_memory_bytes",
    "kv_offloading_size": "cache_config.kv_offloading_size",
    "load_format": "load_config.load_format",
    "long_prefill_token_threshold": "scheduler_config.long_prefill_token_threshold",
    "max_model_len": "model_config.max_model_len",
    "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "max_num_seqs": "scheduler_config.max_num_seqs",
    "optimization_level": "optimization_level",
    "performance_mode": "performance_mode",
    "quantization": "model_config.quantization",
    "stream_interval": "scheduler_config.stream_interval",
}
"""Where vLLM's configuration holds each option of its section."""
_FURTHER = {
    "num_gpu_blocks": "cache_config.num_gpu_blocks",
    "dtype": "model_config.dtype",
    "tensor_parallel_size": "parallel_config.tensor_parallel_size",
    "seed": "model_config.seed",
    "speculative_method": "speculative_config.method",
    "speculative_tokens": "speculative_config.num_speculative_tokens",
}
_PARTS = ("model_config", "cache_config", "scheduler_config", "parallel_config", "load_config", "compilation_config")
_MORE_THAN_ASKED = ("quantization", "kv_cache_dtype", "distributed_executor_backend")
"""A faster kernel of the same kind has a longer name: gptq becomes gptq_marlin, fp8 fp8_e4m3."""


def observed_settings(engine_config: Any, in_worker: Mapping[str, str]) -> dict[str, str]:
    """Name and value of each setting, None where the engine has none.

    Args:
        engine_config: vLLM's VllmConfig.
        in_worker: what is decided only in the worker (`images.vllm.worker`); it wins.
    """
    settings = {name: _text(_at(engine_config, place)) for name, place in {**_PLACES, **_FURTHER}.items()}
    return {**settings, **{name: value for name, value in in_worker.items() if value}}


def not_in_effect(
    config: ExperimentConfig, dtype: str | None, observed: Mapping[str, str], engine_config: Any
) -> tuple[str, ...]:
    """A finding for each option that the engine did not take.

    Args:
        dtype: what the configuration's is for this model, `auto` being the model's own; None: unknown.
    """
    options = config.vllm or VllmOptions()
    asked = {f"vllm.{name}": (getattr(options, name), observed[name]) for name in _PLACES}
    asked["dtype auto" if config.dtype == "auto" else "dtype"] = (dtype, observed["dtype"])
    asked["gpus_per_process"] = (config.gpus_per_process, observed["tensor_parallel_size"])
    if options.max_num_seqs is None:
        asked["batch_size"] = (config.batch_size, observed["max_num_seqs"])
    if options.speculative.is_on:
        asked["vllm.speculative.method"] = (options.speculative.method, observed["speculative_method"])
        tokens = options.speculative.num_speculative_tokens
        asked["vllm.speculative.num_speculative_tokens"] = (tokens, observed["speculative_tokens"])
    for name, value in options.extra.items():
        part = next((part for part in _PARTS if hasattr(getattr(engine_config, part, None), name)), None)
        if part is not None and not isinstance(value, dict | list):
            asked[f"vllm.extra.{name}"] = (value, _text(_at(engine_config, f"{part}.{name}")))
    return tuple(
        f"not_in_effect: {name} was {_text(value)}, but the engine uses {used}. "
        "Set what it uses, or find the reason in vLLM's log."
        for name, (value, used) in asked.items()
        if value is not None and not _agree(name, _text(value), used)
    )


def _agree(name: str, asked: str, used: str) -> bool:
    if asked.lower() == used.lower():
        return True
    if name.removeprefix("vllm.") in _MORE_THAN_ASKED:
        return asked.lower() in used.lower()
    if name == "vllm.optimization_level":
        return used == f"O{asked}"
    return name == "vllm.attention_backend" and asked.lower() in used.lower().split("+")


def _at(config: Any, place: str) -> Any:
    for name in place.split("."):
        config = getattr(config, name, None)
    return config


def _text(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).removeprefix("torch.")
