"""The statistics: figures that must not move, edge cases, and what the percentile interval is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from warehouse.bootstrap import (
    BootstrapResult,
    bootstrap_ci,
    compute_metric_ci,
    expected_percentile_coverage,
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
