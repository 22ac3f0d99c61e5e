"""How a device's counter and power readings behave: the counter's steps (ticks), their period, and how far it lags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DENSE = 0.25  # a tick known to this part of a period has a time of its own
_LAG_STEP_S = 0.005
_LONGEST_LAG = 3.0  # periods,
_LONGEST_LAG_S = 0.2  # and at least this,
_LAG_SEARCH_S = 1.0  # unless none so short is possible
_LONGEST_STALE_S = 0.1  # a reading that stands still for longer shows a power that does
_SEEN_S = 0.012  # power is known between readings no farther apart
_CHANGES = 20  # of dense power readings, that tell how long one stands still
_NOISE = 0.01  # part of a step's energy that may stay unexplained
_IRREGULAR = 0.05  # part of a period by which two ticks may be nearer or farther


@dataclass(frozen=True, slots=True)
class Readings:
    """One device's readings in time order; NaN where one failed.

    Attributes:
        time_s, energy_j, power_w: shape (n,); the counter in J, power in W.
    """

    time_s: Array
    energy_j: Array
    power_w: Array

    def powered(self) -> tuple[Array, Array]:
        """Times and power of the readings that have power."""
        known = np.isfinite(self.power_w)
        return self.time_s[known], self.power_w[known]


@dataclass(frozen=True, slots=True)
class Ticks:
    """Steps of the counter: each happened within `half_width_s` of `time_s` and left it at `energy_j`; shape (n,)."""

    time_s: Array
    half_width_s: Array
    energy_j: Array


@dataclass(frozen=True, slots=True)
class Lag:
    """The shortest and the longest lag that the readings allow (s); not `understood` if they allow none at all."""

    low_s: float
    high_s: float
    understood: bool = True


@dataclass(frozen=True, slots=True)
class CounterTraits:
    """How a device's counter behaves: time between its steps (s), and how far it lags."""

    period_s: float
    lag: Lag

    @property
    def lag_s(self) -> float | None:
        """The lag, if the readings tell it to half a period, or tell that there is one."""
        half_s = self.period_s / 2
        known = self.lag.low_s > half_s or self.lag.high_s - self.lag.low_s <= half_s
        if known and self.lag.low_s == 0.0:
            return 0.0  # the simplest that the readings allow
        return (self.lag.low_s + self.lag.high_s) / 2 if known else None


def runs_backwards(readings: Readings) -> bool:
    """Whether the counter ever fell."""
    energy = readings.energy_j[np.isfinite(readings.energy_j)]
    return bool(np.any(np.diff(energy) < 0))


def find_ticks(readings: Readings, period_s: float | None = None) -> Ticks:
    """The steps of the counter.

    Args:
        period_s: where given, a step that was seen late is known to be the last one before it was seen.
    """
    known = np.isfinite(readings.energy_j)
    time, energy = readings.time_s[known], readings.energy_j[known]
    after = np.flatnonzero(np.diff(energy) > 0) + 1
    low, high = time[after - 1], time[after]
    if period_s is not None:
        low = np.maximum(low, high - period_s)
    return Ticks((low + high) / 2, (high - low) / 2, energy[after])


def measure_period(readings: Readings) -> float | None:
    """Median time between steps of the counter (s), of densely read ones; None with fewer than two."""
    ticks = find_ticks(readings)
    if ticks.time_s.size < 2:
        return None
    gaps = np.diff(ticks.time_s)
    # Where readings were sparse, a gap spans several steps or is off by the reading's own gap.
    dense = gaps[np.maximum(ticks.half_width_s[1:], ticks.half_width_s[:-1]) <= _DENSE * np.min(gaps)]
    return float(np.median(dense)) if dense.size else None


def measure_lag(readings: Readings, period_s: float) -> Lag:
    """Which lags of the counter the readings allow: up to three periods, or up to 1 s if none so short is possible.

    A lag is refused when some step of the counter cannot be the integral of power over the step's time that much
    earlier, however power ran between its readings. With power that never changed, nothing is refused.
    """
    longest_s = max(_LONGEST_LAG * period_s, _LONGEST_LAG_S)
    time, power = readings.powered()
    starts, ends, width, steps = _dense_steps(readings, period_s)
    if time.size < 2 or steps.size == 0:
        return Lag(0.0, longest_s)
    integral, gaps = Integral(time, power, ()), np.diff(time)
    # Between readings that are not dense, power may have run anywhere in its range; and what a reading shows may
    # be as old as readings stand still.
    dense = gaps <= _SEEN_S
    stale_s = held_s(time[:-1][dense], power[:-1][dense])
    swing = np.abs(np.diff(power))
    doubt = np.concatenate(([0.0], np.cumsum(np.where(dense, swing * (gaps + stale_s), np.ptp(power) * gaps))))
    lags = np.arange(0.0, max(_LAG_SEARCH_S, longest_s), _LAG_STEP_S)
    from_s, to_s = starts[:, None] - lags, ends[:, None] - lags
    first = np.clip(np.searchsorted(time, from_s, side="right") - 1, 0, time.size - 1)
    last = np.clip(np.searchsorted(time, to_s, side="left"), 0, time.size - 1)
    allowed = doubt[last] - doubt[first]
    allowed += width[:, None] * np.maximum.reduce([power[first], power[last]]) + _NOISE * steps[:, None]
    unseen = (from_s < time[0]) | (to_s > time[-1])
    misfit = np.abs(integral.at(to_s) - integral.at(from_s) - steps[:, None])
    possible = np.flatnonzero(np.all((misfit <= allowed) | unseen, axis=0))
    if possible.size == 0:
        return Lag(0.0, float(lags[-1]), understood=False)
    usual = possible[lags[possible] <= longest_s]
    chosen = usual if usual.size else possible
    return Lag(float(lags[chosen[0]]), float(lags[chosen[-1]]))


def _dense_steps(readings: Readings, period_s: float) -> tuple[Array, Array, Array, Array]:
    """Steps of the counter between two ticks of known times: starts, ends, doubt of both times (s), energy (J).

    The tick before the first dense one was not seen to happen, but its value was read, and ticks are regular.
    """
    known = np.isfinite(readings.energy_j)
    time, energy = readings.time_s[known], readings.energy_j[known]
    ticks = find_ticks(readings, period_s)
    dense = ticks.half_width_s <= _DENSE * period_s / 2
    rows = []
    for index in np.flatnonzero(dense):
        width = float(ticks.half_width_s[index])
        end_s = float(ticks.time_s[index])
        if index and dense[index - 1] and end_s - ticks.time_s[index - 1] < 1.5 * period_s:
            start_s, before_j = float(ticks.time_s[index - 1]), float(ticks.energy_j[index - 1])
            width += float(ticks.half_width_s[index - 1])
        else:
            start_s = end_s - period_s
            before = int(np.searchsorted(time, end_s - width, side="right")) - 1
            before_j, width = float(energy[before]), 2 * width + _IRREGULAR * period_s
        rows.append((start_s, end_s, width, float(ticks.energy_j[index]) - before_j))
    starts, ends, widths, steps = np.array(rows, dtype=float).reshape(-1, 4).T
    return starts, ends, widths, steps


def standing_still(time: Array, power: Array) -> float:
    """How long a power reading stays the same (s): the median between changes, capped where that is the load's own."""
    changes = time[1:][np.diff(power) != 0]
    return min(float(np.median(np.diff(changes))), _LONGEST_STALE_S) if changes.size > 2 else _LONGEST_STALE_S


def held_s(time: Array, power: Array) -> float:
    """How long the meter holds a power reading (s), if power changed often enough to tell; else 0."""
    changes = int(np.count_nonzero(np.diff(power)))
    return standing_still(time, power) if changes >= _CHANGES else 0.0


class Integral:
    """Integral of sampled power: linear between samples, held at both ends and on each side of a break."""

    def __init__(self, time: Array, power: Array, breaks_s: tuple[float, ...]) -> None:
        for mark in sorted(breaks_s):
            at = int(np.searchsorted(time, mark))
            if 0 < at < time.size:
                time = np.insert(time, at, [mark, mark])
                power = np.insert(power, at, [power[at - 1], power[at]])
        self._time, self._power = time, power
        self._sums = np.concatenate(([0.0], np.cumsum(np.diff(time) * (power[1:] + power[:-1]) / 2)))

    def at(self, when: Array) -> Array:
        """From the first sample to `when`, any shape (J)."""
        when = np.asarray(when, dtype=float)
        index = np.clip(np.searchsorted(self._time, when, side="right") - 1, 0, self._time.size - 1)
        follower = np.minimum(index + 1, self._time.size - 1)
        passed = when - self._time[index]
        gap = self._time[follower] - self._time[index]
        slope = np.divide(self._power[follower] - self._power[index], gap, out=np.zeros_like(passed), where=gap > 0)
        slope = np.where(passed < 0, 0.0, slope)
        return np.asarray(self._sums[index] + passed * (self._power[index] + slope * passed / 2))

    def between(self, start_s: float, end_s: float) -> float:
        """Signed (J)."""
        start, end = self.at(np.array([start_s, end_s]))
        return float(end - start)
