"""What the rows of requests.parquet say about single requests, of the whole window or of a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from images.contract import files

Row = Mapping[str, Any]
"""One request, by column of ``files.REQUESTS_SCHEMA``."""


def request_means(requests: files.Table, span_s: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """Means over the requests of a table: TPOT and e2e (ms); None where no request has one.

    Args:
        span_s: only requests that ran inside it, in seconds after the window opened; None takes all.
    """
    columns = ["output_tokens", "arrival_s", "queue_ms", "ttft_ms", "e2e_ms", "lag_ms"]
    rows = [row for row in requests.select(columns).to_pylist() if span_s is None or lies_in(row, span_s)]
    return mean(map(tpot_ms, rows)), mean(row["e2e_ms"] for row in rows)


def tpot_ms(row: Row) -> float | None:
    """Time per further token, (e2e - ttft) / (output tokens - 1) (ms); None of one token, or if not measured."""
    if row["ttft_ms"] is None or row["e2e_ms"] is None or row["output_tokens"] < 2:
        return None
    return float((row["e2e_ms"] - row["ttft_ms"]) / (row["output_tokens"] - 1))


def lies_in(row: Row, span_s: tuple[float, float]) -> bool:
    """Whether a request lies inside a part of the window, from its beginning to its last token.

    In an open loop, where it has a lag, it begins with its arrival, from which its latency counts. All requests of a
    closed batch arrive with their pass, so there it begins when work on it starts.
    """
    began_s = row["arrival_s"] if row["lag_ms"] is not None else started_s(row)
    ended_s = last_token_s(row)
    return began_s is not None and ended_s is not None and bool(span_s[0] <= began_s and ended_s <= span_s[1])


def started_s(row: Row) -> float | None:
    """When work on the request began, in seconds after the window opened."""
    return _after_arrival(row, "queue_ms")


def first_token_s(row: Row) -> float | None:
    """In seconds after the window opened."""
    return _after_arrival(row, "ttft_ms")


def last_token_s(row: Row) -> float | None:
    """In seconds after the window opened."""
    return _after_arrival(row, "e2e_ms")


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the measured values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _after_arrival(row: Row, latency: str) -> float | None:
    if row["arrival_s"] is None or row[latency] is None:
        return None
    return float(row["arrival_s"] + row[latency] / 1e3)
