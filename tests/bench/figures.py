"""One line of the benchmark's table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

REPEATS = 10


@dataclass(frozen=True)
class Figure:
    """Repeated measurements of one thing.

    Attributes:
        values: in `unit`.
        target: the median may not be above it; None if there is none.
    """

    name: str
    unit: str
    values: list[float]
    target: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.target is None or self.median <= self.target

    def cells(self) -> tuple[str, str, str, str, str]:
        target = "" if self.target is None else f"<= {self.target:g} {self.unit}"
        verdict = "" if self.target is None else ("met" if self.met else "MISSED")
        spread = f"{min(self.values):.3g} - {max(self.values):.3g}"
        return self.name, f"{self.median:.3g} {self.unit}", spread, target, verdict
