"""Quantiles of Student's t for whole degrees of freedom.

scipy has them too, but takes a quarter of a second to import, which every command would wait for.
"""

from __future__ import annotations

import math
from functools import lru_cache

_MOST_STEPS = 200


@lru_cache(maxsize=4096)
def two_sided_quantile(confidence: float, degrees_of_freedom: int) -> float:
    """The t that a Student's t variable stays within, on both sides, with probability `confidence`.

    Solves A(t | n) = confidence by Newton's method kept between bounds, in the angle atan(t / sqrt(n)), where A is a
    finite sum: M. Abramowitz, I. Stegun (1964), Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Args:
        confidence: between 0 and 1, both excluded.
        degrees_of_freedom: 1 or more.

    Returns:
        The quantile (1 + confidence) / 2, within 1e-12 of itself up to a confidence of 0.999.

    Raises:
        ValueError: an argument outside these.
    """
    n = degrees_of_freedom
    if not 0 < confidence < 1 or n < 1:
        raise ValueError(f"no quantile for confidence {confidence} and {n} degrees of freedom")
    # Density of the angle: 2 G((n + 1) / 2) / (sqrt(pi) G(n / 2)) cos(angle)^(n - 1).
    scale = 2 / math.sqrt(math.pi) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
    low, high = 0.0, math.pi / 2
    angle = min(confidence / scale, high / 2)
    for _ in range(_MOST_STEPS):
        excess = _probability_within(angle, n) - confidence
        if excess > 0:
            high = angle
        else:
            low = angle
        newton = angle - excess / (scale * math.cos(angle) ** (n - 1) or math.inf)
        following = newton if low < newton < high else (low + high) / 2
        if abs(following - angle) <= 1e-16 * angle:
            break
        angle = following
    return math.sqrt(n) * math.tan(angle)


def correlation_by_chance(correlation: float, n: int) -> float:
    """How likely n pairs of independent normal numbers correlate at least so much, either way; n is 3 or more."""
    return 1 - _probability_within(math.asin(abs(correlation)), n - 2)


def _probability_within(angle: float, n: int) -> float:
    """A(t | n) of Abramowitz and Stegun, with angle = atan(t / sqrt(n))."""
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = n % 2 == 1
    term = cosine if is_odd else 1.0
    terms = [term] if n > 1 else []
    for k in range(2 if is_odd else 1, n - 2, 2):
        term *= k / (k + 1) * cosine * cosine
        terms.append(term)
    total = sine * math.fsum(terms)
    return 2 / math.pi * (angle + total) if is_odd else total
