"""A transformers tokenizer as the harness wants it."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from images.contract.job import ConfigInvalid


class HubTokenizer:
    """Ids without anything that a backend would add.

    Args:
        model_vocab: rows of the model's embedding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model_vocab: int) -> None:
        self._tokenizer = tokenizer
        # Some models have more rows than their tokenizer has tokens, and some tokenizers more tokens.
        self.vocab_size = min(len(tokenizer), model_vocab)
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self.has_chat_template = tokenizer.chat_template is not None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def encode_chat(self, text: str) -> list[int]:
        turns = [{"role": "user", "content": text}]
        try:
            rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ConfigInvalid(
                f"the model's chat template refused a prompt ({error}).", "Set workload.chat_template: off."
            ) from None
        return self.encode(rendered, add_special_tokens=False)


def end_ids(configured: int | Sequence[int] | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end an output, the same on every backend.

    Args:
        configured: as the model's own generation config has them; without them the tokenizer's counts.
    """
    chosen = configured if configured is not None else tokenizer.eos_token_id
    if chosen is None:
        return ()
    return (chosen,) if isinstance(chosen, int) else tuple(chosen)
