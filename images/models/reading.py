"""Errors of reading a model, told apart: not there, not allowed, not reachable, not understood; and its commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.contract.job import ConfigInvalid, JobError, ModelUnavailable, OutOfMemory

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""By the configuration's name; `auto` is the model's own."""
_NO_MEMORY = re.compile(r"(can.t|cannot) allocate memory|unable to mmap|not enough memory", re.IGNORECASE)


def source_of(config: ExperimentConfig) -> str:
    """The model's folder, or its name on the hub.

    Raises:
        ModelUnavailable: there is no model in the folder.
    """
    folder = config.model_path
    if folder is not None and not (folder / "config.json").is_file():
        raise ModelUnavailable(
            f"the folder {folder} holds no model (there is no config.json in it).", "Correct the path."
        )
    return str(folder or config.model)


@contextmanager
def reading_model(config: ExperimentConfig) -> Iterator[None]:
    """Turn what transformers raises while it reads `config.model` into one clear line.

    Raises:
        ModelUnavailable: the model cannot be had.
        OutOfMemory: the host has no room for it.
        ConfigInvalid: it can, but not with these options.
    """
    try:
        yield
    except (OSError, ValueError, ImportError, TypeError, KeyError, RuntimeError, SafetensorError, MemoryError) as error:
        raise _explain(error, config) from None


def _explain(error: Exception, config: ExperimentConfig) -> JobError:
    model = config.model
    causes = list(chain(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return ModelUnavailable(
            f"the model {model} is gated and this token (or no token) has no access.",
            f"Accept its licence at https://huggingface.co/{model} and set HF_TOKEN to a token of that account.",
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return ModelUnavailable(
            f"the model {model} has no revision {config.model_revision}.", "Correct model_revision."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return ModelUnavailable(
            f"the model {model} is not on the hub.", "Correct the name; for a private model set HF_TOKEN."
        )
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError) for cause in causes):
        return ModelUnavailable(
            f"the model {model} is not in the local cache and the hub cannot be reached.",
            "Connect to the hub once, or give a local folder.",
        )
    text = str(error).strip()
    reason = text.splitlines()[0].rstrip(" .:,") if text else type(error).__name__
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return OutOfMemory(
            f"the host has no room for the model {model}: {reason}.",
            "Take a smaller model or dtype, or raise the job's memory limit.",
        )
    if "instantiate the backend tokenizer" in text:
        return ModelUnavailable(f"the model {model} has no tokenizer that can be read.", "Get it again, whole.")
    if "ignore_mismatched_sizes" in text:
        return ModelUnavailable(f"the weights of the model {model} do not fit its config.json.", "Get it again.")
    if isinstance(error, KeyError | RuntimeError | SafetensorError):
        return ModelUnavailable(f"the model {model} is damaged: {reason}.", "Get it again.")
    if isinstance(error, OSError):
        return ModelUnavailable(f"the model {model} cannot be read: {reason}.", "Check the name or the folder.")
    return ConfigInvalid(
        f"the model {model} cannot be loaded: {reason}.", f"Check model, dtype and the {config.backend} section."
    )


def chain(error: BaseException | None, *, implied: bool = True) -> Iterator[BaseException]:
    """From the outermost to what it was raised from.

    Args:
        implied: follow also what was being handled when the next was raised, though nobody named it as the cause.
    """
    while error is not None:
        yield error
        error = error.__cause__ or (error.__context__ if implied else None)


def model_commit(config: ExperimentConfig) -> str | None:
    """The hub's commit that was just read, which is the name of its folder in the cache; None of any other model."""
    if config.model == TINY_LLAMA or config.model_path is not None:
        return None
    found = try_to_load_from_cache(config.model, "config.json", revision=config.model_revision)
    return Path(found).parent.name if isinstance(found, str) else None
