"""Energy between two marks, from readings of a stepping counter and of power. Arithmetic only.

The counter moves in steps about 0.1 s apart, and a mark usually coincides with a power step. So the counter is
never interpolated across a mark: its difference is taken between two of its steps (ticks), whose times are known
because readings are dense there, and the two pieces between tick and mark are integrated from instant power:

    E = C(tick at close) - C(tick at open) + sum of the signed pieces tick -> mark

The ticks nearest in knowledge are taken: the last one before the opening and the first one after the closing mark
when readings were dense outside the window, so that no tick has to be waited for inside it.

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

from dataclasses import replace

import numpy as np

from images.contract.parts import DeviceEnergy, PowerMethod
from images.harness.counter import (
    Array,
    CounterTraits,
    Integral,
    Readings,
    Ticks,
    find_ticks,
    held_s,
    standing_still,
)

AVERAGED_OVER_S = 1.0
LONGEST_HELD_S = 1.0
"""Power is not held from a mark to a sample that is farther away."""
_FARTHEST = 3.0  # periods between a mark and its tick
_CANDIDATES = 8  # ticks looked at for a mark
_STARVED = 5.0  # times the usual gap between samples
_FEWEST_SAMPLES = 3
_RESOLUTION_J = 0.001  # of the counter, and of a second of power


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
    integral = Integral(time, power, (opened_s, closed_s))
    energy = float(
        ticks.energy_j[closing]
        - ticks.energy_j[opening]
        - integral.between(ticks.time_s[opening], opened_s)
        + integral.between(ticks.time_s[closing], closed_s)
    )
    stale_s = max(traits.period_s, held_s(time, power)) if instant else 2 * traits.period_s
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
    stale_s = AVERAGED_OVER_S if method == "average_1s" else standing_still(time, power)
    reach_s = stale_s + float(np.max(gaps, initial=0.0))
    near = [_near(time, power, mark, reach_s) for mark in (opened_s, closed_s)]
    edges = sum(max(stale_s, held) * float(np.ptp(there)) for held, there in zip((head, tail), near, strict=True))
    edges += stale_s * float(np.ptp(np.concatenate(near)))
    between = 3.0 * float(np.sqrt(np.sum((np.maximum(gaps, held_s(time, power)) * jumps) ** 2) / 2.0))
    # Of a time without samples it is only known that power kept to its range.
    usual_s = float(np.quantile(gaps, 0.9)) if gaps.size else 0.0
    holes = np.concatenate((gaps, [head, tail]))
    between += float(np.sum(holes[holes > _STARVED * usual_s])) * float(np.ptp(power))
    return energy, edges + between + _RESOLUTION_J * (1.0 + closed_s - opened_s)


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
