"""The constructor arguments of TensorRT-LLM's LLM, from the configuration; and whether they took effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid
from images.contract.options.trt import TrtOptions
from images.models.extras import refuse_doubles
from images.trt.engine import (
    BuildConfig,
    CudaGraphConfig,
    KvCacheConfig,
    QuantAlgo,
    QuantConfig,
    SchedulerConfig,
    llmapi,
)

_UNKNOWN = object()
# Not in `extra`: the configuration says them elsewhere, or the harness measures by them.
_ELSEWHERE = {
    "model": "model",
    "tokenizer": "model",
    "revision": "model_revision",
    "tokenizer_revision": "model_revision",
    "trust_remote_code": "trust_remote_code",
    "dtype": "dtype",
    "tensor_parallel_size": "gpus_per_process",
    "backend": "trt.engine",
    "max_batch_size": "trt.max_batch_size",
    "max_num_tokens": "trt.max_num_tokens",
    "max_seq_len": "trt.max_seq_len",
    "max_input_len": "trt.max_input_len",
    "enable_chunked_prefill": "trt.enable_chunked_prefill",
    "attn_backend": "trt.attn_backend",
    "build_config": "trt.build_config",
    "speculative_config": "trt.speculative_config",
}
_NEEDED = ("skip_tokenizer_init", "return_perf_metrics", "workspace", "enable_build_cache")


def llm_arguments(config: ExperimentConfig, source: Path | str, drafter: str | None) -> dict[str, Any]:
    """Keyword arguments for `LLM`, only such as were asked for or that every measurement needs.

    Args:
        source: the model's folder, or its name on the hub.
        drafter: folder of the model that drafts tokens, if there is one.

    Raises:
        ConfigInvalid: something in trt.extra has a field of its own.
        ValueError, TypeError: a part has a field or a value that TensorRT-LLM does not know, in its own words.
    """
    options = config.trt or TrtOptions()
    extra = dict(options.extra)
    refuse_doubles("trt.extra", _ELSEWHERE, extra, _NEEDED)
    parts = {
        "kv_cache_config": _kv_cache(options, extra),
        "scheduler_config": _scheduler(options, extra),
        "cuda_graph_config": _cuda_graphs(options, extra),
        "quant_config": _quantization(options, extra),
        "build_config": _build(config, options),
        "speculative_config": _speculation(options, drafter),
    }
    sizes = _sizes(config, options)
    single = {"enable_chunked_prefill": options.enable_chunked_prefill, "attn_backend": options.attn_backend}
    arguments = {
        "model": str(source),
        "skip_tokenizer_init": True,  # ids go in and come out
        "trust_remote_code": config.trust_remote_code,
        "tensor_parallel_size": config.gpus_per_process,
        "dtype": config.dtype,
        "revision": config.model_revision if config.model_path is None else None,
        "return_perf_metrics": True,
        **{name: value for name, value in {**sizes, **single, **parts}.items() if value is not None},
        **extra,
    }
    if options.cuda_graphs is False:
        arguments["cuda_graph_config"] = None
    return arguments


def observed(used: Any) -> dict[str, str]:
    """What the engine says that it uses; `used` are its own arguments, as it resolved them."""
    names = (
        "backend",
        "dtype",
        "tensor_parallel_size",
        "max_batch_size",
        "max_num_tokens",
        "max_seq_len",
        "max_input_len",
        "enable_chunked_prefill",
        "attn_backend",
        "kv_cache_config.enable_block_reuse",
        "kv_cache_config.free_gpu_memory_fraction",
        "kv_cache_config.max_tokens",
        "kv_cache_config.dtype",
        "scheduler_config.capacity_scheduler_policy",
        "scheduler_config.context_chunking_policy",
        "cuda_graph_config.batch_sizes",
        "cuda_graph_config.enable_padding",
        "quant_config.quant_algo",
        "quant_config.kv_cache_quant_algo",
        "speculative_config.decoding_type",
    )
    found = ((name, _look_up(used, name)) for name in names)
    return {name: _plain(value) for name, value in found if value not in (None, _UNKNOWN)}


def asked_for(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What was asked for, by dotted names; taken before `LLM` sees the arguments, which it changes in place."""
    return {name: _plain(value) for name, value in _leaves(arguments)}


def not_in_effect(asked: Mapping[str, str], used: Any) -> list[str]:
    """A finding for every argument that the engine resolved to something else than was asked for.

    What its worker process changes on its own copy is not seen.
    """
    got = {name: _look_up(used, name) for name in asked}
    return [
        f"not_in_effect: {name} was to be {wanted}, and TensorRT-LLM uses {_plain(got[name])}. "
        "Read the figures as measured with that, or set it so."
        for name, wanted in sorted(asked.items())
        if got[name] is not _UNKNOWN and _plain(got[name]) != wanted
    ]


def _sizes(config: ExperimentConfig, options: TrtOptions) -> dict[str, int | None]:
    """A TensorRT engine is built for these; max_input_len's own default is 1024, whatever the model takes."""
    return {
        "max_batch_size": options.max_batch_size or config.batch_size,
        "max_num_tokens": options.max_num_tokens,
        "max_seq_len": options.max_seq_len,
        "max_input_len": options.max_input_len or config.workload.max_input_tokens,
    }


def _kv_cache(options: TrtOptions, extra: dict[str, Any]) -> Any:
    own = {
        "free_gpu_memory_fraction": options.kv_cache_free_gpu_memory_fraction,
        "max_tokens": options.kv_cache_max_tokens,
        "dtype": options.kv_cache_dtype,
        # On is its own default; but nothing empties the cache between passes, so later ones would find their prompts.
        "enable_block_reuse": bool(options.enable_block_reuse),
    }
    names = {
        "free_gpu_memory_fraction": "kv_cache_free_gpu_memory_fraction",
        "max_tokens": "kv_cache_max_tokens",
        "dtype": "kv_cache_dtype",
        "enable_block_reuse": "enable_block_reuse",
    }
    return KvCacheConfig(**_merged("kv_cache_config", own, names, extra))


def _scheduler(options: TrtOptions, extra: dict[str, Any]) -> Any:
    own = {
        "capacity_scheduler_policy": options.scheduler_policy and options.scheduler_policy.upper(),
        "context_chunking_policy": options.context_chunking_policy and options.context_chunking_policy.upper(),
    }
    names = {
        "capacity_scheduler_policy": "scheduler_policy",
        "context_chunking_policy": "context_chunking_policy",
    }
    merged = _merged("scheduler_config", own, names, extra)
    return SchedulerConfig(**merged) if merged else None


def _cuda_graphs(options: TrtOptions, extra: dict[str, Any]) -> Any:
    own = {
        "batch_sizes": sorted(options.cuda_graph_batch_sizes or ()) or None,
        "enable_padding": options.cuda_graph_padding,
    }
    names = {"batch_sizes": "cuda_graph_batch_sizes", "enable_padding": "cuda_graph_padding"}
    merged = _merged("cuda_graph_config", own, names, extra)
    return CudaGraphConfig(**merged) if merged else None


def _quantization(options: TrtOptions, extra: dict[str, Any]) -> Any:
    own = {
        "quant_algo": options.quant_algo and QuantAlgo(options.quant_algo),
        "kv_cache_quant_algo": options.kv_cache_quant_algo and QuantAlgo(options.kv_cache_quant_algo),
    }
    merged = _merged("quant_config", own, {name: name for name in own}, extra)
    return QuantConfig(**merged) if merged else None


def _build(config: ExperimentConfig, options: TrtOptions) -> Any:
    """None leaves it to TensorRT-LLM, which takes the sizes from the arguments; a BuildConfig has to hold them."""
    if not options.build_config:
        return None
    sizes = {name: value for name, value in _sizes(config, options).items() if value is not None}
    refuse_doubles("trt.build_config", {name: f"trt.{name}" for name in sizes}, options.build_config)
    return BuildConfig(**sizes, **options.build_config)


def _speculation(options: TrtOptions, drafter: str | None) -> Any:
    if not options.speculative_config:
        return None
    fields = dict(options.speculative_config)
    kind = fields.pop("decoding_type", None)
    known = sorted(name.removesuffix("DecodingConfig") for name in dir(llmapi) if name.endswith("DecodingConfig"))
    if kind not in known:
        raise ConfigInvalid(
            f"trt.speculative_config.decoding_type is {kind!r}, which TensorRT-LLM does not have.",
            f"It has: {', '.join(known)}.",
        )
    if drafter is not None:
        fields["speculative_model_dir"] = drafter
    return getattr(llmapi, f"{kind}DecodingConfig")(**fields)


def _merged(part: str, own: Mapping[str, Any], names: Mapping[str, str], extra: dict[str, Any]) -> dict[str, Any]:
    """The fields that were set, with those of the same part in `extra`, which is taken out of there."""
    more = extra.pop(part, {})
    if not isinstance(more, dict):
        raise ConfigInvalid(f"trt.extra.{part} is not a mapping.", "Give its fields and their values.")
    refuse_doubles(f"trt.extra.{part}", {name: f"trt.{names[name]}" for name in own}, more)
    return {**{name: value for name, value in own.items() if value is not None}, **more}


def _leaves(asked: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what was asked for, inside of TensorRT-LLM's own parts too."""
    for name, value in asked.items():
        if name in ("model", "build_config", "enable_build_cache", "workspace"):
            continue  # not settings, or replaced by a path while the engine is built
        fields = getattr(value, "model_fields_set", None)
        if fields is not None:
            yield from ((f"{name}.{field}", getattr(value, field)) for field in fields)
        elif isinstance(value, dict):
            yield from ((f"{name}.{field}", one) for field, one in value.items())
        elif value is not None and value != "auto":
            yield name, value


def _look_up(used: Any, name: str) -> Any:
    """None also for a part of something that is turned off; _UNKNOWN if this version has no such name."""
    for part in name.split("."):
        used = None if used is None else getattr(used, part, _UNKNOWN)
    return used


def _plain(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)
