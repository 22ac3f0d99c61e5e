"""FLOPs of a decoder-only transformer; a multiply-add counts 2 and padding is not counted.

Per processed position: 2 x active non-embedding parameters, and 4 x width x context per layer for
attention (scores and values); per sampled position: the output head. After Kaplan et al. (2020),
"Scaling Laws for Neural Language Models", section 2.1, with the context that each position really sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

FlopsMethod = Literal["architecture", "parameters_2N"]

_GATED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo", "olmo2", "granite"}
_PLAIN = {"opt", "gpt_neox", "phi", "starcoder2"}
_MIXTURES = {"mixtral", "qwen3_moe", "olmoe"}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that decide the arithmetic."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    gated: bool
    experts: int = 0
    experts_per_token: int = 0
    sliding_layers: int = 0
    sliding_window: int | None = None

    @property
    def active_parameters(self) -> int:
        """Weights of matrix products that one position passes through, embedding and head left out."""
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * width + 2 * kv_width)
        feed_forward = (3 if self.gated else 2) * self.hidden * self.intermediate
        if self.experts:
            feed_forward = feed_forward * self.experts_per_token + self.hidden * self.experts
        return self.layers * (attention + feed_forward)


def shape_from_config(config: Mapping[str, Any]) -> ModelShape | None:
    """Sizes from a model's config.json; None for an architecture that is not known exactly."""
    kind = config.get("model_type")
    if kind not in _GATED | _PLAIN | _MIXTURES:
        return None
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        return None  # dense and sparse layers mixed
    if config.get("word_embed_proj_dim") not in (None, config.get("hidden_size")):
        return None  # projections around the embedding, as in opt-350m
    try:
        heads = config["num_attention_heads"]
        layers = config["num_hidden_layers"]
        mixture = kind in _MIXTURES
        intermediate = config.get("ffn_dim") or config["intermediate_size"]
        return ModelShape(
            layers=layers,
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=(config.get("moe_intermediate_size") or intermediate) if mixture else intermediate,
            vocab=config["vocab_size"],
            gated=kind not in _PLAIN,
            experts=(config.get("num_local_experts") or config["num_experts"]) if mixture else 0,
            experts_per_token=config["num_experts_per_tok"] if mixture else 0,
            sliding_layers=_sliding_layers(config, layers),
            sliding_window=config.get("sliding_window"),
        )
    except (KeyError, TypeError):
        return None


def count_flops(
    lengths: Iterable[tuple[int, int]], shape: ModelShape | None, parameters: int | None
) -> tuple[float | None, FlopsMethod | None]:
    """FLOPs of requests given as (input tokens, output tokens), and the method.

    The last output token is sampled but never fed back, so a request has input + output - 1 positions.
    Without a shape: 2 x parameters per position, method ``parameters_2N``; without both: None.
    """
    requests = [(inputs, outputs) for inputs, outputs in lengths if outputs > 0]
    positions = sum(inputs + outputs - 1 for inputs, outputs in requests)
    if shape is None:
        return (None, None) if parameters is None else (2.0 * parameters * positions, "parameters_2N")
    sampled = sum(outputs for _, outputs in requests)
    attended = sum(_attended(inputs + outputs - 1, shape) for inputs, outputs in requests)
    dense = 2 * shape.active_parameters * positions
    head = 2 * shape.hidden * shape.vocab * sampled
    attention = 4 * shape.heads * shape.head_dim * attended
    return float(dense + head + attention), "architecture"


def _attended(positions: int, shape: ModelShape) -> int:
    """Keys seen, summed over positions and layers; a sliding layer sees at most its window."""
    full = positions * (positions + 1) // 2
    window = min(shape.sliding_window or positions, positions)
    sliding = window * (window + 1) // 2 + (positions - window) * window
    return (shape.layers - shape.sliding_layers) * full + shape.sliding_layers * sliding


def _sliding_layers(config: Mapping[str, Any], layers: int) -> int:
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return 0
    kinds = config.get("layer_types")
    return layers if kinds is None else sum(kind == "sliding_attention" for kind in kinds)
