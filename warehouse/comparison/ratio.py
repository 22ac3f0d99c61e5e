"""The ratio B / A of two groups of cycles, with its interval and what it could have shown.

Energy, rates and times are positive and vary by a part of themselves, so all of it is done on logarithms: a difference
of mean logarithms is the logarithm of a ratio of geometric means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtrinc, stdtrit

POWER = 0.8
"""Probability with which the smallest detectable difference would have been found."""


@dataclass(frozen=True)
class Ratio:
    """B / A, estimated.

    Attributes:
        method: paired: t on the logarithms of the pairs' ratios; welch: on the logarithms of two independent groups.
        n_a: values of A; of both, the number of pairs.
        log_ratio: natural logarithm of B / A (1).
        standard_error: of `log_ratio`; None where a side has a single value (1).
        degrees_of_freedom: of the t distribution; None with the standard error.
    """

    method: Literal["paired", "welch"]
    n_a: int
    n_b: int
    log_ratio: float
    standard_error: float | None
    degrees_of_freedom: float | None

    @property
    def value(self) -> float:
        """Geometric mean of B / geometric mean of A (1)."""
        return _exp(self.log_ratio)

    @property
    def n(self) -> int:
        """Pairs, or the cycles of the side that has fewer."""
        return min(self.n_a, self.n_b)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Bounds of B / A by Student's t, (1); None where there is no standard error."""
        if self.standard_error is None or self.degrees_of_freedom is None:
            return None
        half = _quantile(self.degrees_of_freedom, confidence) * self.standard_error
        return _exp(self.log_ratio - half), _exp(self.log_ratio + half)

    def detectable(self, confidence: float = 0.95) -> float | None:
        """Smallest rise from A to B that as many cycles with this spread would have shown with a power of 80 %.

        Shown means that the interval holds no 1. The test statistic follows the noncentral t distribution, so the rise
        is exp(nc x standard error) - 1 with the noncentrality nc at which it exceeds t((1 + confidence) / 2) in 80 % of
        cases: N. L. Johnson and B. L. Welch (1940), Applications of the non-central t-distribution, Biometrika 31,
        362-389. The standard error is the estimated one. The chance of showing a difference of the wrong sign is left
        out (below 1e-6 at 95 %).

        Returns:
            As a part of A (1); None where there is no standard error.
        """
        if self.standard_error is None or self.degrees_of_freedom is None:
            return None
        critical = _quantile(self.degrees_of_freedom, confidence)
        noncentrality = float(nctdtrinc(self.degrees_of_freedom, 1 - POWER, critical))
        return _exp(noncentrality * self.standard_error) - 1.0


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """From pairs, a[i] with b[i]: Student's t on log(b / a), which what both of a pair share drops out of.

    Raises:
        ValueError: no pairs, not as many of A as of B, or a value that is not a finite number above 0.
    """
    logs_a, logs_b = _logarithms(a), _logarithms(b)
    if len(logs_a) != len(logs_b):
        raise ValueError(f"pairs need as many of A as of B, got {len(a)} and {len(b)}")
    differences = logs_b - logs_a
    n = len(differences)
    error = math.sqrt(_variance(differences) / n) if n > 1 else None
    return Ratio("paired", n, n, float(differences.mean()), error, float(n - 1) if n > 1 else None)


def welch_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """From two independent groups, whose spreads may differ.

    B. L. Welch (1947), The generalization of Student's problem when several different population variances are
    involved, Biometrika 34, 28-35; the degrees of freedom of F. E. Satterthwaite (1946), An approximate distribution of
    estimates of variance components, Biometrics Bulletin 2, 110-114.

    Raises:
        ValueError: a side without values, or a value that is not a finite number above 0.
    """
    logs_a, logs_b = _logarithms(a), _logarithms(b)
    n_a, n_b = len(logs_a), len(logs_b)
    log_ratio = float(logs_b.mean() - logs_a.mean())
    if min(n_a, n_b) < 2:
        return Ratio("welch", n_a, n_b, log_ratio, None, None)
    part_a, part_b = _variance(logs_a) / n_a, _variance(logs_b) / n_b
    variance = part_a + part_b
    below = part_a**2 / (n_a - 1) + part_b**2 / (n_b - 1)
    # Without any spread every number of degrees gives the same interval, of no width.
    degrees = variance**2 / below if below > 0 else float(n_a + n_b - 2)
    return Ratio("welch", n_a, n_b, log_ratio, math.sqrt(variance), degrees)


def _logarithms(values: Sequence[float]) -> NDArray[np.float64]:
    samples = np.asarray(values, dtype=float)
    if samples.size == 0:
        raise ValueError("at least one value is needed")
    if not (np.isfinite(samples) & (samples > 0)).all():
        raise ValueError("a ratio needs values above 0")
    logarithms: NDArray[np.float64] = np.log(samples)
    return logarithms


def _variance(logarithms: NDArray[np.float64]) -> float:
    """Exactly 0 where all are equal: their mean is rounded, and what that leaves is no spread."""
    return float(logarithms.var(ddof=1)) if np.ptp(logarithms) > 0 else 0.0


def _quantile(degrees_of_freedom: float, confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return float(stdtrit(degrees_of_freedom, (1 + confidence) / 2))


def _exp(logarithm: float) -> float:
    """Two cycles can give an interval that ends beyond the largest number."""
    return math.exp(logarithm) if logarithm < 700 else math.inf
