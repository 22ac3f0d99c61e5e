"""From a configuration to the arguments of vLLM's `LLM`, and the environment it is started in."""

from __future__ import annotations

import os
from typing import Any

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid
from images.contract.options.vllm import VllmOptions
from images.models.extras import refuse_doubles

PASSED = (
    "attention_backend",
    "async_scheduling",
    "block_size",
    "cpu_offload_gb",
    "disable_custom_all_reduce",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_expert_parallel",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "kv_cache_memory_bytes",
    "kv_offloading_size",
    "load_format",
    "long_prefill_token_threshold",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "optimization_level",
    "performance_mode",
    "quantization",
    "stream_interval",
)
"""Options that have the engine's own name."""
_OWN = {
    **{name: f"vllm.{name}" for name in PASSED},
    "model": "model",
    "tokenizer": "model",
    "revision": "model_revision",
    "tokenizer_revision": "model_revision",
    "trust_remote_code": "trust_remote_code",
    "dtype": "dtype",
    "seed": "seed",
    "tensor_parallel_size": "gpus_per_process",
    "data_parallel_size": "num_processes",
    "speculative_config": "vllm.speculative",
    "spec_method": "vllm.speculative.method",
    "spec_model": "vllm.speculative.model",
    "spec_tokens": "vllm.speculative.num_speculative_tokens",
    "cudagraph_mode": "vllm.cudagraph_mode",
}
_NEEDED = ("disable_log_stats", "log_config_file", "logging_config", "worker_extension_cls")
_CPU_KV_CACHE_BYTES = 2**30


def prepare_environment(config: ExperimentConfig) -> None:
    """What vLLM reads from the environment; whatever is set already stays.

    The start method: a forked engine would inherit this process's signal handlers and the socket that they wake, so
    that ending the engine would end the job. It changes nothing once the engine runs.
    """
    settings = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_HOST_IP": "127.0.0.1",  # all processes are on this machine, which may have no network
        "VLLM_NO_USAGE_STATS": "1",  # nothing but the measured work runs beside it
    }
    if config.num_processes > 1 or config.gpus_per_process > 1:
        # Each engine would bind its threads to the same cores, and the workers of one want a NUMA node each.
        settings["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def engine_arguments(
    config: ExperimentConfig, source: str, dtype: str, log_config: str, *, cpu: bool
) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`.

    Args:
        source: folder or hub id of the model.
        log_config: file that vLLM configures its logging with, in all its processes.
        cpu: whether this vLLM runs on the CPU, where it would take 0.92 of the machine's memory for itself.

    Raises:
        ConfigInvalid: `vllm.extra` overrides what has a field of its own, or what the measurement needs; or options
            do not go together.
    """
    options = config.vllm or VllmOptions()
    refuse_doubles("vllm.extra", _OWN, options.extra, _NEEDED)
    chosen = {name: value for name in PASSED if (value := getattr(options, name)) is not None}
    if cpu and not {"kv_cache_memory_bytes", "gpu_memory_utilization"} & {*chosen, *options.extra}:
        chosen["kv_cache_memory_bytes"] = _CPU_KV_CACHE_BYTES
    if cpu and config.sampling.temperature > 0 and chosen.setdefault("enable_chunked_prefill", False):
        # Its worker fails where it would take back what a part of a prompt has drawn from the request's generator.
        raise ConfigInvalid(
            "vLLM for the CPU cannot split prompts over steps and draw tokens from a seed.",
            "Leave vllm.enable_chunked_prefill, or set sampling.temperature: 0.",
        )
    arguments: dict[str, Any] = {
        "model": source,
        "revision": None if config.model_path is not None else config.model_revision,
        "tokenizer_revision": None if config.model_path is not None else config.model_revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": dtype,
        "seed": config.seed,
        "tensor_parallel_size": config.gpus_per_process,
        "max_num_seqs": config.batch_size,
        "disable_log_stats": False,  # without them it keeps no times of requests
        "log_config_file": log_config,
        "worker_extension_cls": "images.vllm.worker.WorkerFacts",
        **chosen,
        **options.extra,
    }
    if compilation := _compilation(options):
        arguments["compilation_config"] = compilation
    if options.speculative.is_on:
        arguments["speculative_config"] = options.speculative.model_dump(exclude_none=True)
    return arguments


def _compilation(options: VllmOptions) -> dict[str, Any]:
    fields = {"mode": options.compilation_mode, "cudagraph_mode": options.cudagraph_mode}
    chosen = {name: value for name, value in fields.items() if value is not None}
    given = options.extra.get("compilation_config", {})
    if not chosen or not given:
        return chosen
    if not isinstance(given, dict):
        raise ConfigInvalid(
            "vllm.extra.compilation_config is no mapping, and vllm.compilation_mode or cudagraph_mode is set too.",
            "Give one of them.",
        )
    return {**given, **chosen}
