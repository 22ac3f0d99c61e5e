"""A campaign: cycles of one configuration under one set of conditions, and intervals over those cycles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from warehouse.bootstrap import bootstrap_ci

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
"""One number per cycle each, the headline first; numbers about requests are summarised per cycle before."""

_LATENCIES = ("ttft_mean_ms", "itl_mean_ms")
_CONDITIONS = (
    "study",
    "measurement_config_hash",
    "hardware",
    "gpu_count",
    "image",
    "driver_version",
    "power_limits_w",
    "model_commit",
    "is_simulated",
)
_SETTINGS = ("backend", "model", "dtype", "batch_size")


@dataclass(frozen=True)
class CampaignGroup:
    """The cycles that one interval is over, and those left out of it. None is not recorded.

    Attributes:
        n_invalid: invalid for another reason than that GPUs are simulated (cycles).
        largest_energy_bound: largest bound of the meter's error in a cycle, as a fraction of its energy.
        n_bounds: cycles with such a bound.
    """

    study: str | None
    measurement_config_hash: str | None
    backend: str | None
    model: str | None
    dtype: str | None
    batch_size: int | None
    n_failed: int
    hardware: str | None = None
    gpu_count: int | None = None
    image: str | None = None
    driver_version: str | None = None
    power_limits_w: Sequence[float] | None = None
    model_commit: str | None = None
    is_simulated: bool = False
    n_cycles: int = 0
    n_invalid: int = 0
    n_superseded: int = 0
    samples: Mapping[str, Sequence[float]] | None = None
    largest_energy_bound: float | None = None
    n_bounds: int = 0
    warnings: Mapping[str, int] | None = None


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
    connection: DuckDBPyConnection, study: str | None = None, *, include_all: bool = False
) -> list[CampaignGroup]:
    """The groups in the warehouse, of one study or of everything.

    A failed job does not say what it ran on, so every group of its study and configuration counts
    it; a configuration that only failed has a group of its own.

    Args:
        include_all: let invalid cycles count, and give the groups of simulated GPUs, too.
    """
    failed = _failures(connection, study)
    groups = [
        replace(group, n_failed=failed[key].n_failed) if (key := _key(group)) in failed else group
        for group in _measured_groups(connection, study, include_all)
    ]
    reached = {_key(group) for group in groups}
    groups += [group for key, group in failed.items() if key not in reached]
    return sorted(groups, key=_order)


def count_simulated(connection: DuckDBPyConnection, study: str | None = None) -> int:
    """Cycles on simulated GPUs, which `campaign_groups` leaves out by default; replaced runs are not among them."""
    (count,) = connection.execute(
        "SELECT count(*) FROM cycles WHERE is_simulated AND NOT superseded AND ($study IS NULL OR study = $study)",
        {"study": study},
    ).fetchall()[0]
    return int(count)


def known_studies(connection: DuckDBPyConnection) -> list[str]:
    """Names of the studies that have results or failures."""
    rows = connection.execute(
        "SELECT study FROM experiments UNION SELECT study FROM failures ORDER BY study"
    ).fetchall()
    return [study for (study,) in rows if study is not None]


def _measured_groups(connection: DuckDBPyConnection, study: str | None, include_all: bool) -> list[CampaignGroup]:
    names = [*_CONDITIONS, *_SETTINGS]
    # In the order they ran: the same cycles then always give the same interval.
    lists = ", ".join(
        f"list({metric}::DOUBLE ORDER BY start_time, experiment_id) FILTER (counts AND {metric} IS NOT NULL)"
        for metric in METRICS
    )
    rows = connection.execute(
        f"""
        WITH judged AS (
            SELECT
                cycles.* REPLACE (counts OR ($include_all AND NOT superseded) AS counts),
                (SELECT list(DISTINCT code ORDER BY code) FROM warnings
                    WHERE warnings.experiment_id = cycles.experiment_id) AS codes,
                energy_bound_j / nullif(total_energy_j, 0) AS bound
            FROM cycles
            WHERE ($study IS NULL OR study = $study) AND ($include_all OR NOT is_simulated)
        )
        SELECT {", ".join(_CONDITIONS)}, {", ".join(f"any_value({name} ORDER BY start_time)" for name in _SETTINGS)},
            count(*) FILTER (counts),
            count(*) FILTER (NOT superseded AND is_invalid),
            count(*) FILTER (superseded),
            max(bound) FILTER (counts),
            count(bound) FILTER (counts),
            flatten(list(codes ORDER BY start_time) FILTER (counts)),
            {lists}
        FROM judged
        GROUP BY {", ".join(_CONDITIONS)}
        """,
        {"study": study, "include_all": include_all},
    ).fetchall()
    groups = []
    for row in rows:
        columns = dict(zip(names, row, strict=False))
        n_cycles, n_invalid, n_superseded, bound, n_bounds, codes, *samples = row[len(names) :]
        measured = {metric: values for metric, values in zip(METRICS, samples, strict=True) if values}
        groups.append(
            CampaignGroup(
                **columns,
                n_cycles=n_cycles,
                n_invalid=n_invalid,
                n_superseded=n_superseded,
                n_failed=0,
                samples=measured,
                largest_energy_bound=bound,
                n_bounds=n_bounds,
                warnings=dict(Counter(sorted(codes or ()))),
            )
        )
    return groups


def _failures(connection: DuckDBPyConnection, study: str | None) -> dict[tuple[str | None, str | None], CampaignGroup]:
    rows = connection.execute(
        """
        SELECT study, measurement_config_hash, any_value(backend), any_value(model), any_value(dtype),
            any_value(batch_size), count(*)
        FROM failures
        WHERE $study IS NULL OR study = $study
        GROUP BY study, measurement_config_hash
        """,
        {"study": study},
    ).fetchall()
    return {(row[0], row[1]): CampaignGroup(*row) for row in rows}


def _key(group: CampaignGroup) -> tuple[str | None, str | None]:
    return group.study, group.measurement_config_hash


def _order(group: CampaignGroup) -> tuple[str, ...]:
    parts = (group.study, group.backend, group.model, group.measurement_config_hash, group.hardware, group.image)
    return tuple(part or "" for part in parts)
