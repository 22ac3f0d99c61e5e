"""Intervals of many groups against scipy's bootstrap in a loop, what they cover, and how often the gate is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from tests.bench.figures import Figure
from warehouse.bootstrap import (
    bootstrap_ci,
    expected_percentile_coverage,
    percentile_bounds,
    student_t_bounds,
)
from warehouse.compare import Cycle, compare_metric
from warehouse.comparison.gate import decide, gate_confidence, parse_condition

CONFIGS, CYCLES, METRICS = 2000, 5, 6
REPEATS = 3
N_GROUPS = 20_000
N_COMPARISONS = 2000
BLOCK_CV, CYCLE_CV = 0.05, 0.02
CONDITIONS = ("a > +0%", "b < -0%", "c > +0%")


def statistics_figures(_scratch: Path) -> Iterator[Figure]:
    yield from speed_figures()
    yield from coverage_figures()
    yield from gate_figures()


def speed_figures() -> Iterator[Figure]:
    draw = np.random.default_rng(7)
    # One metric after the other, each of its own size, as energies and rates are.
    sizes = 10.0 ** draw.uniform(-4, 5, size=(CONFIGS * METRICS, 1))
    samples = sizes * draw.normal(1.0, 0.03, size=(CONFIGS * METRICS, CYCLES))
    what = f"intervals of {CONFIGS:,} configs x {CYCLES} cycles x {METRICS} metrics"
    ours, theirs = [], []
    for _ in range(REPEATS):
        ours.append(_seconds(lambda: percentile_bounds(samples)))
        theirs.append(_seconds(lambda: [_scipy_interval(row) for row in samples]))
    yield Figure(f"{what}: scipy.stats.bootstrap in a loop", "s", theirs)
    yield Figure(f"{what}: joulehouse", "s", ours)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    yield Figure(f"{what}: how many times faster", "x", ratios, 10.0, at_least=True)
    bounds = np.stack(percentile_bounds(samples), axis=1)
    alone = np.array([(one.ci_lower, one.ci_upper) for one in map(bootstrap_ci, samples)])
    yield Figure("largest relative deviation from bootstrap_ci", "", [float(np.abs(bounds / alone - 1).max())], 1e-12)


def coverage_figures() -> Iterator[Figure]:
    for n in (3, 5, 10):
        samples = np.random.default_rng(n).normal(10.0, 1.0, size=(N_GROUPS, n))
        what = f"coverage for normal data, n = {n}"
        student = _coverage(student_t_bounds(samples), 10.0)
        yield Figure(f"{what}: Student's t, |coverage - 95|", "points", [abs(student - 95)], 2.0)
        percentile = _coverage(percentile_bounds(samples), 10.0)
        stated = 100 * (expected_percentile_coverage(n) or 0.0)
        yield Figure(
            f"{what}: percentile, |coverage - the stated {stated:g}|", "points", [abs(percentile - stated)], 2.0
        )


def gate_figures() -> Iterator[Figure]:
    """Regressed although nothing changed; the limit is 0 %, where that is likeliest."""
    for method in ("paired", "welch"):
        for k in (1, len(CONDITIONS)):
            alarms = false_alarms(method, k)
            of = f"{N_COMPARISONS:,} comparisons of nothing, {method}, {k} condition{'' if k == 1 else 's'}"
            yield Figure(f"{of}: false alarms", "%", [100 * alarms], 6.0)
        seen = 100 * false_differences(method)
        yield Figure(f"{N_COMPARISONS:,} comparisons of nothing, {method}: intervals without 1", "%", [seen], 6.0)


def false_alarms(method: str, k: int) -> float:
    """Part of comparisons in which the gate of `k` conditions says regressed (1)."""
    conditions = [parse_condition(text) for text in CONDITIONS[:k]]
    level = gate_confidence(k)
    alarms = 0
    for a, b in _comparisons(method, seed=k):
        found = [(condition, compare_metric(condition.metric, a, b)) for condition in conditions]
        decisions = [decide(condition, one.ratio, one.confounded, level) for condition, one in found]
        alarms += any(decision.outcome == "regressed" for decision in decisions)
    return alarms / N_COMPARISONS


def false_differences(method: str) -> float:
    """Part of comparisons whose 95 % interval does not hold the true ratio, 1 (1)."""
    missed = 0
    for a, b in _comparisons(method, seed=11):
        ratio = compare_metric("a", a, b).ratio
        assert ratio is not None
        assert ratio.method == method
        interval = ratio.interval()
        assert interval is not None
        missed += not interval[0] <= 1 <= interval[1]
    return missed / N_COMPARISONS


def _comparisons(method: str, seed: int) -> Iterator[tuple[list[Cycle], list[Cycle]]]:
    """3, 5 and 10 cycles in turn. Paired: both of a block share its effect; Welch: each cycle is a block of its own."""
    draw = np.random.default_rng(seed)
    for number in range(N_COMPARISONS):
        n = (3, 5, 10)[number % 3]
        effects = draw.normal(1.0, BLOCK_CV, size=(2, n, 1))
        if method == "paired":
            effects[1] = effects[0]
        values = effects * draw.normal(1.0, CYCLE_CV, size=(2, n, 3))
        yield _side(values[0], "s" if method == "paired" else "first"), _side(values[1], "s")


def _side(values: NDArray[np.float64], study: str) -> list[Cycle]:
    return [
        Cycle(study, f"c{block:03d}-0", ("GPU-a",), None, None, dict(zip("abc", map(float, row), strict=True)))
        for block, row in enumerate(values, start=1)
    ]


def _scipy_interval(row: NDArray[np.float64]) -> object:
    return scipy.stats.bootstrap(
        (row,), np.mean, n_resamples=1000, method="percentile", vectorized=True, rng=np.random.default_rng(42)
    )


def _coverage(bounds: tuple[NDArray[np.float64], NDArray[np.float64]], true_mean: float) -> float:
    """In percent."""
    lower, upper = bounds
    return float(100 * ((lower <= true_mean) & (true_mean <= upper)).mean())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
