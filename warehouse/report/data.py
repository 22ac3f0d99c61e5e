"""What a report shows, read from the warehouse in one go: campaigns, cycles and what belongs to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from warehouse.campaign import CampaignGroup, Figures, campaign_groups, count_simulated, known_studies
from warehouse.comparison.selection import require_studies
from warehouse.comparison.words import NAMES, name_of, with_unit
from warehouse.numerals import digits, interval, number, upper_percent
from warehouse.plain_text import clipped
from warehouse.report import troubles
from warehouse.report.comparing import Compared
from warehouse.report.fronts import mark_fronts, name_fronts
from warehouse.report.labels import labels_of
from warehouse.report.runs import read_cycles, read_gaps, read_latencies, read_traces
from warehouse.report.troubles import Troubles
from warehouse.report.works import Work, works_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A headline figure: what rows of campaigns and cycles call it, and where it stands in the warehouse."""

    key: str
    column: str
    unit: str
    less_is_better: bool = True

    @property
    def name(self) -> str:
        return NAMES[self.column]

    @property
    def axis(self) -> str:
        return with_unit(self.column)


METRICS = (
    Metric("energy", "energy_per_output_token_j", "J"),
    Metric("speed", "output_tokens_per_second", "tokens/s", less_is_better=False),
    Metric("ttft", "ttft_mean_ms", "ms"),
    Metric("itl", "itl_mean_ms", "ms"),
)


MOST_CAMPAIGNS = 4000
MOST_CYCLES = 20_000
MOST_IDS = 12_000
"""Cycles that bring their experiment_id; more would make the page too large."""


@dataclass(frozen=True)
class Counts:
    """Of all that was asked for, on the page or not.

    Attributes:
        left_out: cycles on simulated GPUs, which only --all lets in.
        quarantined: directories of the whole database: they do not say which study they are of.
    """

    campaigns: int
    cycles: int
    invalid: int
    failed: int
    superseded: int
    left_out: int
    quarantined: int


@dataclass(frozen=True)
class ReportData:
    """All rows of a report; rows refer to a campaign by its place in `campaigns`, as `c`.

    Attributes:
        studies: asked for; empty is all there are.
        only_failed: configurations without any result (groups).
        compared: two sides; then the report is on their campaigns alone.
        campaigns: none if no cycle of any counts.
        gpus: how each GPU differs from its fellows, as `drift_by_gpu` has it; of those that differ most.
        n_gpus: how many there are that have fellows.
    """

    database: str
    made_at: datetime
    studies: Sequence[str]
    include_all: bool
    counts: Counts
    campaigns: Sequence[Row]
    cycles: Sequence[Row]
    works: Sequence[Work]
    traces: Sequence[Row]
    gpus: Sequence[Row]
    n_gpus: int
    troubles: Troubles
    only_failed: Sequence[Row] = ()
    compared: Compared | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def read_report(
    connection: DuckDBPyConnection,
    database: Path,
    studies: Sequence[str],
    *,
    include_all: bool,
    made_at: datetime,
    compared: Compared | None = None,
) -> ReportData:
    """Everything for a report on `studies`, or on all of them if none is named.

    Args:
        include_all: let invalid cycles and simulated GPUs count, as `warehouse campaign --all` does.
        compared: then only its campaigns.

    Raises:
        WarehouseError: there is no such study.
    """
    require_studies(known_studies(connection), database, studies)
    wanted: list[str | None] = list(dict.fromkeys(studies)) or [None]
    groups = [group for one in wanted for group in campaign_groups(connection, one, include_all=include_all)]
    measured = [group for group in groups if group.campaign_id is not None]
    if compared is not None:
        groups = measured = [group for group in measured if group.campaign_id in compared.campaign_ids]
    _choose(connection, measured, studies, None if compared is None else compared.campaign_ids, include_all)

    # Where no cycle counts, there is nothing to draw of any of them.
    shown = measured[:MOST_CAMPAIGNS] if any(group.n_cycles for group in measured) else []
    campaigns = _campaign_rows(connection, shown)
    place = {row["id"]: row["c"] for row in campaigns}
    works = works_of(connection, campaigns)
    mark_fronts(campaigns, {"speed": -1, "ttft": 1})
    name_fronts(campaigns, ("speed", "ttft"))
    read_latencies(connection, campaigns, place)
    read_gaps(connection, campaigns, place)
    cycles, n_cycles = read_cycles(connection, place, MOST_CYCLES, with_ids=MOST_IDS)
    found = troubles.read_troubles(connection)
    notes = []
    if len(measured) > len(shown) > 0:
        notes.append(
            f"Only the first {len(shown):,} of {len(measured):,} campaigns are on this page; --study narrows it."
        )
    if n_cycles > len(cycles):
        notes.append(
            f"Only {len(cycles):,} of {n_cycles:,} cycles are drawn; means and intervals are over all of them."
        )
    if n_cycles > MOST_IDS:
        notes.append(
            f"Cycles are drawn without their experiment_id: there are {n_cycles:,}, which is more than {MOST_IDS:,}."
        )
    return ReportData(
        database=clipped(database),
        made_at=made_at,
        studies=[clipped(study) for study in dict.fromkeys(studies)],
        include_all=include_all,
        counts=_counts(connection, groups, [] if include_all or compared is not None else wanted),
        campaigns=campaigns,
        cycles=cycles,
        works=works,
        traces=read_traces(connection, campaigns, place),
        gpus=_gpus(connection),
        n_gpus=_count_gpus(connection),
        troubles=found,
        only_failed=[_names(group) | {"n_failed": group.n_failed} for group in groups if group.campaign_id is None],
        compared=compared,
        notes=notes,
    )


def _choose(
    connection: DuckDBPyConnection,
    groups: Sequence[CampaignGroup],
    studies: Sequence[str],
    campaign_ids: Collection[str] | None,
    include_all: bool,
) -> None:
    """Temporary tables and views with what the report is on: the views over those then speak of it alone.

    Args:
        campaign_ids: only these; of failures those of their configurations in their studies.
    """
    named = _asked(connection, "study", "asked_studies", studies if studies else None)
    only = _asked(connection, "campaign_id", "asked_campaigns", campaign_ids)
    valid = "true" if include_all else "NOT (is_invalid OR is_simulated)"
    real = "true" if include_all else "NOT is_simulated"
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP VIEW cycles AS FROM main.runs WHERE NOT superseded AND {valid} AND {named} AND {only};
        -- A view of its own name would be looked for in itself.
        DROP TABLE IF EXISTS temp.invalid_runs;
        CREATE TEMP TABLE invalid_runs AS FROM main.invalid_runs WHERE {named} AND {only} AND {real};
        DROP TABLE IF EXISTS temp.standing_failures;
        CREATE TEMP TABLE standing_failures AS FROM main.standing_failures AS failed WHERE {named}
        """
        + (
            f"""
            AND EXISTS (
                FROM main.campaign_groups AS measured
                WHERE {only} AND measured.study IS NOT DISTINCT FROM failed.study
                    AND measured.measurement_config_hash IS NOT DISTINCT FROM failed.measurement_config_hash
            )
            """
            if campaign_ids is not None
            else ""
        )
    )
    columns: dict[str, list[Any]] = {"campaign_id": [group.campaign_id for group in groups]}
    for metric in METRICS:
        means = [group.figures[metric.column].mean if metric.column in group.figures else None for group in groups]
        columns[metric.column] = means
    types = {"campaign_id": pa.string()} | {metric.column: pa.float64() for metric in METRICS}
    connection.register("means", pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()}))
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE campaigns AS FROM main.campaign_groups JOIN means USING (campaign_id)"
    )
    connection.unregister("means")


def _campaign_rows(connection: DuckDBPyConnection, groups: Sequence[CampaignGroup]) -> list[Row]:
    """What the stored groups have beside their figures."""
    stored = {
        campaign_id: values
        for campaign_id, *values in connection.execute(
            """
            SELECT campaign_id, work_id, num_processes, n_gpu_sets, epoch(first_start) FROM temp.campaigns
            """
        ).fetchall()
    }
    rows = []
    for group in groups:
        work_id, processes, gpu_sets, first_start = stored[str(group.campaign_id)]
        row = _names(group) | {
            "id": group.campaign_id,
            "work_id": work_id,
            "processes": processes,
            "n_gpu_sets": gpu_sets,
            "first_start": first_start,
            "n_cycles": group.n_cycles,
            "n_invalid": group.n_invalid,
            "n_failed": group.n_failed,
            "n_superseded": group.n_superseded,
            "n_warnings": sum(group.warnings.values()),
            "simulated": group.is_simulated,
            "energy_bound": None if (bound := group.largest_energy_bound) is None else f"±{upper_percent(bound)}",
        }
        for metric in METRICS:
            row |= _figures(metric.key, group.figures.get(metric.column))
        rows.append(row)
    for at, (row, label) in enumerate(zip(rows, labels_of(rows), strict=True)):
        row |= {"c": at, "label": label}
    return rows


def _names(group: CampaignGroup) -> Row:
    gpu = clipped(group.hardware or "unknown hardware")
    limits = group.power_limits_w
    return {
        "study": clipped(group.study) if group.study is not None else None,
        "experiment": clipped(group.experiment) if group.experiment is not None else None,
        "backend": clipped(group.backend or "unknown"),
        "model": clipped(group.model or "unknown"),
        "gpu": gpu,
        "hardware": f"{gpu} x{group.gpu_count}" if group.gpu_count else gpu,
        "batch": group.batch_size,
        "dtype": clipped(group.dtype) if group.dtype is not None else None,
        "hash": group.measurement_config_hash[:8] if group.measurement_config_hash else None,
        "driver": clipped(group.driver_version) if group.driver_version is not None else None,
        "image": clipped(group.image.rpartition(":")[2][:12]) if group.image is not None else None,
        "limit": "/".join(f"{one:g}" for one in limits) if limits and not isinstance(limits, str) else None,
        "commit": clipped(group.model_commit[:8]) if group.model_commit is not None else None,
    }


def _figures(key: str, figures: Figures | None) -> Row:
    """Mean, bounds and their text; the text has the digits of `warehouse campaign`."""
    if figures is None:
        names = (f"{key}_mean", f"{key}_lo", f"{key}_hi", f"{key}_text", f"{key}_interval")
        return dict.fromkeys(names) | {f"{key}_n": 0}
    decimals = digits(figures.mean, figures.std if figures.n_samples > 1 else 0.0)
    text = interval(figures.t_lower, figures.t_upper, decimals)
    return {
        f"{key}_mean": figures.mean,
        f"{key}_lo": figures.t_lower,
        f"{key}_hi": figures.t_upper,
        f"{key}_n": figures.n_samples,
        f"{key}_text": number(figures.mean, decimals),
        f"{key}_interval": f"{text}*" if text and figures.t_method == "stein" else text,
    }


def _asked(connection: DuckDBPyConnection, column: str, table: str, wanted: Collection[str] | None) -> str:
    """A condition that `column` is one of `wanted`, which stand in a temporary table; None is all."""
    if wanted is None:
        return "true"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT unnest(?::VARCHAR[]) AS {column}", [[*wanted]])
    return f"{column} IN (FROM temp.{table})"


def _counts(
    connection: DuckDBPyConnection, groups: Sequence[CampaignGroup], without_simulated: Sequence[str | None]
) -> Counts:
    """
    Args:
        without_simulated: studies of which cycles on simulated GPUs were left out; None is all.
    """
    ((failed,),) = connection.execute("SELECT count(*) FROM temp.standing_failures").fetchall()
    ((quarantined,),) = connection.execute("SELECT count(*) FROM quarantine").fetchall()
    return Counts(
        campaigns=sum(group.campaign_id is not None for group in groups),
        cycles=sum(group.n_cycles for group in groups),
        invalid=sum(group.n_invalid for group in groups),
        failed=failed,
        superseded=sum(group.n_superseded for group in groups),
        left_out=sum(count_simulated(connection, one) for one in without_simulated),
        quarantined=quarantined,
    )


_MOST_GPUS = 48


def _gpus(connection: DuckDBPyConnection) -> list[Row]:
    """Those that differ most, each with all its metrics."""
    found = connection.execute(
        """
        WITH most AS (
            SELECT gpu_uuid, hardware, max(abs(mean_ratio - 1)) AS off FROM drift_by_gpu GROUP BY ALL
            ORDER BY off DESC, gpu_uuid LIMIT ?
        )
        SELECT gpu_uuid, hardware, metric, n_samples, mean_ratio, std_ratio
        FROM drift_by_gpu JOIN most USING (gpu_uuid, hardware) ORDER BY off DESC, gpu_uuid, metric
        """,
        [_MOST_GPUS],
    ).fetchall()
    order = {uuid: at for at, uuid in enumerate(dict.fromkeys(row[0] for row in found), start=1)}
    return [
        {
            "name": f"{order[uuid]:02d} {clipped(uuid, 20)}",
            "uuid": clipped(uuid),
            "gpu": clipped(hardware),
            "metric": name_of(metric),
            "n": n,
            "ratio": ratio - 1,
            "low": ratio - 1 - std if std is not None else None,
            "high": ratio - 1 + std if std is not None else None,
        }
        for uuid, hardware, metric, n, ratio, std in found
        if ratio is not None
    ]


def _count_gpus(connection: DuckDBPyConnection) -> int:
    ((count,),) = connection.execute(
        "SELECT count(DISTINCT gpu_uuid) FROM drift_by_gpu WHERE mean_ratio IS NOT NULL"
    ).fetchall()
    return int(count)
