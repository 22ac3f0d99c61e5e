"""FLOPs against real models: their weights, and torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from images.harness.flops import ModelShape, count_flops, shape_from_config

pytestmark = pytest.mark.torch

LAYERS, WIDTH = 3, 32
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NOTHING: dict[str, Any] = {}
HEAD_DIM = {"head_dim": 16}  # 4 heads of 16 are wider than the hidden size, as in Qwen3 and Gemma
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
KINDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "qwen2", "phi3", "phi", "olmo", "olmo2", "granite", "starcoder2", "gpt_neox"), NOTHING),
    **dict.fromkeys(("mistral", "qwen3", "gemma", "gemma2", "gemma3_text"), HEAD_DIM),
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": WIDTH},
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "qwen3_moe": {**EXPERTS, **HEAD_DIM, "moe_intermediate_size": 24},
}


def make(kind: str, **options: Any) -> tuple[PreTrainedModel, ModelShape]:
    sizes = {**SIZES, **KINDS[kind]}
    if kind in ("gpt_neox", "opt"):
        del sizes["num_key_value_heads"]  # which they do not know
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes), **options).eval()
    shape = shape_from_config(model.config.to_dict())
    assert shape is not None
    return model, shape


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_active_parameters_are_the_matrices_that_one_position_really_passes_through(kind: str) -> None:
    model, shape = make(kind)
    active = 0
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or any(part in name for part in ("embed", "lm_head")):
            continue  # norms and biases; embeddings and the head
        of_experts = weight.ndim == 3
        active += weight.numel() * 2 // 4 if of_experts else weight.numel()
    assert shape.active_parameters == active
    assert bool(shape.experts) == (kind in ("mixtral", "olmoe", "qwen3_moe"))


def counted(model: PreTrainedModel, inputs: int, outputs: int) -> float:
    """What torch counts while `model` generates."""
    model.generation_config = GenerationConfig()
    ids = torch.arange(3, 3 + inputs)[None]
    limits = GenerationConfig(max_new_tokens=outputs, min_new_tokens=outputs, do_sample=False, pad_token_id=0)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=limits)
    return float(counter.get_total_flops())


@pytest.mark.parametrize(("inputs", "outputs"), [(9, 1), (9, 5), (1, 4)])
@pytest.mark.parametrize("kind", ["llama", "opt", "qwen3", "mixtral"])
def test_flops_equal_torchs_own_count_of_a_generation(kind: str, inputs: int, outputs: int) -> None:
    # Eager, because the counter does not know the CPU's fused kernels.
    options = {"attn_implementation": "eager"} | ({"experts_implementation": "eager"} if kind == "mixtral" else {})
    model, shape = make(kind, **options)
    flops, method = count_flops([(inputs, outputs)], shape, None)
    assert flops is not None
    # Torch multiplies the whole square of the prefill and then masks it; we count what a position sees.
    masked = inputs * inputs - inputs * (inputs + 1) // 2
    assert counted(model, inputs, outputs) == flops + 4 * LAYERS * shape.heads * shape.head_dim * masked
    assert method == "architecture"
