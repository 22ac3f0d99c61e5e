"""The dtype that `auto` means, for models as they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoConfig, LlamaForCausalLM

from images.models.tiny_llama import make_model
from images.vllm.dtypes import own_dtype

pytestmark = pytest.mark.torch


def own(folder: Path, **named: Any) -> str | None:
    """Of the model in `folder` once its config.json names no dtype, or what is `named`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("dtype", None)
    path.write_text(json.dumps({**config, **named}))
    return own_dtype(AutoConfig.from_pretrained(folder), str(folder), None)


@pytest.fixture
def half() -> LlamaForCausalLM:
    return make_model(1, None).to(torch.float16)


def test_what_the_configuration_names_counts(half: LlamaForCausalLM, tmp_path: Path) -> None:
    half.save_pretrained(tmp_path)
    assert own(tmp_path, dtype="float32") == "float32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_without_it_the_weights_tell(dtype: torch.dtype, tmp_path: Path) -> None:
    make_model(1, None).to(dtype).save_pretrained(tmp_path)
    assert own(tmp_path) == str(dtype).removeprefix("torch.")
    assert LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == dtype


def test_weights_may_be_in_several_files(half: LlamaForCausalLM, tmp_path: Path) -> None:
    half.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert own(tmp_path) == "float16"


def test_weights_may_be_in_pytorchs_own_format(half: LlamaForCausalLM, tmp_path: Path) -> None:
    half.config.save_pretrained(tmp_path)
    torch.save(half.state_dict(), tmp_path / "pytorch_model.bin")
    assert own(tmp_path) == "float16"


def test_stored_numbers_of_a_quantized_model_and_weights_that_are_not_there_tell_nothing(
    half: LlamaForCausalLM, tmp_path: Path
) -> None:
    half.save_pretrained(tmp_path)
    assert own(tmp_path, quantization_config={"quant_method": "awq"}) is None
    (tmp_path / "model.safetensors").unlink()
    assert own_dtype(AutoConfig.for_model("llama"), str(tmp_path), None) is None
