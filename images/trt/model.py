"""The model's tokenizer, shape and end tokens; TensorRT-LLM reads the weights itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.contract.job import ModelUnavailable
from images.models.reading import reading_model
from images.models.tiny_llama import make_model, make_tokenizer

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
        make_model(config.seed, None).to(_DTYPES.get(config.dtype, torch.bfloat16)).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return _read(str(folder), {})
    if config.model_path is not None and not (config.model_path / "config.json").is_file():
        raise ModelUnavailable(
            f"the folder {config.model_path} holds no model (there is no config.json in it).", "Correct the path."
        )
    common = {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}
    with reading_model(config):
        return _read(str(config.model_path or config.model), common)


def _read(source: str, common: dict[str, Any]) -> Model:
    tokenizer = AutoTokenizer.from_pretrained(source, **common)
    model_config = AutoConfig.from_pretrained(source, **common)
    ends = _end_ids(source, common, model_config) or _listed(tokenizer.eos_token_id)
    pad_id = tokenizer.pad_token_id
    return Model(source, tokenizer, model_config.get_text_config(), ends, pad_id if pad_id is not None else 0)


def _end_ids(source: str, common: dict[str, Any], model_config: Any) -> tuple[int, ...]:
    """As the model's own generation config has them, and where it has no such file its model config."""
    try:
        return _listed(GenerationConfig.from_pretrained(source, revision=common.get("revision")).eos_token_id)
    except OSError:
        return _listed(getattr(model_config.get_text_config(), "eos_token_id", None))


def _listed(ids: int | list[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)
