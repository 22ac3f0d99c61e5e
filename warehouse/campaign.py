"""A campaign: cycles of one configuration under one set of conditions, and intervals over those cycles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from warehouse.bootstrap import bootstrap_ci
from warehouse.intake.rows import CONDITIONS
from warehouse.intervals import interval_rows, read_pilots, samples_by_cell

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from images.contract.result import ExperimentResult

METRICS = (
    "energy_per_output_token_j",
    "output_tokens_per_second",
    "total_tokens_per_second",
    "ttft_mean_ms",
    "itl_mean_ms",
    "total_energy_j",
    "avg_energy_per_token_j",
    "avg_tokens_per_second",
    "total_tokens",
    "total_inference_time_sec",
)
"""Of a result, one number per cycle each, the headline first; what is about requests is summarised per cycle before."""
MIXED = "mixed"
"""Stands for a condition in which the cycles of a pooled row differ."""
POOLED = tuple(name for name in CONDITIONS if name not in ("measurement_config_hash", "is_simulated"))
"""Conditions that may be merged on request; different work, or simulated energy, never is."""

_LATENCIES = ("ttft_mean_ms", "itl_mean_ms")
_SETTINGS = ("experiment", "backend", "model", "dtype", "batch_size")


@dataclass(frozen=True)
class Figures:
    """One metric over the cycles of one group, in the metric's unit; bounds are None for one cycle.

    Attributes:
        t_method: student_t, or stein of an adaptive study's stopping metric; None for one cycle.
    """

    unit: str
    n_samples: int
    mean: float
    std: float
    t_method: str | None
    t_lower: float | None
    t_upper: float | None
    percentile_lower: float | None
    percentile_upper: float | None


@dataclass(frozen=True)
class CampaignGroup:
    """The cycles that one interval is over, and those left out of it. None is not recorded.

    Attributes:
        n_invalid: invalid for another reason than that GPUs are simulated (cycles).
        largest_energy_bound: largest bound of the meter's error in a cycle, as a fraction of its energy.
        n_bounds: cycles with such a bound.
        figures: by metric; what no cycle has is not in it.
        warnings: cycles by code of the warning that they have.
    """

    study: str | None
    measurement_config_hash: str | None
    backend: str | None
    model: str | None
    dtype: str | None
    batch_size: int | None
    n_failed: int
    experiment: str | None = None
    hardware: str | None = None
    gpu_count: int | str | None = None
    image: str | None = None
    driver_version: str | None = None
    power_limits_w: Sequence[float] | str | None = None
    model_commit: str | None = None
    is_simulated: bool = False
    campaign_id: str | None = None
    n_cycles: int = 0
    n_invalid: int = 0
    n_superseded: int = 0
    largest_energy_bound: float | None = None
    n_bounds: int = 0
    figures: Mapping[str, Figures] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)


def aggregate_campaign_results(
    results_by_config: Mapping[str, Sequence[ExperimentResult]], confidence: float = 0.95
) -> dict[str, dict[str, Any]]:
    """Mean and percentile interval of every metric, per configuration.

    Every result that is given counts, so leave invalid ones out before. A cycle in which a metric
    was not measured is left out of that metric, and ``n_samples`` counts the rest; a metric that no
    cycle has is left out altogether.

    Returns:
        For each configuration ``n_cycles`` and, for each of `METRICS` that was measured, the fields
        of a `BootstrapResult` in the unit that the metric's name ends in.

    Raises:
        ValueError: `confidence` is not between 0 and 1.
    """
    return {
        config: {"n_cycles": len(results)}
        | {
            metric: bootstrap_ci(samples, confidence=confidence).model_dump()
            for metric in METRICS
            if (samples := _measured(results, metric))
        }
        for config, results in results_by_config.items()
    }


def _measured(results: Sequence[ExperimentResult], metric: str) -> list[float]:
    holders = (result.latency_stats if metric in _LATENCIES else result for result in results)
    return [float(value) for holder in holders if (value := getattr(holder, metric, None)) is not None]


def campaign_groups(
    connection: DuckDBPyConnection,
    study: str | None = None,
    *,
    include_all: bool = False,
    pool: Sequence[str] = (),
) -> list[CampaignGroup]:
    """The groups in the warehouse, of one study or of everything.

    A failed job does not say what it ran on, so every group of its study and configuration counts
    it; a configuration that only failed has a group of its own.

    Args:
        include_all: let invalid cycles count, and give the groups of simulated GPUs, too.
        pool: conditions of `POOLED` whose difference does not make another group.
    """
    if include_all or pool:
        groups = _fresh_groups(connection, study, include_all, pool)
    else:
        groups = _stored_groups(connection, study)
    by_study = "study" not in pool
    failed = _failures(connection, study, by_study)
    reached = {_key(group, by_study) for group in groups}
    groups = [
        replace(group, n_failed=failed[key].n_failed) if (key := _key(group, by_study)) in failed else group
        for group in groups
    ]
    groups += [group for key, group in failed.items() if key not in reached]
    return sorted(groups, key=_order)


def count_simulated(connection: DuckDBPyConnection, study: str | None = None) -> int:
    """Cycles on simulated GPUs, which `campaign_groups` leaves out by default; replaced runs are not among them."""
    (count,) = connection.execute(
        "SELECT count(*) FROM runs WHERE is_simulated AND NOT superseded AND ($study IS NULL OR study = $study)",
        {"study": study},
    ).fetchall()[0]
    return int(count)


def known_studies(connection: DuckDBPyConnection) -> list[str]:
    """Names of the studies that have results or failures."""
    rows = connection.execute(
        "SELECT study FROM experiments UNION SELECT study FROM failures ORDER BY study"
    ).fetchall()
    return [study for (study,) in rows if study is not None]


def _stored_groups(connection: DuckDBPyConnection, study: str | None) -> list[CampaignGroup]:
    """As ingest left them."""
    names = ["campaign_id", *CONDITIONS, *_SETTINGS, "n_cycles", "n_invalid", "n_superseded", "n_energy_bounds"]
    parameters = {"study": study}
    chosen = "NOT is_simulated AND ($study IS NULL OR study = $study)"
    groups = connection.execute(
        f"SELECT {', '.join(names)}, largest_energy_bound_ratio FROM campaign_groups WHERE {chosen}", parameters
    ).fetchall()
    columns = list(Figures.__dataclass_fields__)
    rows = connection.execute(
        f"SELECT campaign_id, metric, {', '.join(columns)} FROM intervals "
        f"WHERE campaign_id IN (SELECT campaign_id FROM campaign_groups WHERE {chosen})",
        parameters,
    ).fetchall()
    figures: dict[str, dict[str, Figures]] = defaultdict(dict)
    for campaign_id, metric, *values in rows:
        figures[campaign_id][metric] = Figures(*values)
    codes = _warnings(connection, "campaign_id", f"counts AND {chosen}", parameters)
    return [
        _group(dict(zip(names, row, strict=False)), row[-1], figures[row[0]], codes.get(row[0], {})) for row in groups
    ]


def _fresh_groups(
    connection: DuckDBPyConnection, study: str | None, include_all: bool, pool: Sequence[str]
) -> list[CampaignGroup]:
    """Other groups than the stored ones, or over other cycles.

    Of the runs of a study's cycle that come together in a group, only the newest valid one counts: pooled, there may
    be several that no newer run of their own campaign replaced.
    """
    kept = [name for name in CONDITIONS if name not in pool]
    key = f"md5(to_json([{', '.join(f'{name}::VARCHAR' for name in kept)}]))" if pool else "campaign_id"
    chosen = "($study IS NULL OR study = $study) AND ($include_all OR NOT is_simulated)"
    parameters = {"study": study, "include_all": include_all}
    # As in refresh.sql, where a group is a campaign.
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE ranked AS
        SELECT
            experiment_key,
            study IS NOT NULL AND cycle IS NOT NULL AND row_number() OVER (
                PARTITION BY {key}, study, cycle ORDER BY is_invalid, start_time DESC, experiment_id DESC
            ) > 1 AS replaced,
            NOT replaced AND ($include_all OR NOT is_invalid) AS is_cycle
        FROM runs WHERE {chosen}
        """,
        parameters,
    )
    conditions = ", ".join(
        f"any_value({name}) FILTER (describes), count(DISTINCT coalesce({name}::VARCHAR, '')) FILTER (describes)"
        for name in CONDITIONS
    )
    rows = connection.execute(
        f"""
        SELECT {key}, {", ".join(f"arg_max({name}, start_time)" for name in _SETTINGS)},
            count(*) FILTER (is_cycle),
            count(*) FILTER (NOT replaced AND is_invalid),
            count(*) FILTER (replaced),
            count(energy_bound_ratio) FILTER (is_cycle),
            max(energy_bound_ratio) FILTER (is_cycle),
            bool_or(is_cycle AND is_invalid),
            {conditions}
        FROM (
            -- The cycles that count say what a group is of; where there are none, all of its runs do.
            SELECT *, is_cycle OR NOT bool_or(is_cycle) OVER (PARTITION BY {key}) AS describes
            FROM runs JOIN temp.ranked USING (experiment_key)
        )
        GROUP BY 1
        """
    ).fetchall()
    names = [*_SETTINGS, "n_cycles", "n_invalid", "n_superseded", "n_energy_bounds"]
    # A pilot speaks for the cycles that its own study decided on; neither for others beside them, nor for invalid ones.
    decided = set() if pool else {own for own, *values in rows if not values[len(names) + 1]}
    pilots = {own: pilot for own, pilot in read_pilots(connection, "true").items() if own in decided}
    where = "experiment_key IN (SELECT experiment_key FROM temp.ranked WHERE is_cycle)"
    figures: dict[str, dict[str, Figures]] = defaultdict(dict)
    for row in interval_rows(samples_by_cell(connection, where, {}, key), pilots):
        values: list[Any] = [row.get(name) for name in Figures.__dataclass_fields__]
        figures[row["campaign_id"]][row["metric"]] = Figures(*values)
    codes = _warnings(connection, key, where, {})
    groups = []
    for own, *values in rows:
        columns = dict(zip(names, values, strict=False)) | _pooled_conditions(values[len(names) + 2 :])
        columns["campaign_id"] = None if pool else own
        groups.append(_group(columns, values[len(names)], figures[own], codes.get(own, {})))
    return groups


def _pooled_conditions(values: Sequence[Any]) -> dict[str, Any]:
    """From each condition's value and how many values there are, in turn."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return {name: value if count == 1 else MIXED for name, (value, count) in zip(CONDITIONS, pairs, strict=True)}


def _group(
    columns: Mapping[str, Any], bound: float | None, figures: Mapping[str, Figures], codes: Mapping[str, int]
) -> CampaignGroup:
    names = {name: value for name, value in columns.items() if name != "n_energy_bounds"}
    return CampaignGroup(
        **names,
        n_failed=0,
        n_bounds=columns["n_energy_bounds"],
        largest_energy_bound=bound,
        figures=figures,
        warnings=codes,
    )


def _warnings(
    connection: DuckDBPyConnection, key: str, where: str, parameters: Mapping[str, object]
) -> dict[str, dict[str, int]]:
    """Cycles by group and code."""
    rows = connection.execute(
        f"""
        SELECT {key}, code, count(DISTINCT experiment_id)
        FROM runs JOIN warnings USING (experiment_id)
        WHERE {where} AND code IS NOT NULL
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        parameters,
    ).fetchall()
    codes: dict[str, dict[str, int]] = defaultdict(dict)
    for group, code, count in rows:
        codes[group][code] = count
    return codes


def _failures(
    connection: DuckDBPyConnection, study: str | None, by_study: bool
) -> dict[tuple[str | None, str | None], CampaignGroup]:
    """What has a result after all, by late aggregation, has not failed."""
    own = "study" if by_study else f"CASE WHEN count(DISTINCT study) > 1 THEN '{MIXED}' ELSE any_value(study) END"
    rows = connection.execute(
        f"""
        SELECT {own}, measurement_config_hash, any_value(backend), any_value(model), any_value(dtype),
            any_value(batch_size), count(*), any_value(experiment)
        FROM failures
        WHERE ($study IS NULL OR study = $study) AND experiment_id NOT IN (SELECT experiment_id FROM experiments)
        GROUP BY {"study, " if by_study else ""}measurement_config_hash
        """,
        {"study": study},
    ).fetchall()
    return {(row[0] if by_study else None, row[1]): CampaignGroup(*row) for row in rows}


def _key(group: CampaignGroup, by_study: bool) -> tuple[str | None, str | None]:
    return group.study if by_study else None, group.measurement_config_hash


def _order(group: CampaignGroup) -> tuple[tuple[int, str], ...]:
    """Numbers by their size: batch 4 before batch 16."""
    parts = (
        group.study,
        group.backend,
        group.model,
        group.batch_size,
        group.experiment,
        group.measurement_config_hash,
        group.hardware,
        group.image,
    )
    return tuple((part, "") if isinstance(part, int) else (0, part or "") for part in parts)
