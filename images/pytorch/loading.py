"""The model as the options ask for it: read or made, quantized, sharded, with its assistant."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed import DistributedConfig

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.contract.job import ConfigInvalid
from images.contract.options.pytorch import PytorchOptions
from images.models.extras import refuse_doubles
from images.models.reading import DTYPES, model_commit, reading_model, source_of
from images.models.tiny_llama import make_model, make_tokenizer, save_model
from images.models.tokenizer import end_ids
from images.pytorch.device_errors import device_errors

_OWN = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "revision": "model_revision",
    "trust_remote_code": "trust_remote_code",
    "attn_implementation": "pytorch.attn_implementation",
    "quantization_config": "pytorch.quantization",
    "load_in_8bit": "pytorch.quantization",
    "load_in_4bit": "pytorch.quantization",
    "device_map": "pytorch.device or gpus_per_process",
    "tp_plan": "gpus_per_process",
    "tp_size": "gpus_per_process",
    "distributed_config": "gpus_per_process",
}
"""Arguments of `from_pretrained` that have a field of their own."""


@dataclass(frozen=True, slots=True)
class Models:
    """What was loaded.

    Attributes:
        ends: end tokens as the model's own generation config has them, else the tokenizer's.
        assistant: drafts tokens for the model; None if none was asked for.
        assistant_commit: its commit on the hub; None of any other.
    """

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    ends: frozenset[int]
    assistant: PreTrainedModel | None
    assistant_commit: str | None


def check_options(config: ExperimentConfig, options: PytorchOptions, device: torch.device) -> None:
    """
    Raises:
        ConfigInvalid: what is asked for cannot work together, or here.
    """
    if options.is_assisted and config.batch_size != 1:
        drafter = "assistant_model" if options.assistant_model is not None else "prompt_lookup_num_tokens"
        raise ConfigInvalid(
            f"pytorch.{drafter} works on one request at a time, and batch_size is {config.batch_size}.",
            "Set batch_size: 1.",
        )
    if config.gpus_per_process > 1 and (options.is_assisted or options.quantization is not None):
        raise ConfigInvalid(
            "backend pytorch can split a model over GPUs neither quantized nor assisted.",
            "Set gpus_per_process: 1, or leave pytorch.quantization and the assistant.",
        )
    if options.cache_is_offloaded and device.type == "cpu":
        raise ConfigInvalid(
            f"pytorch.cache_implementation {options.cache_implementation} keeps the cache of a GPU in host memory, and "
            "there is no GPU.",
            "Give the job a GPU, or leave cache_implementation.",
        )
    compiled = "torch_compile" if options.torch_compile else "attn_implementation flex_attention"
    needs_compiler = options.torch_compile or options.attn_implementation == "flex_attention"
    if needs_compiler and not (os.environ.get("CXX") or shutil.which("g++")):
        raise ConfigInvalid(
            f"pytorch.{compiled} needs a C++ compiler, and there is none.",
            "Install g++, or use --launcher docker: the image has one.",
        )


def load_models(config: ExperimentConfig, options: PytorchOptions, device: torch.device) -> Models:
    """Read or make the model and what goes with it; with several GPUs every rank calls this at the same time.

    Raises:
        ModelUnavailable: it cannot be had.
        ConfigInvalid: it can, but not with these options.
    """
    refuse_doubles("pytorch.extra", _OWN, options.extra)
    tokenizer, model = _load(config, options, device)
    own_config = model.generation_config
    ends = frozenset(end_ids(own_config.eos_token_id if own_config is not None else None, tokenizer))
    # A hub's generation_config.json must not change sampling behind the configuration's back.
    model.generation_config = GenerationConfig()
    if options.assistant_model is None:
        return Models(tokenizer, model, ends, None, None)
    of_assistant = config.model_copy(
        update={"model": options.assistant_model, "model_revision": options.assistant_model_revision}
    )
    _, assistant = _load(of_assistant, PytorchOptions(attn_implementation=options.attn_implementation), device)
    _require_same_vocabulary(model, assistant, options.assistant_model)
    assistant.generation_config = GenerationConfig(
        num_assistant_tokens=options.num_assistant_tokens,
        assistant_confidence_threshold=options.assistant_confidence_threshold,
    )
    return Models(tokenizer, model, ends, assistant, model_commit(of_assistant))


def weight_bytes(model: PreTrainedModel) -> int:
    """What this process holds of the model's weights and buffers, scales of quantized ones included (bytes)."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(_bytes(tensor) + sum(map(_bytes, _scales(tensor))) for tensor in tensors)


def _load(
    config: ExperimentConfig, options: PytorchOptions, device: torch.device
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    sharded = config.gpus_per_process > 1
    if config.model == TINY_LLAMA and options.extra:
        raise ConfigInvalid(f"pytorch.extra has no meaning for {TINY_LLAMA}.", "Remove it, or name a real model.")
    if config.model != TINY_LLAMA:
        tokenizer, model = _read(source_of(config), config, options, device)
    elif sharded or options.quantization is not None:
        # transformers does both only to a model that it reads.
        with TemporaryDirectory() as folder:
            save_model(Path(folder), config.seed, DTYPES.get(config.dtype, torch.float32))
            tokenizer, model = _read(folder, config, options, device)
    else:
        with reading_model(config):
            model = make_model(config.seed, options.attn_implementation)
        tokenizer, model = make_tokenizer(), model.to(DTYPES.get(config.dtype, torch.float32))
    model.eval()
    if not sharded and options.quantization is None:
        model.to(device)
    return tokenizer, model


def _read(
    source: str, config: ExperimentConfig, options: PytorchOptions, device: torch.device
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    common = {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}
    arguments: dict[str, Any] = {"dtype": DTYPES.get(config.dtype, "auto"), **options.extra}
    if options.attn_implementation is not None:
        arguments["attn_implementation"] = options.attn_implementation
    if options.quantization is not None:
        arguments["quantization_config"] = _quantization(options)
        arguments["device_map"] = {"": device}
    if config.gpus_per_process > 1:
        arguments["distributed_config"] = DistributedConfig(tp_size=config.gpus_per_process, tp_plan="auto")
    with reading_model(config), device_errors(), _quantizing(options):
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        return tokenizer, AutoModelForCausalLM.from_pretrained(source, **common, **arguments)


def _quantization(options: PytorchOptions) -> BitsAndBytesConfig:
    # It warns at every product of a dtype other than float16, which would be in the measured window.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if options.quantization == "bnb_8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.bnb_4bit_quant_type or "fp4",
        bnb_4bit_compute_dtype=DTYPES[options.bnb_4bit_compute_dtype or "float32"],
        bnb_4bit_use_double_quant=options.bnb_4bit_use_double_quant,
    )


@contextmanager
def _quantizing(options: PytorchOptions) -> Iterator[None]:
    """bitsandbytes says with a RuntimeError that it has no kernels for a device, which is no damage to the model."""
    try:
        yield
    except (RuntimeError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        lacking = isinstance(error, ImportError) or "bitsandbytes" in str(error)
        if options.quantization is None or not lacking:
            raise
        raise ConfigInvalid(
            f"pytorch.quantization {options.quantization} cannot be had here: {reason}"[:300],
            "Leave pytorch.quantization, or use a device that bitsandbytes supports.",
        ) from None


def _require_same_vocabulary(model: PreTrainedModel, assistant: PreTrainedModel, name: str) -> None:
    """Drafted ids are compared as they are."""
    sizes = [one.config.get_text_config().vocab_size for one in (model, assistant)]
    if sizes[0] != sizes[1]:
        raise ConfigInvalid(
            f"the assistant {name} has {sizes[1]} tokens and the model {sizes[0]}: they do not share a tokenizer.",
            "Take an assistant of the model's own family.",
        )


def _bytes(tensor: torch.Tensor) -> int:
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(own.nbytes)


def _scales(tensor: torch.Tensor) -> list[torch.Tensor]:
    """bitsandbytes keeps them beside the weight: SCB of 8 bit, a state of 4 bit, which has its own if doubled."""
    state = getattr(tensor, "quant_state", None)
    held = [getattr(tensor, "SCB", None)]
    while state is not None:
        held += [state.absmax, state.code]
        state = getattr(state, "state2", None)
    return [one for one in held if isinstance(one, torch.Tensor)]
