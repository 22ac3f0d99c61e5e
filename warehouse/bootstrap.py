"""Confidence intervals of a mean: percentile bootstrap, Student's t and Stein's. One sample is one cycle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from warehouse.students_t import two_sided_quantile

NOT_COMPUTABLE = "< 2 samples, CI not computable"
UNRELIABLE = "< 3 samples, CI unreliable (recommend >= 3 cycles)"

# Whole percent, rounded down: 20,000 seeded simulations of each n with 1,000 resamples each
# (tests/warehouse/test_bootstrap.py repeats it in small).
_PERCENTILE_COVERAGE = {2: 0.50, 3: 0.74, 4: 0.80, 5: 0.83, 6: 0.86, 7: 0.87, 8: 0.88, 9: 0.89, 10: 0.90}

# Means of resamples that `percentile_bounds` holds at once, with some 40 bytes about each.
_MEANS_AT_ONCE = 1_000_000

Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Lower and upper bounds, one of each per group."""


class BootstrapResult(BaseModel):
    """Mean of some samples with its percentile interval, all in the unit of the samples."""

    model_config = ConfigDict(frozen=True)

    mean: float
    std: float
    ci_lower: float | None
    ci_upper: float | None
    n_samples: int
    confidence: float
    warning: str | None


def bootstrap_ci(
    samples: Sequence[float], n_iterations: int = 1000, confidence: float = 0.95, seed: int = 42
) -> BootstrapResult:
    """Mean, standard deviation (ddof 1; 0.0 for one sample) and percentile interval of the mean.

    The percentile method: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    It covers less than it says for few samples: see `expected_percentile_coverage`.

    Args:
        n_iterations: number of resamples.
        confidence: nominal coverage, between 0 and 1.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: no samples, a sample that is not a finite number, or a parameter out of range.
    """
    values = _finite(samples)
    _check_confidence(confidence)
    _check_iterations(n_iterations)
    n = len(values)
    lower = upper = None
    if n >= 2:
        means = np.random.default_rng(seed).choice(values, size=(n_iterations, n), replace=True).mean(axis=1)
        tail = 50 * (1 - confidence)
        lower, upper = (float(bound) for bound in np.percentile(means, [tail, 100 - tail]))
    return BootstrapResult(
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if n > 1 else 0.0,
        ci_lower=lower,
        ci_upper=upper,
        n_samples=n,
        confidence=confidence,
        warning=sample_warning(n),
    )


def sample_warning(n: int) -> str | None:
    """What is to be said of an interval over `n` samples; None: nothing."""
    return NOT_COMPUTABLE if n < 2 else UNRELIABLE if n < 3 else None


def compute_metric_ci(values: Sequence[float], metric_name: str = "", confidence: float = 0.95) -> dict[str, Any]:
    """`bootstrap_ci` as a dictionary that has ``warning`` only if there is one.

    Args:
        metric_name: named in the error if the values cannot be used.

    Raises:
        ValueError: as `bootstrap_ci`.
    """
    try:
        result = bootstrap_ci(values, confidence=confidence)
    except ValueError as error:
        raise ValueError(f"{metric_name}: {error}" if metric_name else str(error)) from None
    return result.model_dump(exclude={"warning"} if result.warning is None else None)


def student_t_ci(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """mean +- t((1 + confidence) / 2, n - 1) x std / sqrt(n), in the unit of the samples; None for one sample.

    Student (1908), The probable error of a mean, Biometrika 6(1), 1-25. Exact for normal data at every n.

    Raises:
        ValueError: as `bootstrap_ci`.
    """
    values = _finite(samples)
    _check_confidence(confidence)
    n = len(values)
    if n < 2:
        return None
    half = float(two_sided_quantile(confidence, n - 1) * values.std(ddof=1) / np.sqrt(n))
    mean = float(values.mean())
    return mean - half, mean + half


def percentile_bounds(samples: ArrayLike, n_iterations: int = 1000, confidence: float = 0.95, seed: int = 42) -> Bounds:
    """The bounds that `bootstrap_ci` gives each row, for many groups of equally many samples at once.

    `bootstrap_ci` draws the same resamples for every group of n samples, so one matrix that says how often a resample
    holds which sample serves all of them. The sums are taken in another order, so a bound may differ by rounding: by
    less than 1e-12 of the largest sample of its group.

    Args:
        samples: (groups, n), n at least 2; a group may have any unit.
        n_iterations: number of resamples.
        confidence: nominal coverage, between 0 and 1.
        seed: as of `bootstrap_ci`.

    Returns:
        Lower and upper bounds, (groups,) each, in the unit of the group.

    Raises:
        ValueError: fewer than 2 samples, a sample that is not a finite number, or a parameter out of range.
    """
    values = _finite_groups(samples)
    _check_confidence(confidence)
    _check_iterations(n_iterations)
    n_groups, n = values.shape
    counts, times = _distinct_resamples(n, n_iterations, seed)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    lower, upper = np.empty(n_groups), np.empty(n_groups)
    step = max(1, _MEANS_AT_ONCE // len(times))
    for first in range(0, n_groups, step):
        part = slice(first, first + step)
        lower[part], upper[part] = _quantiles(values[part] @ counts / n, times, tails)
    return lower, upper


def student_t_bounds(samples: ArrayLike, confidence: float = 0.95) -> Bounds:
    """The bounds that `student_t_ci` gives each row of `samples`, (groups, n).

    Returns:
        Lower and upper bounds, (groups,) each, in the unit of the group.

    Raises:
        ValueError: fewer than 2 samples, a sample that is not a finite number, or `confidence` out of range.
    """
    values = _finite_groups(samples)
    _check_confidence(confidence)
    n = values.shape[1]
    half = two_sided_quantile(confidence, n - 1) * values.std(axis=1, ddof=1) / np.sqrt(n)
    mean = values.mean(axis=1)
    return mean - half, mean + half


def stein_bounds(samples: ArrayLike, pilot_std: ArrayLike, n_pilot: int, confidence: float = 0.95) -> Bounds:
    """Intervals of an adaptive study's stopping metric: mean +- t((1 + confidence) / 2, n_pilot - 1) x s / sqrt(N).

    s is the pilot's standard deviation, which decided on N, and is independent of the mean of all N: the interval is
    exact for normal data, which one with the standard deviation of all N is not. C. Stein (1945), A two-sample test
    for a linear hypothesis whose power is independent of the variance, Annals of Mathematical Statistics 16, 243-258.

    Args:
        samples: (groups, N), those of all blocks, the pilot's among them.
        pilot_std: (groups,), `PilotEstimate.s`, in the unit of the group.
        n_pilot: `AdaptiveCycles.min`, at least 2.

    Returns:
        Lower and upper bounds, (groups,) each, in the unit of the group.

    Raises:
        ValueError: fewer than 2 samples or pilot blocks, a sample or a deviation that is not a finite number (or is
            below 0), not one deviation per group, or `confidence` out of range.
    """
    values = _finite_groups(samples)
    _check_confidence(confidence)
    if n_pilot < 2:
        raise ValueError(f"a pilot has at least 2 blocks, got {n_pilot}")
    deviations = np.asarray(pilot_std, dtype=float)
    if deviations.shape != values.shape[:1]:
        raise ValueError(f"one pilot deviation per group is needed, got {deviations.shape} for {len(values)} groups")
    if not (np.isfinite(deviations) & (deviations >= 0)).all():
        raise ValueError("a pilot's deviation is a finite number and not below 0")
    half = two_sided_quantile(confidence, n_pilot - 1) * deviations / np.sqrt(values.shape[1])
    mean = values.mean(axis=1)
    return mean - half, mean + half


def expected_percentile_coverage(n: int) -> float | None:
    """How often a nominal 95 % percentile interval of `n` normal samples holds the true mean (fraction).

    Known for 2 to 10 samples; None elsewhere.
    """
    return _PERCENTILE_COVERAGE.get(n)


def _finite(samples: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(samples, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError("at least one sample is needed" if values.size == 0 else "samples must be a flat sequence")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"sample {bad[0]} is {values[bad[0]]}; leave out what was not measured")
    return values


def _finite_groups(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"samples must have two axes, (groups, n), got {values.ndim}")
    if values.shape[1] < 2:
        raise ValueError(f"an interval needs at least 2 samples, got {values.shape[1]}")
    if not np.isfinite(values).all():
        group, place = np.argwhere(~np.isfinite(values))[0]
        bad = values[group, place]
        raise ValueError(f"sample {place} of group {group} is {bad}; leave out what was not measured")
    return values


def _distinct_resamples(n: int, n_iterations: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The draws of `bootstrap_ci`: how often each sample is in each resample, and how often that resample was drawn.

    Few samples make few different resamples: 1,000 draws of 5 samples hold 118.

    Returns:
        Shapes (n, resamples) and (resamples,).
    """
    drawn = np.random.default_rng(seed).integers(0, n, size=(n_iterations, n))
    cells = drawn + n * np.arange(n_iterations)[:, None]
    counts = np.bincount(cells.ravel(), minlength=n * n_iterations).reshape(n_iterations, n)
    distinct, times = np.unique(counts, axis=0, return_counts=True)
    return np.ascontiguousarray(distinct.T, dtype=float), times


def _quantiles(
    rows: NDArray[np.float64], times: NDArray[np.int64], fractions: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Of each row, in which column i stands for `times[i]` equal values; linear between them as numpy.percentile is."""
    order = np.argsort(rows, axis=1)
    up_to = np.cumsum(times[order], axis=1)
    last = int(times.sum()) - 1

    def ranked(rank: int) -> NDArray[np.float64]:
        column = np.argmax(up_to > rank, axis=1)[:, None]
        return np.take_along_axis(rows, np.take_along_axis(order, column, axis=1), axis=1)[:, 0]

    found = []
    for fraction in fractions:
        rank = min(int(fraction * last), last)
        below, above = ranked(rank), ranked(min(rank + 1, last))
        found.append(below + (above - below) * (fraction * last - rank))
    return found


def _check_iterations(n_iterations: int) -> None:
    if n_iterations < 1:
        raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
