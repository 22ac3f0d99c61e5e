"""The stored figures of campaigns: who counts, how many there are, and intervals over them.

Kept true to the runs in the transaction that changes those, so that any DuckDB client sees them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from warehouse.bootstrap import (
    expected_percentile_coverage,
    percentile_bounds,
    sample_warning,
    stein_bounds,
    student_t_bounds,
)
from warehouse.schema import refresh_text

CONFIDENCE = 0.95
METRICS = (
    "energy_per_output_token_j",
    "output_tokens_per_second",
    "total_tokens_per_second",
    "goodput_requests_per_second",
    "ttft_mean_ms",
    "itl_mean_ms",
    "tpot_mean_ms",
    "e2e_mean_ms",
    "total_energy_j",
    "energy_adjusted_j",
    "prefill_energy_j",
    "decode_energy_j",
    "mean_power_w",
    "avg_energy_per_token_j",
    "avg_tokens_per_second",
    "total_tokens",
    "output_tokens",
    "total_inference_time_sec",
)
"""One number per cycle each, the headline first; numbers about requests are summarised per cycle before."""
PERCENTILES = {
    "ttft_p50_ms": "ttft_samples >= 1",
    "ttft_p95_ms": "ttft_samples >= 40",
    "ttft_p99_ms": "ttft_samples >= 200",
    "itl_p50_ms": "itl_samples >= 1",
    "itl_p95_ms": "itl_samples >= 40",
    "itl_p99_ms": "itl_samples >= 200",
    "tpot_p50_ms": "ttft_samples >= 1",
    "tpot_p95_ms": "ttft_samples >= 40",
}
"""Percentiles over a cycle's requests, and when there are enough of them; these have no bootstrap interval."""
Cell = tuple[str, str]
"""Campaign and metric."""
_BOUNDS = ("t_lower", "t_upper", "percentile_lower", "percentile_upper")
_AT_ONCE = 5000
"""Campaigns, so that memory does not grow with their number."""
_UNITS = (
    (re.compile(r"_per_(output_)?token_j$"), "J/token"),
    (re.compile(r"_tokens_per_second$"), "tokens/s"),
    (re.compile(r"_requests_per_second$"), "requests/s"),
    (re.compile(r"_tokens$"), "tokens"),
    (re.compile(r"_ms$"), "ms"),
    (re.compile(r"_sec$"), "s"),
    (re.compile(r"_w$"), "W"),
    (re.compile(r"_j$"), "J"),
)
"""The first that a metric's name ends in."""


@dataclass(frozen=True, slots=True)
class Pilot:
    """First stage of an adaptive study: the metric it looked at, its standard deviation, and the cycles."""

    metric: str
    std: float
    n: int


@cache
def unit_of(metric: str) -> str:
    """As the metric's name says it."""
    return next(unit for ending, unit in _UNITS if ending.search(metric))


def refresh(connection: DuckDBPyConnection, campaign_ids: Collection[str] | None) -> None:
    """Make what is stored of campaigns true again after a change of their runs, in the transaction that is open.

    Args:
        campaign_ids: of the runs that came, went or changed; None is all.
    """
    if campaign_ids is None:
        rows = connection.execute("SELECT campaign_id FROM experiments UNION SELECT campaign_id FROM campaign_groups")
        campaign_ids = [campaign_id for (campaign_id,) in rows.fetchall()]
    ids = sorted(set(campaign_ids))
    for at in range(0, len(ids), _AT_ONCE):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE touched AS SELECT unnest(?::VARCHAR[]) AS campaign_id",
            [ids[at : at + _AT_ONCE]],
        )
        connection.execute(refresh_text())
        _store_intervals(connection)
    connection.execute("DROP TABLE IF EXISTS temp.touched")


def interval_rows(samples: Mapping[Cell, Sequence[float]], pilots: Mapping[str, Pilot]) -> list[dict[str, Any]]:
    """Rows of the table `intervals`, one for each cell, with the bounds of all cells of equal size made at once.

    Args:
        samples: one value per cycle by campaign and metric, in the metric's unit; none is empty.
        pilots: of adaptive studies, by campaign.
    """
    by_size: dict[int, list[Cell]] = defaultdict(list)
    for cell, values in samples.items():
        by_size[len(values)].append(cell)
    rows = []
    for n, cells in sorted(by_size.items()):
        matrix = np.array([samples[cell] for cell in cells], dtype=float)
        columns = {
            "mean": matrix.mean(axis=1),
            "std": matrix.std(axis=1, ddof=1) if n > 1 else np.zeros(len(cells)),
        }
        if n > 1:
            columns["t_lower"], columns["t_upper"] = student_t_bounds(matrix, CONFIDENCE)
            columns["percentile_lower"], columns["percentile_upper"] = percentile_bounds(matrix, confidence=CONFIDENCE)
        for at, (campaign_id, metric) in enumerate(cells):
            row: dict[str, Any] = {name: float(column[at]) for name, column in columns.items()}
            row |= {
                "campaign_id": campaign_id,
                "metric": metric,
                "unit": unit_of(metric),
                "n_samples": n,
                "confidence": CONFIDENCE,
                "t_method": "student_t" if n > 1 else None,
                "expected_percentile_coverage": expected_percentile_coverage(n),
                "warning": sample_warning(n),
            }
            if metric in PERCENTILES:
                row |= {"percentile_lower": None, "percentile_upper": None, "expected_percentile_coverage": None}
            pilot = pilots.get(campaign_id)
            if pilot is not None and pilot.metric == metric and n > pilot.n:
                lower, upper = stein_bounds(matrix[at : at + 1], [pilot.std], pilot.n, CONFIDENCE)
                row |= {"t_method": "stein", "t_lower": float(lower[0]), "t_upper": float(upper[0])}
            rows.append(row)
    return rows


def samples_by_cell(
    connection: DuckDBPyConnection, where: str, parameters: Mapping[str, object], key: str = "campaign_id"
) -> dict[Cell, list[float]]:
    """One value for each run that `where` lets through, by campaign and metric; what was not measured is left out.

    In the order in which the runs began: the same cycles then always give the same interval.

    Args:
        key: what stands for the campaign, as SQL over `runs`.
    """
    tests = dict.fromkeys(METRICS, "true") | PERCENTILES
    lists = ", ".join(
        f"list({metric}::DOUBLE ORDER BY start_time, experiment_id) FILTER (isfinite({metric}::DOUBLE) AND {test})"
        for metric, test in tests.items()
    )
    rows = connection.execute(
        f"SELECT {key}, {lists} FROM runs WHERE {where} GROUP BY 1 ORDER BY 1", parameters
    ).fetchall()
    return {
        (campaign_id, metric): values
        for campaign_id, *columns in rows
        for metric, values in zip(tests, columns, strict=True)
        if values
    }


def _store_intervals(connection: DuckDBPyConnection) -> None:
    touched = "campaign_id IN (SELECT campaign_id FROM temp.touched)"
    samples = samples_by_cell(connection, f"{touched} AND NOT (superseded OR is_invalid)", {})
    rows = interval_rows(samples, read_pilots(connection, touched))
    if rows:
        names = list(rows[0]) + [name for name in _BOUNDS if name not in rows[0]]
        connection.register("made", pa.table({name: [row.get(name) for row in rows] for name in names}))
        connection.execute("INSERT INTO intervals BY NAME SELECT * FROM made")
        connection.unregister("made")


def read_pilots(connection: DuckDBPyConnection, where: str) -> dict[str, Pilot]:
    """Of adaptive studies, by campaign: the newest run's word, for the first ones were made before it was known."""
    rows = connection.execute(
        f"""
        SELECT campaign_id, arg_max((adaptive_metric, adaptive_pilot_s, adaptive_pilot_cycles), start_time)
        FROM experiments
        WHERE {where} AND adaptive_pilot_s IS NOT NULL
        GROUP BY campaign_id
        """
    ).fetchall()
    return {campaign_id: Pilot(*found) for campaign_id, found in rows}
