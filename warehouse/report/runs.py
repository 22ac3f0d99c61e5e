"""What single runs measured, as little of it as is drawn: cycles, quantiles of requests, and a few traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duckdb import DuckDBPyConnection

from warehouse.plain_text import clipped

Row = dict[str, Any]

QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
ENOUGH_FOR = {"p5": 40, "p25": 8, "p50": 1, "p75": 8, "p95": 40, "p99": 200}
"""Requests, or gaps, from which on a quantile is shown, as for the percentiles that have intervals."""
LATENCIES = {
    "ttft": "ttft_ms",
    "tpot": "CASE WHEN output_tokens > 1 THEN (e2e_ms - ttft_ms) / (output_tokens - 1) END",
    "e2e": "e2e_ms",
}
MOST_GAPS = 5_000_000
"""Gaps between tokens that quantiles are over, of all campaigns together; as many take about a second."""
MOST_TRACES = 6
_GOLDEN = 0.6180339887498949
_MOST_GPUS = 8
_BUCKETS = 150
_LOOKED_AT = 60
"""Campaigns that are looked through for one with samples."""


def read_cycles(
    connection: DuckDBPyConnection, place: Mapping[str, int], most: int, *, with_ids: int
) -> tuple[list[Row], int]:
    """A row for each cycle of the campaigns in `place`, at most `most`, and how many there are.

    Args:
        with_ids: if there are no more than this, rows have their experiment_id.
    """
    ((count,),) = connection.execute("SELECT count(*) FROM temp.cycles").fetchall()
    found = connection.execute(
        """
        SELECT campaign_id, cycle, epoch(start_time), energy_per_output_token_j, output_tokens_per_second,
            ttft_mean_ms, itl_mean_ms, is_invalid, experiment_id
        FROM (
            SELECT *, row_number() OVER (PARTITION BY campaign_id ORDER BY start_time, experiment_id) AS nth
            FROM temp.cycles
            WHERE campaign_id IN (SELECT unnest($ids::VARCHAR[]))
        )
        -- Where some have to go, each campaign keeps its first ones.
        ORDER BY nth, start_time, experiment_id
        LIMIT $most
        """,
        {"most": most, "ids": list(place)},
    ).fetchall()
    rows = []
    for campaign_id, cycle, start, energy, speed, ttft, itl, invalid, experiment_id in found:
        row = {"c": place[campaign_id], "cycle": cycle, "time": round(start)}
        row |= {"energy": energy, "speed": speed, "ttft": ttft, "itl": itl, "invalid": int(invalid)}
        row["run"] = clipped(experiment_id) if count <= with_ids else None
        rows.append(row)
    return rows, int(count)


def read_latencies(connection: DuckDBPyConnection, campaigns: Sequence[Row], place: Mapping[str, int]) -> None:
    """Give each campaign the quantiles over all requests of its cycles, as ``ttft_p50`` and so on (ms).

    ``n_ttft_requests`` and so on are how many these are over: a request of one token has no time per token after it.
    """
    for row in campaigns:
        row |= {f"n_{name}_requests": 0 for name in LATENCIES}
        row |= {f"{name}_{quantile}": None for name in LATENCIES for quantile in QUANTILES}
    levels = list(QUANTILES.values())
    columns = ", ".join(
        f"count(*) FILTER (isfinite({sql})), quantile_cont({sql}, {levels}) FILTER (isfinite({sql}))"
        for sql in LATENCIES.values()
    )
    found = connection.execute(
        f"""
        SELECT campaign_id, {columns}
        FROM requests
        JOIN (SELECT experiment_key, campaign_id FROM temp.cycles) USING (experiment_key)
        GROUP BY campaign_id
        """
    ).fetchall()
    for campaign_id, *values in found:
        if campaign_id not in place:
            continue
        row = campaigns[place[campaign_id]]
        for name, n, quantiles in zip(LATENCIES, values[::2], values[1::2], strict=True):
            row |= {f"n_{name}_requests": n} | _quantiles(name, n, quantiles)


def read_gaps(
    connection: DuckDBPyConnection, campaigns: Sequence[Row], place: Mapping[str, int], most: int = MOST_GAPS
) -> None:
    """Give each campaign the quantiles over the gaps between tokens of its cycles, as ``itl_p50`` and so on (ms).

    ``n_gaps`` is how many there are, ``n_gaps_read`` how many the quantiles are over. Where all campaigns have more
    than `most`, each has an equal part of those, and beyond it reads some of its requests only: always the same ones,
    spread evenly by their number in their process.
    """
    for row in campaigns:
        row |= {"n_gaps": 0, "n_gaps_read": 0} | {f"itl_{quantile}": None for quantile in QUANTILES}
    counts = dict(
        connection.execute(
            """
            SELECT campaign_id, sum(list_count(itl_ms))::BIGINT AS n
            FROM requests JOIN (SELECT experiment_key, campaign_id FROM temp.cycles) USING (experiment_key)
            GROUP BY campaign_id HAVING n > 0
            """
        ).fetchall()
    )
    counts = {campaign_id: n for campaign_id, n in counts.items() if campaign_id in place}
    if not counts:
        return
    each = max(counts.values()) if sum(counts.values()) <= most else max(1, most // len(counts))
    found = connection.execute(
        f"""
        WITH parts AS (SELECT unnest($ids::VARCHAR[]) AS campaign_id, unnest($parts::DOUBLE[]) AS part),
        gaps AS (
            SELECT campaign_id, unnest(itl_ms) AS gap
            FROM requests
            JOIN (SELECT experiment_key, campaign_id FROM temp.cycles) USING (experiment_key)
            JOIN parts USING (campaign_id)
            -- Multiples of the golden ratio: any part of them is spread evenly, and in step with no batch size.
            WHERE (request_index * $golden::DOUBLE) % 1 < part
        )
        SELECT campaign_id, count(gap), quantile_cont(gap, {list(QUANTILES.values())}) FILTER (isfinite(gap))
        FROM gaps GROUP BY campaign_id
        """,
        {"ids": list(counts), "parts": [each / n for n in counts.values()], "golden": _GOLDEN},
    ).fetchall()
    for campaign_id, n, quantiles in found:
        row = campaigns[place[campaign_id]]
        row |= {"n_gaps": counts[campaign_id], "n_gaps_read": n} | _quantiles("itl", n, quantiles)


def _quantiles(name: str, n: int, values: Sequence[float] | None) -> Row:
    """Those that `n` values are enough for."""
    found = dict(zip(QUANTILES, values or (), strict=False))
    return {f"{name}_{one}": found.get(one) if n >= ENOUGH_FOR[one] else None for one in QUANTILES}


def read_traces(connection: DuckDBPyConnection, campaigns: Sequence[Row], place: Mapping[str, int]) -> list[Row]:
    """Power and temperature of a few runs: the middle one by energy of the campaigns that take least energy.

    Returns:
        Of each its campaign, the measured window (s), how many GPUs have samples and ``points``: of each of the first
        eight GPUs all samples, or if they are many the lowest and the highest of each of 150 stretches of time.
    """
    candidates = _candidates(campaigns)
    found = connection.execute(
        """
        SELECT campaign_id, experiment_key, experiment_id, window_from_s, window_to_s,
            (SELECT count(DISTINCT gpu_index) FROM samples WHERE samples.experiment_key = chosen.experiment_key)
        FROM (
            SELECT *, median(energy_per_output_token_j) OVER (PARTITION BY campaign_id) AS middle
            FROM temp.cycles
            WHERE campaign_id IN (SELECT unnest($ids::VARCHAR[]))
        ) AS chosen
        SEMI JOIN samples USING (experiment_key)
        QUALIFY row_number() OVER (
            PARTITION BY campaign_id ORDER BY abs(energy_per_output_token_j - middle) NULLS LAST, experiment_id
        ) = 1
        """,
        {"ids": candidates},
    ).fetchall()
    order = {campaign_id: at for at, campaign_id in enumerate(candidates)}
    chosen = sorted(found, key=lambda row: order[row[0]])[:MOST_TRACES]
    return [
        {
            "c": place[campaign_id],
            "label": campaigns[place[campaign_id]]["label"],
            "run": clipped(experiment_id),
            "from": start,
            "to": end,
            "n_gpus": n_gpus,
            "points": _points(connection, key),
        }
        for campaign_id, key, experiment_id, start, end, n_gpus in chosen
    ]


def _candidates(campaigns: Sequence[Row]) -> list[str]:
    """Those of least energy, first the best one of each model and GPU."""
    ranked = sorted(campaigns, key=lambda row: (row["energy_mean"] is None, row["energy_mean"] or 0.0, row["c"]))
    seen: set[tuple[str, str]] = set()
    best: list[str] = []
    others: list[str] = []
    for row in ranked:
        kind = (row["model"], row["hardware"])
        (others if kind in seen else best).append(row["id"])
        seen.add(kind)
    return [*best, *others][:_LOOKED_AT]


def _points(connection: DuckDBPyConnection, experiment_key: int) -> list[Row]:
    found = connection.execute(
        """
        WITH placed AS (
            SELECT
                *,
                count(*) OVER gpu AS n,
                floor(
                    $buckets * (timestamp_s - min(timestamp_s) OVER gpu)
                    / nullif(max(timestamp_s) OVER gpu - min(timestamp_s) OVER gpu, 0)
                ) AS bucket
            FROM samples
            WHERE experiment_key = $key AND gpu_index < $gpus
            WINDOW gpu AS (PARTITION BY gpu_index)
        ),
        kept AS (
            SELECT gpu_index, timestamp_s FROM placed WHERE n <= 4 * $buckets
            UNION
            SELECT
                gpu_index,
                unnest([
                    arg_min(timestamp_s, gpu_power_w), arg_max(timestamp_s, gpu_power_w),
                    arg_min(timestamp_s, gpu_temperature_c), arg_max(timestamp_s, gpu_temperature_c)
                ])
            FROM placed
            WHERE n > 4 * $buckets
            GROUP BY gpu_index, bucket
        )
        SELECT gpu_index, timestamp_s, gpu_power_w, gpu_temperature_c
        FROM placed SEMI JOIN kept USING (gpu_index, timestamp_s)
        ORDER BY gpu_index, timestamp_s
        """,
        {"key": experiment_key, "gpus": _MOST_GPUS, "buckets": _BUCKETS},
    ).fetchall()
    return [{"gpu": f"GPU {gpu}", "at": at, "power": power, "temperature": heat} for gpu, at, power, heat in found]
