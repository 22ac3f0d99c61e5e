"""Marks on every generated token, set when the step's ids reach the host."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from transformers.generation.streamers import BaseStreamer


@dataclass(slots=True)
class Delivered:
    """Output tokens that reached the host; one thread counts, any other may look.

    Attributes:
        drafted_steps: steps of assisted generation; each delivers one token of the model's own.
        drafts_taken: tokens that came beside those, drafted and found right.
    """

    tokens: int = 0
    drafted_steps: int = 0
    drafts_taken: int = 0


class StampingStreamer(BaseStreamer):
    """Keeps the time of every step of `generate`, and counts its tokens.

    `generate` hands each step's ids to `put` on the host, so the mark follows the device without a
    synchronisation of ours. The first call carries the prompt and is skipped. Plain decoding puts one token of each
    row, of shape (rows,); assisted decoding has one row and puts all tokens that a step yields, of shape (1, tokens).

    Args:
        ends: tokens that end a row; what it gets after one is padding.
        limits: most tokens of each row; what it gets beyond is padding, too.
    """

    def __init__(self, delivered: Delivered, ends: Set[int], limits: Sequence[int]) -> None:
        self.step_s: list[float] = []
        self.step_tokens: list[int] = []
        self._delivered = delivered
        self._ends = ends
        self._limits = limits
        self._ended: set[int] = set()
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self.step_s.append(time.perf_counter())
            if value.ndim == 2:
                self._count_several(value.shape[1])
            else:
                self._count_one_each(value)
        self._prompt_seen = True

    def end(self) -> None:
        self._prompt_seen = False

    def _count_several(self, tokens: int) -> None:
        """`generate` itself cuts them at the end token."""
        self.step_tokens.append(tokens)
        self._delivered.tokens += tokens
        self._delivered.drafted_steps += 1
        self._delivered.drafts_taken += tokens - 1

    def _count_one_each(self, value: torch.Tensor) -> None:
        self.step_tokens.append(1)
        self._delivered.tokens += len(value) - len(self._ended)
        if self._ends and not self._ends.isdisjoint(ids := value.tolist()):
            self._ended.update(row for row, token in enumerate(ids) if token in self._ends)
        self._ended.update(row for row, limit in enumerate(self._limits) if limit <= len(self.step_tokens))
