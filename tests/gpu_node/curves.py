"""What a scripted curve truly draws: numpy's answer, which shares nothing with the C library's closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Script:
    """A curve (linear between points, from start_s on, repeated every period_s unless 0) and the load log.

    From the log's first entry on its steps replace the curve. Times in seconds of the node's clock.
    """

    offsets_s: Array
    watts: Array
    start_s: float
    period_s: float
    load_times_s: Array
    load_watts: Array

    def power_w(self, times_s: Array) -> Array:
        """Watts at each time; at a jump the value after it."""
        offsets = times_s - self.start_s
        if self.period_s > 0:
            offsets = np.mod(offsets, self.period_s)
        after = np.searchsorted(self.offsets_s, offsets, side="right")
        left = np.clip(after - 1, 0, len(self.offsets_s) - 1)
        right = np.clip(after, 0, len(self.offsets_s) - 1)
        width = self.offsets_s[right] - self.offsets_s[left]
        share = np.divide(offsets - self.offsets_s[left], width, out=np.zeros_like(offsets), where=width > 0)
        powers = self.watts[left] + (self.watts[right] - self.watts[left]) * share
        if not len(self.load_times_s):
            return np.asarray(powers)
        entry = np.searchsorted(self.load_times_s, times_s, side="right") - 1
        return np.where(entry >= 0, self.load_watts[np.maximum(entry, 0)], powers)

    def energy_j(self, from_s: float, to_s: float) -> float:
        """Joules between two times; exact, because between two edges the power is a straight line."""
        if to_s < from_s:
            return -self.energy_j(to_s, from_s)
        edges = [np.array([from_s, to_s]), self.load_times_s, self._edges_s(from_s, to_s)]
        times = np.unique(np.clip(np.concatenate(edges), from_s, to_s))
        middles = (times[1:] + times[:-1]) / 2
        return math.fsum(self.power_w(middles) * np.diff(times))

    def _edges_s(self, from_s: float, to_s: float) -> Array:
        """Times between two at which the curve may bend or jump."""
        if self.period_s <= 0:
            return self.start_s + self.offsets_s
        first = math.floor((from_s - self.start_s) / self.period_s)
        last = math.floor((to_s - self.start_s) / self.period_s)
        origins = self.start_s + self.period_s * np.arange(first, last + 2)
        return np.concatenate([origins, (origins[:, None] + self.offsets_s[None, :]).ravel()])
