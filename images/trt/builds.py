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
from images.trt.engine import BuildCacheConfig

_MOST_ENGINES = 100


@contextmanager
def kept_engines(config: ExperimentConfig, model_commit: str | None) -> Iterator[dict[str, Any]]:
    """Further arguments of `LLM`, so that it finds and keeps engines; none without a folder for them.

    One job at a time: TensorRT-LLM tidies the folder while it writes there, and takes what another job is building
    for rubbish.

    Raises:
        ConfigInvalid: the folder is not there, or not writable.
    """
    folder = os.environ.get(ENV_ENGINE_CACHE)
    if not folder or config.model == TINY_LLAMA:  # the latter lies in another folder each time, so it is never found
        yield {}
        return
    kept = Path(folder) / _name_of(config, model_commit)
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


def build_facts(llm: Any) -> dict[str, str]:
    """Seconds that building the engine took, and whether it was there already, as TensorRT-LLM says; else nothing."""
    stats = getattr(llm, "llm_build_stats", None)
    if stats is None:
        return {}
    seconds = sum(step_s for name, step_s in stats.build_steps_info if "Building" in name)
    return {"engine_build_s": f"{seconds:.1f}", "engine_from_cache": str(bool(stats.cache_hitted))}


def _name_of(config: ExperimentConfig, model_commit: str | None) -> str:
    """What TensorRT-LLM's own key leaves out: the model's content, where it has a path only, and the GPU."""
    identity = (
        json.loads(config.canonical_json()).get("model"),
        model_commit,
        torch.cuda.get_device_name(),
        config.gpus_per_process,
    )
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
