"""One line of the benchmark's table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPEATS = 10


@dataclass(frozen=True)
class Figure:
    """Repeated measurements of one thing.

    Attributes:
        values: in `unit`.
        target: the summary may not be above it; None if there is none.
        summary: what is made of the values; their median, if not told otherwise.
        at_least: the target is a lower bound.
    """

    name: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    summary: Callable[[Sequence[float]], float] = statistics.median
    at_least: bool = False

    @property
    def value(self) -> float:
        return self.summary(self.values)

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target

    def cells(self) -> tuple[str, str, str, str, str]:
        relation = ">=" if self.at_least else "<="
        target = "" if self.target is None else f"{relation} {self.target:g} {self.unit}"
        verdict = "" if self.target is None else ("met" if self.met else "MISSED")
        spread = f"{min(self.values):.3g} - {max(self.values):.3g}" if len(self.values) > 1 else ""
        return self.name, f"{self.value:.3g} {self.unit}", spread, target, verdict
