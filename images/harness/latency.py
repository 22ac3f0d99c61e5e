"""Latency of requests, from the marks that the backend set on their tokens.

TTFT = arrival -> first delivery, queueing included. ITL = every gap between consecutive deliveries.
TPOT = (e2e - ttft) / (output tokens - 1), of requests with two tokens and more. A request arrives when its pass is
handed over, the first pass at the opening mark; so do the later batches of a backend that batches itself. In an open
loop it arrives when it is due, and its lag is by how much the harness handed it over later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from images.contract import files
from images.harness.backend import Generation, Request
from images.harness.window import Pass


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
    lag_ms: float | None
    cached_input_tokens: int | None
    delivery_tokens: list[int] | None


def records(one: Pass, opened_s: float, process_index: int = 0) -> list[RequestRecord]:
    """One record per request of a pass, by request index.

    Args:
        opened_s: the window's opening mark on `time.perf_counter()`'s clock.
    """
    requests = {request.index: request for request in one.requests}
    ordered = sorted(one.generations, key=lambda generation: generation.request_index)
    return [
        _record(one, requests[generation.request_index], generation, opened_s, process_index) for generation in ordered
    ]


def requests_table(rows: Sequence[RequestRecord]) -> files.Table:
    """The rows as the table of requests.parquet."""
    return files.requests_table(
        {field.name: [getattr(row, field.name) for row in rows] for field in fields(RequestRecord)}
    )


def _record(one: Pass, request: Request, generation: Generation, opened_s: float, process_index: int) -> RequestRecord:
    arrived_s = one.arrived_s + (request.due_s or 0.0)
    handed_s = one.handed_s.get(request.index)
    times, tokens = generation.delivery_s or None, generation.delivery_tokens
    return RequestRecord(
        process_index=process_index,
        request_index=generation.request_index,
        input_tokens=len(request.token_ids),
        output_tokens=len(generation.output_ids),
        finish_reason=generation.finish_reason,
        output_sha256=hashlib.sha256(np.asarray(generation.output_ids, dtype="<i8").tobytes()).hexdigest(),
        arrival_s=arrived_s - opened_s,
        ttft_ms=_since(arrived_s, generation.first_token_s),
        e2e_ms=_since(arrived_s, generation.last_token_s),
        queue_ms=_since(arrived_s, generation.started_s),
        itl_ms=(np.diff(times) * 1e3).tolist() if times else None,
        lag_ms=_since(arrived_s, handed_s),
        cached_input_tokens=generation.cached_input_tokens,
        delivery_tokens=list(tokens) if tokens is not None and any(count != 1 for count in tokens) else None,
    )


def _since(arrived_s: float, moment_s: float | None) -> float | None:
    """ms"""
    return None if moment_s is None else (moment_s - arrived_s) * 1e3
