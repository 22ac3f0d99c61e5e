"""Energy between two marks, from readings of a stepping counter and of power. Arithmetic only.

The counter moves in steps about 0.1 s apart, and a mark usually coincides with a power step. So the counter is
never interpolated across a mark: its difference is taken between two of its steps (ticks), whose times are known
because readings are dense there, and the two pieces between tick and mark are integrated from instant power:

    E = C(tick at close) - C(tick at open) + sum of the signed pieces tick -> mark

The ticks nearest in knowledge are taken: the last one before the opening and the first one after the closing mark
when readings were dense outside the window, so that nothing has to be polled inside it.

Error bound of the counter's figure, J:

    period x (highest - lowest power within one period of the mark), for both edges       stale power readings
    + lag x (highest - lowest power near either mark)                                       late counter
    + uncertainty of each tick's time x power there                                         reading gaps

The lag is the longest that the readings allow (`measure_lag`); where they tell it, ticks are moved back by it. Error
bound of the integral: the edges over the longest time without a sample there, or that a power reading stands still;
and three standard deviations of the sum between samples, as if neighbours were independent draws (their difference d
over a gap g then has a variance of d^2 / 2, and the sum one of d^2 g^2 / 2). That holds for a load that changes faster
than it is sampled, and is generous for one that changes more slowly.
Both bounds end with the meter's resolution. Where the two figures differ by more than both bounds, the difference is
the bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from images.contract.parts import DeviceEnergy, PowerMethod

Array = NDArray[np.float64]

AVERAGED_OVER_S = 1.0
LONGEST_HELD_S = 1.0
"""Power is not held from a mark to a sample that is farther away."""
_DENSE = 0.25  # a tick known to this part of a period has a time of its own
_LAG_STEP_S = 0.005
_LONGEST_LAG = 3.0  # periods,
_LONGEST_LAG_S = 0.2  # and at least this,
_LAG_SEARCH_S = 1.0  # unless none so short is possible
_LONGEST_STALE_S = 0.1  # a reading that stands still for longer shows a power that does
_FARTHEST = 3.0  # periods between a mark and its tick
_CANDIDATES = 8  # ticks looked at for a mark
_STARVED = 5.0  # times the usual gap between samples
_FEWEST_SAMPLES = 3
_RESOLUTION_J = 0.001  # of the counter, and of a second of power
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
    integral, gaps = _Integral(time, power, ()), np.diff(time)
    # Between readings that are not dense, power may have run anywhere in its range; and what a reading shows may
    # be as old as readings stand still.
    dense = gaps <= _SEEN_S
    stale_s = _held_s(time[:-1][dense], power[:-1][dense])
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


def energy_between(
    readings: Readings,
    opened_s: float,
    closed_s: float,
    *,
    gpu_uuid: str,
    power_method: PowerMethod | None,
    traits: CounterTraits | None,
    dense_marks: bool = True,
) -> DeviceEnergy:
    """Energy of one device between the marks, by both methods, with their bounds.

    The counter gives the figure where there is one. Between marks around which nothing was read densely its steps
    are known to half a sample only, and a counter that no lag explains is not understood; in both cases the method
    with the smaller bound gives it.

    Args:
        readings: dense around the marks if possible, and reaching at least one period beyond them.
        traits: None where there is no counter, or none that can be trusted.
    """
    time, power = readings.powered()
    inside = (time >= opened_s) & (time <= closed_s)
    counter, counter_bound = None, None
    if traits is not None:
        counter, counter_bound = _by_counter(readings, opened_s, closed_s, power_method, traits)
    integral, integral_bound = _by_integral(time, power, opened_s, closed_s, power_method)
    if counter is not None and counter_bound is not None and integral is not None and integral_bound is not None:
        difference = abs(counter - integral)
        if difference > counter_bound + integral_bound:
            # One of them is wrong by more than it should be, and nobody knows which.
            counter_bound, integral_bound = max(difference, counter_bound), max(difference, integral_bound)
    edges = np.concatenate(([opened_s], time[inside], [closed_s]))
    by_counter = counter is not None
    doubtful = not dense_marks or (traits is not None and not traits.lag.understood)
    if doubtful and integral_bound is not None and counter_bound is not None:
        by_counter = counter_bound <= integral_bound
    return DeviceEnergy(
        gpu_uuid=gpu_uuid,
        energy_j=counter if by_counter else integral,
        source="nvml_counter" if by_counter else "nvml_power" if integral is not None else None,
        counter_j=counter,
        integral_j=integral,
        bound_j=counter_bound if by_counter else integral_bound,
        counter_bound_j=counter_bound,
        integral_bound_j=integral_bound,
        update_period_s=traits.period_s if traits is not None else None,
        counter_lag_s=traits.lag_s if traits is not None else None,
        power_method=power_method,
        samples=int(inside.sum()),
        longest_gap_s=float(np.diff(edges).max()) if time.size else None,
    )


def _by_counter(
    readings: Readings, opened_s: float, closed_s: float, method: PowerMethod | None, traits: CounterTraits
) -> tuple[float | None, float | None]:
    ticks = find_ticks(readings, traits.period_s)
    if traits.lag_s is not None:
        # What the counter says at a tick is the energy up to that much earlier.
        ticks = replace(ticks, time_s=ticks.time_s - traits.lag_s)
    time, power = readings.powered()
    instant = method == "instant" and time.size > 0
    if not instant:
        # The counter's own slope, between ticks, stands in for power; it is a mean over each step.
        time, power = _slopes(ticks)
    if ticks.time_s.size < 2 or time.size == 0:
        return None, None
    reach_s = _FARTHEST * traits.period_s + (traits.lag_s or 0.0)
    opening = _anchor(ticks, opened_s, time, reach_s, before=True)
    closing = _anchor(ticks, closed_s, time, reach_s, before=False)
    if opening is None or closing is None:
        return None, None  # the counter stood still there
    integral = _Integral(time, power, (opened_s, closed_s))
    energy = float(
        ticks.energy_j[closing]
        - ticks.energy_j[opening]
        + integral.between(ticks.time_s[opening], opened_s) * -1.0
        + integral.between(ticks.time_s[closing], closed_s)
    )
    stale_s = max(traits.period_s, _held_s(time, power)) if instant else 2 * traits.period_s
    lag_s = traits.lag.high_s
    near = [
        _near(time, power, mark, traits.period_s + lag_s + float(ticks.half_width_s[tick]))
        for mark, tick in ((opened_s, opening), (closed_s, closing))
    ]
    bound = sum(stale_s * float(np.ptp(there)) for there in near)
    bound += lag_s * float(np.ptp(np.concatenate(near)))
    bound += sum(
        float(ticks.half_width_s[tick]) * float(np.max(there))
        for tick, there in zip((opening, closing), near, strict=True)
    )
    return energy, bound + 2 * _RESOLUTION_J


def _by_integral(
    time: Array, power: Array, opened_s: float, closed_s: float, method: PowerMethod | None
) -> tuple[float | None, float | None]:
    """The trapezoid over the samples inside; to either mark the nearest inside sample's value is held."""
    inside = (time >= opened_s) & (time <= closed_s)
    if np.count_nonzero(inside) < _FEWEST_SAMPLES:
        return None, None
    within, level = time[inside], power[inside]
    gaps, jumps = np.diff(within), np.diff(level)
    head, tail = within[0] - opened_s, closed_s - within[-1]
    if max(head, tail) > LONGEST_HELD_S:
        return None, None  # nobody knows what the power was there
    energy = float(np.sum(gaps * (level[1:] + level[:-1])) / 2 + head * level[0] + tail * level[-1])
    stale_s = AVERAGED_OVER_S if method == "average_1s" else _standing_still(time, power)
    reach_s = stale_s + float(np.max(gaps, initial=0.0))
    near = [_near(time, power, mark, reach_s) for mark in (opened_s, closed_s)]
    edges = sum(max(stale_s, held) * float(np.ptp(there)) for held, there in zip((head, tail), near, strict=True))
    edges += stale_s * float(np.ptp(np.concatenate(near)))
    between = 3.0 * float(np.sqrt(np.sum((np.maximum(gaps, _held_s(time, power)) * jumps) ** 2) / 2.0))
    # Of a time without samples it is only known that power kept to its range.
    usual_s = float(np.quantile(gaps, 0.9)) if gaps.size else 0.0
    holes = np.concatenate((gaps, [head, tail]))
    between += float(np.sum(holes[holes > _STARVED * usual_s])) * float(np.ptp(power))
    return energy, edges + between + _RESOLUTION_J * (1.0 + closed_s - opened_s)


def _standing_still(time: Array, power: Array) -> float:
    """How long a power reading stays the same (s): the median between changes, capped where that is the load's own."""
    changes = time[1:][np.diff(power) != 0]
    return min(float(np.median(np.diff(changes))), _LONGEST_STALE_S) if changes.size > 2 else _LONGEST_STALE_S


def _held_s(time: Array, power: Array) -> float:
    """How long the meter holds a power reading (s), if power changed often enough to tell; else 0."""
    changes = int(np.count_nonzero(np.diff(power)))
    return _standing_still(time, power) if changes >= _CHANGES else 0.0


def _anchor(ticks: Ticks, mark_s: float, power_time: Array, reach_s: float, *, before: bool) -> int | None:
    """The tick from which the mark can be reached with the least doubt; None without one within reach.

    The doubt is the tick's own and the longest time without a power reading on the way; of equal ones the nearest
    outside the window is taken.
    """
    distance = np.abs(ticks.time_s - mark_s)
    near = np.flatnonzero(distance <= reach_s + ticks.half_width_s)
    if near.size == 0:
        return None
    near = near[np.argsort(distance[near], kind="stable")[:_CANDIDATES]]
    outside = ticks.time_s[near] <= mark_s if before else ticks.time_s[near] >= mark_s
    doubts = [
        float(ticks.half_width_s[tick]) + _longest_gap(power_time, float(ticks.time_s[tick]), mark_s) for tick in near
    ]
    # Half a millisecond is a matter of luck; being outside, where the load is off, is not.
    return int(near[np.lexsort((distance[near], ~outside, np.round(doubts, 3)))[0]])


def _longest_gap(time: Array, one_s: float, other_s: float) -> float:
    low, high = min(one_s, other_s), max(one_s, other_s)
    between = time[(time > low) & (time < high)]
    return float(np.diff(np.concatenate(([low], between, [high]))).max())


def _near(time: Array, power: Array, mark_s: float, reach_s: float) -> Array:
    """Power within `reach_s` of the mark, and in any case the last reading before and the first after it."""
    chosen = np.abs(time - mark_s) <= reach_s
    at = int(np.searchsorted(time, mark_s))
    chosen[max(at - 1, 0) : at + 1] = True
    return power[chosen]


def _slopes(ticks: Ticks) -> tuple[Array, Array]:
    """Mean power of each step of the counter, at the step's middle."""
    if ticks.time_s.size < 2:
        return ticks.time_s[:0], ticks.energy_j[:0]
    gaps = np.diff(ticks.time_s)
    return ticks.time_s[:-1] + gaps / 2, np.diff(ticks.energy_j) / gaps


class _Integral:
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
