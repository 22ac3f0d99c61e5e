"""builtin:tiny-llama: a two-layer Llama with random weights and a byte tokenizer, made on the spot.

It says nothing meaningful, needs no network, and is the same wherever it is made from the same seed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "<s>", "</s>")
_CONTEXT = 4096
# Larger than Llama's 0.02, which would leave all logits nearly equal and greedy decoding up to rounding.
_WEIGHT_STD = 0.3


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: 256 bytes and three special tokens, BOS put first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*_SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=_CONTEXT
    )


def make_model(seed: int, attn_implementation: str | None) -> LlamaForCausalLM:
    """Random weights from `seed`; grouped queries and a gated MLP, as larger Llamas have.

    Args:
        attn_implementation: as in transformers; None is its default.
    """
    config = LlamaConfig(
        vocab_size=256 + len(_SPECIAL),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_CONTEXT,
        initializer_range=_WEIGHT_STD,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attn_implementation,
    )
    with torch.random.fork_rng(devices=[]):  # made on the CPU; GPUs are not touched before they are measured
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save_model(folder: Path, seed: int, dtype: torch.dtype) -> None:
    """Model and tokenizer as files in `folder`, for engines that read models from nowhere else."""
    make_model(seed, None).to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
