"""Confidence intervals of a mean: percentile bootstrap and Student's t. One sample is one cycle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import stdtrit

NOT_COMPUTABLE = "< 2 samples, CI not computable"
UNRELIABLE = "< 3 samples, CI unreliable (recommend >= 3 cycles)"

# Whole percent, rounded down: 20,000 seeded simulations of each n with 1,000 resamples each
# (tests/warehouse/test_bootstrap.py repeats it in small).
_PERCENTILE_COVERAGE = {2: 0.50, 3: 0.74, 4: 0.80, 5: 0.83, 6: 0.86, 7: 0.87, 8: 0.88, 9: 0.89, 10: 0.90}


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
    if n_iterations < 1:
        raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")
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
        warning=NOT_COMPUTABLE if n < 2 else UNRELIABLE if n < 3 else None,
    )


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
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(n))
    mean = float(values.mean())
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


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
