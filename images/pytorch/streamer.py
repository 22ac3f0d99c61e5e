"""Marks on every generated token, set when the step's ids reach the host."""

from __future__ import annotations

import time

import torch
from transformers.generation.streamers import BaseStreamer


class StampingStreamer(BaseStreamer):
    """Keeps the time of every step of `generate`.

    `generate` hands each step's ids to `put` on the host, so the mark follows the device without a
    synchronisation of ours. The first call carries the prompt and is skipped.
    """

    def __init__(self) -> None:
        self.step_s: list[float] = []
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 - only the moment counts
        if self._prompt_seen:
            self.step_s.append(time.perf_counter())
        self._prompt_seen = True

    def end(self) -> None:
        self._prompt_seen = False
