"""The model's tokenizer, shape and end tokens; TensorRT-LLM reads the weights itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.models.reading import DTYPES, model_commit, reading_model, source_of
from images.models.tiny_llama import save_model
from images.models.tokenizer import end_ids


@dataclass(frozen=True, slots=True)
class Model:
    """
    Attributes:
        source: folder, or name on the hub.
        text_config: of transformers.
        end_ids: tokens that end an output, the main one first.
        pad_id: what fills up; never part of an output.
    """

    source: str
    tokenizer: PreTrainedTokenizerBase
    text_config: Any
    end_ids: tuple[int, ...]
    pad_id: int


def open_model(config: ExperimentConfig, folder: Path) -> Model:
    """Read what there is to know before the weights are loaded; builtin:tiny-llama is made in `folder`.

    Raises:
        ModelUnavailable, ConfigInvalid: it cannot be had.
    """
    if config.model == TINY_LLAMA:
        # Its own weights are float32, for which TensorRT-LLM's kernels are not made.
        save_model(folder, config.seed, DTYPES.get(config.dtype, torch.bfloat16))
        return _read(str(folder), {})
    common = {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}
    with reading_model(config):
        return _read(source_of(config), common)


def drafter_folder(config: ExperimentConfig, folder: Path) -> str | None:
    """The folder of the model that drafts tokens; builtin:tiny-llama is made in `folder`, which need not exist yet.

    A folder in any case: TensorRT-LLM's PyTorch backend looks for no drafter on the hub or in its cache.

    Raises:
        ModelUnavailable: it cannot be had.
    """
    if config.drafter is None:
        return None
    if config.drafter == TINY_LLAMA:
        save_model(folder, config.seed, DTYPES.get(config.dtype, torch.bfloat16))
        return str(folder)
    of_drafter = _as_model(config, config.drafter)
    if of_drafter.model_path is not None:
        return source_of(of_drafter)
    with reading_model(of_drafter):
        found = try_to_load_from_cache(config.drafter, "config.json")
        return str(Path(found).parent) if isinstance(found, str) else str(snapshot_download(config.drafter))


def drafter_commit(config: ExperimentConfig) -> str | None:
    """The hub's commit of the model that drafts tokens; None of any other."""
    return None if config.drafter is None else model_commit(_as_model(config, config.drafter))


def _as_model(config: ExperimentConfig, drafter: str) -> ExperimentConfig:
    return config.model_copy(update={"model": drafter, "model_revision": None})


def _read(source: str, common: dict[str, Any]) -> Model:
    tokenizer = AutoTokenizer.from_pretrained(source, **common)
    model_config = AutoConfig.from_pretrained(source, **common)
    ends = end_ids(_configured_ends(source, common, model_config), tokenizer)
    pad_id = tokenizer.pad_token_id
    return Model(source, tokenizer, model_config.get_text_config(), ends, pad_id if pad_id is not None else 0)


def _configured_ends(source: str, common: dict[str, Any], model_config: Any) -> Any:
    """As the model's own generation config has them, and where it has no such file its model config."""
    try:
        return GenerationConfig.from_pretrained(source, revision=common.get("revision")).eos_token_id
    except OSError:
        return getattr(model_config.get_text_config(), "eos_token_id", None)
