"""FLOPs by hand; tests/images/pytorch compares the same functions with torch's own counter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from images.harness.flops import ModelShape, count_flops, shape_from_config

SHAPE = ModelShape(
    layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=32, gated=True
)  # one layer: q and o 8x8 each, k and v 8x4 each, three 8x16
PER_POSITION = 2 * (2 * (64 + 64 + 32 + 32 + 3 * 128))
HEAD = 2 * 8 * 32


def attention(keys_seen: int) -> int:
    """Scores and values of one layer: 4 x width per key."""
    return 4 * 8 * keys_seen


def test_every_position_but_the_last_sampled_token_is_computed_and_sees_what_is_before_it() -> None:
    # 3 input and 2 output tokens: positions 1 to 4, which see 1 + 2 + 3 + 4 keys.
    expected = 4 * PER_POSITION + 2 * HEAD + 2 * attention(10)
    assert count_flops([(3, 2)], SHAPE, None) == (expected, "architecture")


def test_requests_add_up_and_do_not_see_each_other() -> None:
    together, _ = count_flops([(3, 2), (5, 1)], SHAPE, None)
    alone = [count_flops([lengths], SHAPE, None)[0] or 0 for lengths in [(3, 2), (5, 1)]]
    assert together == sum(alone)
    assert count_flops([(8, 3)], SHAPE, None)[0] != together


@pytest.mark.parametrize(
    ("window", "keys_seen"),
    [(1, 6), (3, 1 + 2 + 3 + 3 + 3 + 3), (6, 21), (100, 21)],
)
def test_a_sliding_layer_sees_at_most_its_window_and_the_others_everything(window: int, keys_seen: int) -> None:
    shape = replace(SHAPE, sliding_layers=1, sliding_window=window)
    expected = 6 * PER_POSITION + 1 * HEAD + attention(21) + attention(keys_seen)
    assert count_flops([(6, 1)], shape, None)[0] == expected


def test_an_unknown_architecture_counts_two_flops_per_parameter_and_says_so() -> None:
    assert count_flops([(3, 2), (1, 1)], None, 1000) == (2 * 1000 * (4 + 1), "parameters_2N")


def test_nothing_known_is_none_and_not_zero() -> None:
    assert count_flops([(3, 2)], None, None) == (None, None)


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
}


def test_the_shape_of_a_known_architecture_is_read_from_its_config() -> None:
    assert shape_from_config(LLAMA) == SHAPE


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mamba"},
        {"model_type": None},
        {"hidden_size": None},
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0]},
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2},
        {"model_type": "mixtral"},  # and no word of experts
        {"model_type": "opt", "ffn_dim": 16, "word_embed_proj_dim": 4},
    ],
)
def test_an_architecture_that_is_not_known_exactly_has_no_shape(changes: dict[str, Any]) -> None:
    assert shape_from_config({**LLAMA, **changes}) is None


@pytest.mark.parametrize(
    ("changes", "sliding"),
    [
        ({}, 0),
        ({"sliding_window": 4}, 2),
        ({"sliding_window": 4, "use_sliding_window": False}, 0),
        ({"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}, 1),
    ],
)
def test_only_the_layers_that_slide_are_counted_as_sliding(changes: dict[str, Any], sliding: int) -> None:
    shape = shape_from_config({**LLAMA, "model_type": "mistral", **changes})
    assert shape is not None
    assert shape.sliding_layers == sliding
