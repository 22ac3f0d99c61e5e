"""Means over the rows of requests.parquet, of the whole window or of a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from images.contract import files


def request_means(requests: files.Table, span_s: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """Means over the requests of a table: TPOT and e2e (ms); None where no request has one.

    Args:
        span_s: only requests that ran inside it, in seconds after the window opened; None takes all.
    """
    columns = ["output_tokens", "arrival_s", "queue_ms", "ttft_ms", "e2e_ms"]
    rows = [row for row in requests.select(columns).to_pylist() if span_s is None or lies_in(row, span_s)]
    tpot = [
        (row["e2e_ms"] - row["ttft_ms"]) / (row["output_tokens"] - 1)
        for row in rows
        if row["ttft_ms"] is not None and row["e2e_ms"] is not None and row["output_tokens"] > 1
    ]
    return mean(tpot), mean(row["e2e_ms"] for row in rows)


def lies_in(row: Mapping[str, Any], span_s: tuple[float, float]) -> bool:
    """Whether a request ran, from its start to its last token, inside a part of the window."""
    if row["arrival_s"] is None or row["queue_ms"] is None or row["e2e_ms"] is None:
        return False
    started_s, ended_s = (row["arrival_s"] + row[part] / 1e3 for part in ("queue_ms", "e2e_ms"))
    return bool(span_s[0] <= started_s and ended_s <= span_s[1])


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the measured values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
