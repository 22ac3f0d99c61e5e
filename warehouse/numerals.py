"""Numbers as they are shown: four digits of a mean and two of its spread, everywhere the same."""

from __future__ import annotations

import math


def digits(mean: float, std: float) -> int:
    """Decimals that show four digits of the mean and two of the spread."""
    wanted = [3 - magnitude(mean)] if mean else []
    # A spread at the level of rounding says nothing about digits.
    wanted += [1 - magnitude(std)] if std > 1e-6 * abs(mean) else []
    return min(max([0, *wanted]), 9)


def magnitude(value: float) -> int:
    """The power of ten of the first digit; `value` is not 0."""
    return math.floor(math.log10(abs(value)))


def number(value: float, decimals: int) -> str:
    """With a comma between thousands."""
    return f"{value:,.{decimals}f}"


def counted(n: int, unit: str) -> str:
    """So many of them: "1 cycle", "2,000 cycles"."""
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def interval(lower: float | None, upper: float | None, decimals: int) -> str | None:
    """Both bounds in brackets; None if there are none."""
    if lower is None or upper is None:
        return None
    return f"[{number(lower, decimals)}, {number(upper, decimals)}]"


def upper_percent(share: float) -> str:
    """Two digits of a bound as percent, upwards: one that is rounded down is none."""
    percent = 100 * share
    decimals = max(0, 1 - magnitude(percent)) if percent else 0
    # What is left of 0.8 as a binary number is no reason to round it up.
    return f"{number(math.ceil(percent * 10**decimals - 1e-6) / 10**decimals, decimals)} %"


def brief(value: float) -> str:
    """Four digits, for a sentence."""
    return number(value, digits(value, 0.0)) if math.isfinite(value) else str(value)


def rough(value: float) -> str:
    """Two digits, or all before the point, for a sentence."""
    return number(value, max(0, 1 - magnitude(value))) if value and math.isfinite(value) else str(value)
