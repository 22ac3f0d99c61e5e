"""Latency of requests, from the marks that the backend set on their tokens.

TTFT = arrival -> first delivery, queueing included. ITL = every gap between consecutive deliveries.
TPOT = (e2e - ttft) / (output tokens - 1), of requests with two tokens and more. A request arrives when its pass is
handed over, the first pass at the opening mark; so do the later batches of a backend that batches itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from images.contract import files
from images.harness.backend import Generation, Request


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One row of requests.parquet; None is not measured."""

    process_index: int
    request_index: int
    input_tokens: int
    output_tokens: int
    finish_reason: str
    output_sha256: str
    arrival_s: float
    ttft_ms: float | None
    e2e_ms: float | None
    queue_ms: float | None
    itl_ms: list[float] | None


def records(
    requests: Sequence[Request],
    generations: Iterable[Generation],
    arrived_s: float,
    opened_s: float,
    process_index: int = 0,
) -> list[RequestRecord]:
    """One record per request, by request index.

    Args:
        arrived_s: when all of them were handed over, on `time.perf_counter()`'s clock.
        opened_s: the window's opening mark on the same clock.
    """
    inputs = {request.index: len(request.token_ids) for request in requests}
    ordered = sorted(generations, key=lambda generation: generation.request_index)
    return [
        _record(generation, inputs[generation.request_index], arrived_s, arrived_s - opened_s, process_index)
        for generation in ordered
    ]


def requests_table(rows: Sequence[RequestRecord]) -> files.Table:
    """The rows as the table of requests.parquet."""
    return files.requests_table(
        {field.name: [getattr(row, field.name) for row in rows] for field in fields(RequestRecord)}
    )


def _record(
    generation: Generation, input_tokens: int, arrived_s: float, arrival_s: float, process_index: int
) -> RequestRecord:
    times = generation.delivery_s or None
    return RequestRecord(
        process_index=process_index,
        request_index=generation.request_index,
        input_tokens=input_tokens,
        output_tokens=len(generation.output_ids),
        finish_reason=generation.finish_reason,
        output_sha256=hashlib.sha256(np.asarray(generation.output_ids, dtype="<i8").tobytes()).hexdigest(),
        arrival_s=arrival_s,
        ttft_ms=(times[0] - arrived_s) * 1e3 if times else None,
        e2e_ms=(times[-1] - arrived_s) * 1e3 if times else None,
        queue_ms=None if generation.started_s is None else (generation.started_s - arrived_s) * 1e3,
        itl_ms=(np.diff(times) * 1e3).tolist() if times else None,
    )
