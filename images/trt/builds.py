"""Engines of the TensorRT backend: where built ones are kept, and how long building took."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.contract.job import ENV_ENGINE_CACHE, ConfigInvalid
from images.contract.options.trt import TrtOptions
from images.trt.engine import BuildCacheConfig

_MOST_ENGINES = 100


@contextmanager
def kept_engines(
    config: ExperimentConfig, model_commit: str | None, drafter_commit: str | None
) -> Iterator[dict[str, Any]]:
    """Further arguments of `LLM`, so that it finds and keeps engines; none without a folder for them.

    One job at a time: TensorRT-LLM tidies the folder while it writes there, and takes what another job is building
    for rubbish.

    Raises:
        ConfigInvalid: the folder is not there, or not writable.
    """
    folder = os.environ.get(ENV_ENGINE_CACHE)
    # The built-in model lies in another folder each time, so it would never be found.
    if not folder or not _builds(config) or TINY_LLAMA in (config.model, config.drafter):
        yield {}
        return
    kept = Path(folder) / _name_of(config, model_commit, drafter_commit)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        lock = (Path(folder) / f"{kept.name}.lock").open("w")
    except OSError as error:
        raise ConfigInvalid(
            f"the folder for engines {folder} cannot be written ({error.strerror}).",
            f"Make it writable for the job, or unset {ENV_ENGINE_CACHE}.",
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {
            "enable_build_cache": BuildCacheConfig(cache_root=kept, max_records=_MOST_ENGINES),
            # An engine is as large as the model; /tmp of a container is memory.
            "workspace": folder,
        }


def build_facts(config: ExperimentConfig, llm: Any) -> dict[str, str]:
    """Seconds that building the engine took, and whether it was there already, as TensorRT-LLM says.

    Nothing where it does not say so, and for engine pytorch, which builds none and has the same counters at 0.
    """
    stats = getattr(llm, "llm_build_stats", None)
    if stats is None or not _builds(config):
        return {}
    seconds = sum(step_s for name, step_s in stats.build_steps_info if "Building" in name)
    return {"engine_build_s": f"{seconds:.1f}", "engine_from_cache": str(bool(stats.cache_hitted))}


def _builds(config: ExperimentConfig) -> bool:
    return (config.trt or TrtOptions()).engine == "tensorrt"


def _name_of(config: ExperimentConfig, model_commit: str | None, drafter_commit: str | None) -> str:
    """What TensorRT-LLM's own key leaves out: the models' content, where it has paths only, and the GPU."""
    described = json.loads(config.canonical_json())
    identity = [
        described.get("model"),
        model_commit,
        torch.cuda.get_device_name(),
        config.gpus_per_process,
    ]
    if config.drafter is not None:
        identity += [described["trt"]["speculative_config"]["speculative_model_dir"], drafter_commit]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
