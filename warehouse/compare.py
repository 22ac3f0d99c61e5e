"""Two sides of campaigns against each other: the ratio B / A of each metric, paired where that is right."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.comparison.gate import Condition, Decision, decide, gate_confidence
from warehouse.comparison.ratio import Ratio, paired_ratio, welch_ratio
from warehouse.comparison.selection import Campaign, Selection, differences, listed, pairs_of_campaigns, quoted
from warehouse.comparison.sides import Losses, Lost, losses, select_both
from warehouse.errors import WarehouseError
from warehouse.intervals import PERCENTILES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

METRICS = (
    "energy_per_output_token_j",
    "output_tokens_per_second",
    "total_tokens_per_second",
    "ttft_mean_ms",
    "itl_mean_ms",
    "tpot_mean_ms",
)
"""Compared where none is asked for, the headline first."""

DIFFERENT_OUTPUT = 0.01
"""Part by which mean output lengths may differ before energy per token is of another kind of work (1)."""

# That no GPU was used has to be recorded, too: silence may hide any.
_ON_CPU = """
    gpu_name IS NULL AND coalesce(gpu_count, 0) = 0
    AND (device IN ('none', 'cpu') OR device IS NULL AND gpu_count IS NOT NULL)
"""

GpuSet = tuple[str, ...]


@dataclass(frozen=True)
class Cycle:
    """What is compared of one cycle.

    Attributes:
        gpus: UUIDs of its GPUs, sorted; empty: it used none; None: which they were is not recorded.
        values: metrics, None where not measured.
        n_requests: requests finished.
        prompts: digest of the prompts' tokens; None if not recorded.
    """

    study: str | None
    block: str | None
    gpus: GpuSet | None
    output_tokens: int | None
    n_requests: int | None
    values: Mapping[str, float | None]
    prompts: str | None = None


@dataclass(frozen=True)
class MetricComparison:
    """One metric of two campaigns.

    Attributes:
        mean_a, mean_b: arithmetic means over the cycles compared, in the metric's unit.
        ratio: None if it cannot be compared; then `problem` says why.
        confounded: why a difference may be the GPUs'; None if it cannot.
    """

    metric: str
    mean_a: float | None
    mean_b: float | None
    ratio: Ratio | None
    problem: str | None
    confounded: str | None


@dataclass(frozen=True)
class Comparison:
    """Two campaigns.

    Attributes:
        n_a, n_b: cycles.
        output_length_a, output_length_b: mean output tokens per request; None if not recorded.
        different_prompts: whether they were given other prompts; None: not known.
        different: columns and settings that differ.
    """

    a: Campaign
    b: Campaign
    n_a: int
    n_b: int
    output_length_a: float | None
    output_length_b: float | None
    different_prompts: bool | None
    different: Sequence[str]
    metrics: Sequence[MetricComparison]
    decisions: Sequence[Decision]

    @property
    def different_output_length(self) -> bool | None:
        """Whether B's requests have so much longer or shorter outputs that it is other work; None: not known."""
        if not self.output_length_a or self.output_length_b is None:
            return None
        return abs(self.output_length_b / self.output_length_a - 1.0) > DIFFERENT_OUTPUT


@dataclass(frozen=True)
class Sides:
    """All of A against all of B.

    Attributes:
        alone_a, alone_b: campaigns that have no counterpart on the other side.
        undecided: one decision for each condition if A has such campaigns; none otherwise.
        losses: beside what is compared.
    """

    comparisons: Sequence[Comparison]
    alone_a: Sequence[Campaign]
    alone_b: Sequence[Campaign]
    undecided: Sequence[Decision]
    losses: Losses

    @property
    def decisions(self) -> list[Decision]:
        """All that the exit code follows from."""
        return [decision for one in self.comparisons for decision in one.decisions] + [*self.undecided]

    def n_failed(self, campaign: Campaign) -> int:
        """Jobs of its configuration in its study that failed: which campaign's they are is not recorded."""
        return self.losses.get((campaign.get("study"), campaign.get("measurement_config_hash")), Lost()).n_failed


def compare(
    connection: DuckDBPyConnection,
    a: str,
    b: str,
    *,
    study: str | None = None,
    metrics: Sequence[str] = (),
    conditions: Sequence[Condition] = (),
    confidence: float = 0.95,
    include_all: bool = False,
) -> Sides:
    """The campaigns that selector `b` means against those that `a` means.

    Args:
        study: only campaigns of this study, on both sides.
        metrics: columns of the view runs; `METRICS` if there are none. Those of `conditions` are added. A percentile
            over too few requests is taken as not measured.
        confidence: of the family of all decisions; each is made at `gate_confidence`.
        include_all: let invalid runs and those on simulated GPUs count, too.

    Raises:
        WarehouseError: a selector or a metric that means nothing, or pairs of campaigns that stay ambiguous.
    """
    wanted = list(dict.fromkeys([*(metrics or METRICS), *(condition.metric for condition in conditions)]))
    _check_metrics(connection, wanted)
    side_a, side_b = select_both(connection, (a, b), study, include_all)
    pairs = pairs_of_campaigns(side_a, side_b)
    ids = {campaign.id for pair in pairs for campaign in pair}
    cycles = _cycles(connection, sorted(ids), wanted, include_all)
    level = gate_confidence(len(conditions) * len(pairs), confidence)
    comparisons = [
        compare_cycles(one, other, cycles.get(one.id, ()), cycles.get(other.id, ()), wanted, conditions, level)
        for one, other in pairs
    ]
    alone_a, alone_b = ([one for one in side.campaigns if one.id not in ids] for side in (side_a, side_b))
    lost = losses(connection)
    reason = _vanished(alone_a, side_b, lost) if alone_a else None
    undecided = [Decision(one, "inconclusive", None, level, reason) for one in conditions if reason]
    return Sides(comparisons, alone_a, alone_b, undecided, lost)


def _vanished(alone_a: Sequence[Campaign], side_b: Selection, lost: Losses) -> str:
    """What of A cannot be judged, because B has nothing of it: jobs that fail must not open the gate."""
    hashes = {campaign.get("measurement_config_hash") for campaign in alone_a}
    # Of a study that is on both sides nothing tells whose the failures are.
    studies = {campaign.get("study") for campaign in side_b.campaigns} - {one.get("study") for one in alone_a}
    found = [lost[key] for study in studies for one in hashes if (key := (study, one)) in lost]
    n_failed, n_invalid = sum(one.n_failed for one in found), sum(one.n_invalid for one in found)
    why = f"; B's runs of the same settings: {n_failed} failed, {n_invalid} invalid" if found else ""
    labels = listed([campaign.label() for campaign in alone_a])
    return f"{len(alone_a)} of A's campaigns without a counterpart in B: {labels}{why}"


def compare_cycles(
    a: Campaign,
    b: Campaign,
    cycles_a: Sequence[Cycle],
    cycles_b: Sequence[Cycle],
    metrics: Sequence[str],
    conditions: Sequence[Condition] = (),
    gate_level: float = 0.95,
) -> Comparison:
    """Two campaigns, given their cycles.

    Args:
        gate_level: confidence of each decision's interval.
    """
    compared = {metric: compare_metric(metric, cycles_a, cycles_b) for metric in metrics}
    found = [(condition, compared[condition.metric]) for condition in conditions]
    return Comparison(
        a,
        b,
        len(cycles_a),
        len(cycles_b),
        _output_length(cycles_a),
        _output_length(cycles_b),
        _different_prompts(cycles_a, cycles_b),
        differences(a, b),
        list(compared.values()),
        [decide(condition, one.ratio, one.confounded, gate_level) for condition, one in found],
    )


def compare_metric(metric: str, cycles_a: Sequence[Cycle], cycles_b: Sequence[Cycle]) -> MetricComparison:
    """Paired where A and B ran in the same block on the same GPUs, otherwise as two independent groups.

    One pair per block: of several cycles of a side in one block, their geometric mean. Cycles outside of such blocks
    are left out as soon as there is one pair: what two blocks do not share would count as B's doing.
    """
    measured_a, measured_b = _with(metric, cycles_a), _with(metric, cycles_b)
    problem = _problem(metric, measured_a, measured_b)
    if problem:
        return MetricComparison(metric, _mean(metric, measured_a), _mean(metric, measured_b), None, problem, None)
    blocks_a, blocks_b = _by_block(measured_a), _by_block(measured_b)
    shared = [key for key in blocks_a if key in blocks_b]
    if shared:
        measured_a = [cycle for key in shared for cycle in blocks_a[key]]
        measured_b = [cycle for key in shared for cycle in blocks_b[key]]
        ratio = paired_ratio(
            [_geometric_mean(metric, blocks_a[key]) for key in shared],
            [_geometric_mean(metric, blocks_b[key]) for key in shared],
        )
    else:
        ratio = welch_ratio(_values(metric, measured_a), _values(metric, measured_b))
    confounded = None if shared else confounding(measured_a, measured_b)
    return MetricComparison(metric, _mean(metric, measured_a), _mean(metric, measured_b), ratio, None, confounded)


def confounding(cycles_a: Sequence[Cycle], cycles_b: Sequence[Cycle]) -> str | None:
    """Why a difference of unpaired cycles may be that of their GPUs; None if each side used each GPU set as much.

    GPUs of one model differ by a few percent in the power they draw, so a side that ran more on one is not comparable.
    """
    sets = {cycle.gpus for cycle in (*cycles_a, *cycles_b)}
    if None in sets:
        return "GPU confounded: the GPUs are not recorded"
    shares = {gpus: (_share(gpus, cycles_a), _share(gpus, cycles_b)) for gpus in sets}
    uneven = sorted(gpus for gpus, (of_a, of_b) in shares.items() if gpus is not None and of_a != of_b)
    if not uneven:
        return None
    if all(0 in shares[gpus] for gpus in uneven):
        return "GPU confounded: A and B ran on different GPUs"
    return "GPU confounded: A and B did not run equally often on each GPU"


def _share(gpus: GpuSet | None, cycles: Sequence[Cycle]) -> float:
    return sum(cycle.gpus == gpus for cycle in cycles) / len(cycles)


def _problem(metric: str, measured_a: Sequence[Cycle], measured_b: Sequence[Cycle]) -> str | None:
    missing = [side for side, cycles in (("A", measured_a), ("B", measured_b)) if not cycles]
    if missing:
        return f"not measured in {' and '.join(missing)}"
    if any(value <= 0 for value in _values(metric, (*measured_a, *measured_b))):
        return "a cycle's value is not above 0, and a ratio needs that"
    return None


def _by_block(cycles: Sequence[Cycle]) -> dict[tuple[str | None, str, GpuSet], list[Cycle]]:
    """A block belongs to its study; another's block of the same name ran at another time."""
    found: dict[tuple[str | None, str, GpuSet], list[Cycle]] = {}
    for cycle in cycles:
        if cycle.block is not None and cycle.gpus is not None:
            found.setdefault((cycle.study, cycle.block, cycle.gpus), []).append(cycle)
    return found


def _with(metric: str, cycles: Sequence[Cycle]) -> list[Cycle]:
    return [cycle for cycle in cycles if (value := cycle.values.get(metric)) is not None and math.isfinite(value)]


def _values(metric: str, cycles: Sequence[Cycle]) -> list[float]:
    return [value for cycle in cycles if (value := cycle.values[metric]) is not None]


def _mean(metric: str, cycles: Sequence[Cycle]) -> float | None:
    return float(np.mean(_values(metric, cycles))) if cycles else None


def _geometric_mean(metric: str, cycles: Sequence[Cycle]) -> float:
    values = _values(metric, cycles)
    return values[0] if len(values) == 1 else float(np.exp(np.mean(np.log(values))))


def _output_length(cycles: Sequence[Cycle]) -> float | None:
    known = [
        (cycle.output_tokens, cycle.n_requests)
        for cycle in cycles
        if cycle.output_tokens is not None and cycle.n_requests
    ]
    requests = sum(n_requests for _, n_requests in known)
    return sum(tokens for tokens, _ in known) / requests if requests else None


def _different_prompts(cycles_a: Sequence[Cycle], cycles_b: Sequence[Cycle]) -> bool | None:
    of_a, of_b = ({cycle.prompts for cycle in cycles if cycle.prompts is not None} for cycles in (cycles_a, cycles_b))
    return of_a != of_b if of_a and of_b else None


def _check_metrics(connection: DuckDBPyConnection, wanted: Sequence[str]) -> None:
    types = {"DOUBLE", "BIGINT", "INTEGER"}
    columns = connection.execute("SELECT column_name, column_type FROM (DESCRIBE runs)").fetchall()
    known = {name for name, kind in columns if kind in types}
    for metric in wanted:
        if metric not in known:
            near = _near(metric.lower(), known)
            there = f"did you mean {' or '.join(near)}?" if near else f"there is {METRICS[0]}, for example."
            raise WarehouseError(
                f"there is no metric {quoted(metric)}; {there} `warehouse schema runs` lists all columns.", 2
            )


def _near(metric: str, known: Collection[str]) -> list[str]:
    """Up to three columns that may be meant, the usual ones first."""
    names = [*METRICS, *sorted(name for name in known if not name.endswith("_key"))]
    holding = [name for name in names if len(metric) > 2 and metric in name]
    return list(dict.fromkeys([*holding, *get_close_matches(metric, names, n=3, cutoff=0.5)]))[:3]


def _cycles(
    connection: DuckDBPyConnection, campaign_ids: Sequence[str], metrics: Sequence[str], include_all: bool
) -> dict[str, list[Cycle]]:
    """In the order they ran, so that the same cycles always give the same figures to the last digit."""
    found: dict[str, list[Cycle]] = {}
    for row in _rows(connection, campaign_ids, metrics, include_all):
        campaign_id, study, block, gpu_uuids, on_cpu, output_tokens, n_requests, prompts, *values = row
        gpus = tuple(sorted(gpu_uuids)) if gpu_uuids else () if on_cpu else None
        cycle = Cycle(study, block, gpus, output_tokens, n_requests, dict(zip(metrics, values, strict=True)), prompts)
        found.setdefault(campaign_id, []).append(cycle)
    return found


def _rows(
    connection: DuckDBPyConnection, campaign_ids: Sequence[str], metrics: Sequence[str], include_all: bool
) -> Iterator[tuple[Any, ...]]:
    # The metrics are names of columns: `_check_metrics` has seen to that.
    figures = ", ".join(
        f"CASE WHEN {PERCENTILES.get(metric, 'true')} THEN runs.{metric}::DOUBLE END" for metric in metrics
    )
    result = connection.execute(
        f"""
        WITH finished AS (
            SELECT experiment_id, sum(total_prompts)::BIGINT AS n_requests
            FROM process_results
            WHERE experiment_id IN (
                SELECT experiment_id FROM experiments WHERE campaign_id IN (SELECT unnest($ids::VARCHAR[])))
            GROUP BY experiment_id
        )
        SELECT
            campaign_id, study, block, runs.gpu_uuids, {_ON_CPU}, runs.output_tokens, n_requests, prompts_sha256,
            {figures}
        FROM runs LEFT JOIN finished USING (experiment_id)
        WHERE campaign_id IN (SELECT unnest($ids::VARCHAR[])) AND (counts OR ($include_all AND NOT superseded))
        ORDER BY start_time, experiment_id
        """,
        {"ids": list(campaign_ids), "include_all": include_all},
    )
    yield from result.fetchall()
