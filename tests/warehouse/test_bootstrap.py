"""The statistics: figures that must not move, edge cases, and what the percentile interval is worth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from images.contract.scheduling import PilotEstimate
from runner.studies.adaptive import interval as intervals_of_the_runner
from warehouse.bootstrap import (
    BootstrapResult,
    bootstrap_ci,
    compute_metric_ci,
    expected_percentile_coverage,
    percentile_bounds,
    stein_bounds,
    student_t_bounds,
    student_t_ci,
)

SAMPLES = [10.0, 12.0, 11.0, 13.0, 10.5]


def test_known_samples_give_the_known_interval_every_time() -> None:
    first, second = bootstrap_ci(SAMPLES), bootstrap_ci(SAMPLES)
    assert first == second
    assert first.mean == pytest.approx(11.30)
    assert first.std == pytest.approx(np.std(SAMPLES, ddof=1))
    assert (round(first.ci_lower or 0, 2), round(first.ci_upper or 0, 2)) == (10.40, 12.30)
    assert (first.n_samples, first.confidence, first.warning) == (5, 0.95, None)


def test_another_seed_gives_other_resamples() -> None:
    samples = list(np.random.default_rng(1).normal(size=12))
    assert bootstrap_ci(samples, seed=1).ci_lower != bootstrap_ci(samples, seed=2).ci_lower


def test_result_is_frozen_and_has_exactly_the_agreed_fields() -> None:
    assert list(BootstrapResult.model_fields) == [
        "mean",
        "std",
        "ci_lower",
        "ci_upper",
        "n_samples",
        "confidence",
        "warning",
    ]
    with pytest.raises(ValueError, match="frozen"):
        bootstrap_ci(SAMPLES).mean = 1.0  # type: ignore[misc]


def test_few_samples_are_said_to_be_few() -> None:
    one, two, three = bootstrap_ci([5.0]), bootstrap_ci([5.0, 7.0]), bootstrap_ci([5.0, 7.0, 9.0])
    assert (one.mean, one.std, one.ci_lower, one.ci_upper) == (5.0, 0.0, None, None)
    assert one.warning == "< 2 samples, CI not computable"
    assert (two.ci_lower, two.ci_upper) == (5.0, 7.0)
    assert two.warning == "< 3 samples, CI unreliable (recommend >= 3 cycles)"
    assert three.warning is None


@pytest.mark.parametrize(
    ("samples", "reason"),
    [([], "at least one"), ([1.0, math.nan], "sample 1 is nan"), ([math.inf], "sample 0 is inf")],
)
def test_samples_that_are_no_numbers_are_refused(samples: list[float], reason: str) -> None:
    for interval in (bootstrap_ci, student_t_ci):
        with pytest.raises(ValueError, match=reason):
            interval(samples)


def test_metric_interval_has_a_warning_only_if_there_is_one() -> None:
    assert compute_metric_ci(SAMPLES, "energy") == bootstrap_ci(SAMPLES).model_dump(exclude={"warning"})
    assert compute_metric_ci([1.0, 2.0])["warning"].startswith("< 3 samples")
    with pytest.raises(ValueError, match="energy: at least one"):
        compute_metric_ci([], "energy")


def test_student_t_equals_the_tables() -> None:
    interval = student_t_ci([1.0, 2.0, 3.0])
    assert interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert student_t_ci([1.0]) is None


@pytest.mark.parametrize("n", range(2, 11))
def test_stated_coverage_is_what_a_simulation_finds(n: int) -> None:
    trials = 1000
    rows = np.random.default_rng(n).standard_normal((trials, n))
    hits = 0
    for seed, row in enumerate(rows):
        result = bootstrap_ci(row, seed=seed)
        hits += (result.ci_lower or 0) <= 0 <= (result.ci_upper or 0)
    assert hits / trials == pytest.approx(expected_percentile_coverage(n), abs=0.03)


def test_coverage_is_the_blueprints_where_it_names_it() -> None:
    assert [expected_percentile_coverage(n) for n in (1, 3, 5, 10, 11)] == [None, 0.74, 0.83, 0.90, None]


@pytest.mark.parametrize("n", [2, 3, 5, 11, 40])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_many_groups_at_once_get_the_numbers_of_each_alone(n: int, confidence: float) -> None:
    draw = np.random.default_rng(n)
    groups = 10.0 ** draw.uniform(-6, 6, size=(50, 1)) * draw.lognormal(0, 0.3, size=(50, n))
    groups[0] = 7.0
    groups[1, 1:] = groups[1, 0]
    alone = [bootstrap_ci(group, confidence=confidence) for group in groups]
    lower, upper = percentile_bounds(groups, confidence=confidence)
    assert lower == pytest.approx([one.ci_lower for one in alone], rel=1e-12, abs=0)
    assert upper == pytest.approx([one.ci_upper for one in alone], rel=1e-12, abs=0)
    pairs = np.stack(student_t_bounds(groups, confidence), axis=1)
    assert pairs == pytest.approx(np.array([student_t_ci(group, confidence) for group in groups]), rel=1e-12, abs=0)


def test_groups_that_do_not_fit_into_one_portion_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.random.default_rng(5).normal(100, 3, size=(10, 4))
    whole = percentile_bounds(groups, n_iterations=200, seed=3)
    monkeypatch.setattr("warehouse.bootstrap._MEANS_AT_ONCE", 100)
    assert np.array_equal(percentile_bounds(groups, n_iterations=200, seed=3), whole)
    one = bootstrap_ci(groups[7], n_iterations=200, seed=3)
    assert (whole[0][7], whole[1][7]) == pytest.approx((one.ci_lower, one.ci_upper), rel=1e-12)


def test_no_groups_have_no_bounds() -> None:
    for bounds in (percentile_bounds(np.empty((0, 3))), student_t_bounds(np.empty((0, 3)))):
        assert [len(side) for side in bounds] == [0, 0]


def test_the_interval_of_an_adaptive_study_is_the_one_its_runner_promised() -> None:
    values = [10.0, 10.2, 9.9, 10.1, 9.8, 10.3, 10.0, 9.7]
    pilot = PilotEstimate(
        experiment="a", measurement_config_hash="0" * 16, mean=10.05, s=float(np.std(values[:4], ddof=1)), n_required=8
    )
    lower, upper = stein_bounds([values, values], [pilot.s, 0.0], 4)
    assert (lower[0], upper[0]) == pytest.approx(intervals_of_the_runner(pilot, values, 4))
    assert lower[1] == upper[1] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: percentile_bounds([[1.0], [2.0]]), "at least 2 samples"),
        (lambda: percentile_bounds([1.0, 2.0]), "two axes"),
        (lambda: student_t_bounds([[1.0, 2.0], [1.0, math.nan]]), "sample 1 of group 1 is nan"),
        (lambda: percentile_bounds([[1.0, 2.0]], n_iterations=0), "n_iterations"),
        (lambda: student_t_bounds([[1.0, 2.0]], confidence=1.0), "confidence"),
        (lambda: stein_bounds([[1.0, 2.0]], [0.1, 0.2], 2), "one pilot deviation per group"),
        (lambda: stein_bounds([[1.0, 2.0]], [0.1], 1), "a pilot has at least 2"),
        (lambda: stein_bounds([[1.0, 2.0]], [math.nan], 2), "a finite number"),
    ],
)
def test_groups_that_give_no_interval_are_refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        call()
