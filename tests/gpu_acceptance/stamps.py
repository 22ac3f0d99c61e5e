"""The harness's token times against CUDA events: is a token stamped when the GPU has made it?

An event is recorded on the stream behind the output head of every step. Its time on the host's clock is found
through two anchors, before and after the run: events whose moment the host knows to some microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from images.harness.backend import Backend, Request

_ANCHOR_TRIES = 50


class StampsUnmatched(Exception):
    """There are not as many stamps as events; the text says how many."""


@dataclass(frozen=True)
class Differences:
    """Stamp less the time at which the GPU had finished the step's output head (ms), of every step.

    Attributes:
        doubt_ms: half the width of the wider anchor (ms).
        gap_ms: median time between two stamps of a batch (ms).
    """

    each_ms: list[float]
    doubt_ms: float
    gap_ms: float

    @property
    def mean_ms(self) -> float:
        return float(np.mean(self.each_ms))


def compare_stamps(backend: Backend, requests: Sequence[Request], batch_size: int) -> Differences:
    """Run `requests`, which all generate to their full length, and compare every step of every batch.

    Args:
        backend: images.pytorch's, with its model on the GPU.

    Raises:
        StampsUnmatched: an event is missing, or the model has none.
    """
    import torch

    events: list[Any] = []

    def record(*_: object) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        events.append(event)

    head = getattr(backend, "_model").get_output_embeddings()  # noqa: B009 - not in the Protocol
    backend.drain()
    first_s, first_doubt_s, first = _anchor(torch)
    hook = head.register_forward_hook(record)
    try:
        generations = sorted(backend.run(requests), key=lambda generation: generation.request_index)
    finally:
        hook.remove()
    backend.drain()
    last_s, last_doubt_s, last = _anchor(torch)
    batches = [np.array(one.delivery_s or ()) for one in generations[::batch_size]]
    stamps_s = np.concatenate(batches)
    if stamps_s.size != len(events) or not events:
        raise StampsUnmatched(f"{stamps_s.size} stamps, {len(events)} events")
    # Both clocks run at slightly different speeds; the anchors at both ends take that out.
    whole_ms = first.elapsed_time(last)
    parts = np.array([first.elapsed_time(event) for event in events]) / whole_ms
    finished_s = first_s + parts * (last_s - first_s)
    return Differences(
        each_ms=((stamps_s - finished_s) * 1e3).tolist(),
        doubt_ms=max(first_doubt_s, last_doubt_s) * 1e3,
        gap_ms=float(np.median(np.concatenate([np.diff(batch) for batch in batches]))) * 1e3,
    )


def _anchor(torch: Any) -> tuple[float, float, Any]:
    """An event, when it happened on the host's clock (s), and how far that may be off (s)."""
    tries = []
    for _ in range(_ANCHOR_TRIES):
        event = torch.cuda.Event(enable_timing=True)
        before = time.perf_counter()
        event.record()
        event.synchronize()
        after = time.perf_counter()
        tries.append(((after - before) / 2, (before + after) / 2, event))
    doubt_s, middle_s, event = min(tries, key=lambda one: one[0])
    return middle_s, doubt_s, event
