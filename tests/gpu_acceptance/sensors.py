"""What NVML's readings of one GPU are like: how often they change, what they cost, how they compare."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pynvml

from images.harness.counter import Array, Readings, find_ticks
from images.harness.nvml import Device
from images.harness.sampler import Sampler, SystemClock
from tests.gpu_acceptance.loads import Load

SAMPLE_INTERVAL_S = 0.1
_CLOSELY = 0.25  # a tick seen to this part of a period has a time of its own
_COMPARED_EVERY_S = 0.005
_EDGES = 4
_LEAD, _LAG, _LAG_STEP_S = 1.0, 3.0, 0.001  # tried: so many periods ahead and behind


@dataclass(frozen=True)
class Periods:
    """Times between changes of a reading (s).

    Attributes:
        irregularity: largest deviation from the median that the times of the readings do not explain, over the
            median.
        read_every_s: median gap between two readings: changes nearer than this cannot be seen.
    """

    gaps_s: list[float]
    irregularity: float
    read_every_s: float

    @property
    def median_s(self) -> float:
        return float(np.median(self.gaps_s)) if self.gaps_s else math.nan


@dataclass(frozen=True)
class Powers:
    """Mean power over the same time by three ways (W); None where the device does not tell."""

    instant_w: float | None
    plain_w: float | None
    slope_w: float | None

    @property
    def best_w(self) -> float | None:
        """The counter's where there is one."""
        return next((one for one in (self.slope_w, self.instant_w, self.plain_w) if one is not None), None)

    def __str__(self) -> str:
        named = (("instant", self.instant_w), ("plain", self.plain_w), ("counter slope", self.slope_w))
        return ", ".join(f"{name} {'none' if watts is None else f'{watts:.1f} W'}" for name, watts in named)


def watch(device: Device, seconds: float) -> Readings:
    """Counter and power, read every millisecond."""
    sampler = Sampler([device], SAMPLE_INTERVAL_S, SystemClock())
    sampler.poll(lambda: False, seconds)
    return sampler.series[0].readings()


def counter_periods(readings: Readings) -> Periods:
    """Times between the steps of the counter, of those that were seen closely."""
    ticks = find_ticks(readings)
    gaps = np.diff(ticks.time_s)
    if not gaps.size:
        return Periods([], math.nan, _read_every_s(readings))
    doubt = ticks.half_width_s[1:] + ticks.half_width_s[:-1]
    closely = doubt <= _CLOSELY * float(np.median(gaps))
    gaps, doubt = gaps[closely], doubt[closely]
    if not gaps.size:
        return Periods([], math.nan, _read_every_s(readings))
    median_s = float(np.median(gaps))
    beyond = np.maximum(np.abs(gaps - median_s) - doubt, 0.0)
    return Periods(gaps.tolist(), float(beyond.max()) / median_s, _read_every_s(readings))


def power_periods(readings: Readings) -> Periods:
    """Times between changes of the power reading. An update to the same value is not seen: the largest may be two."""
    time_s, power_w = readings.powered()
    changed_s = time_s[1:][np.diff(power_w) != 0]
    return Periods(np.diff(changed_s).tolist(), math.nan, _read_every_s(readings))


def read_costs_us(device: Device, count: int) -> tuple[list[float], list[float]]:
    """Time of a reading of counter and power, and of a whole sample (us), `count` of each by turns."""
    readings, samples = [], []
    for _ in range(count):
        readings.append(_timed_us(device.read))
        samples.append(_timed_us(lambda: (device.read(), device.state())))
    return readings, samples


def compare_powers(device: Device, seconds: float) -> Powers:
    """Mean power by the field API, by the plain call and by the counter, between the same two steps of the counter."""
    handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)
    sampler = Sampler([device], SAMPLE_INTERVAL_S, SystemClock())
    plain: list[tuple[float, float]] = []
    ended_s = time.perf_counter() + seconds
    while time.perf_counter() < ended_s:
        sampler.snap()
        try:
            plain.append((time.perf_counter(), pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3))
        except pynvml.NVMLError:
            plain.append((time.perf_counter(), math.nan))
        time.sleep(_COMPARED_EVERY_S)
    readings = sampler.series[0].readings()
    ticks = find_ticks(readings)
    slope_w, from_s, to_s = None, float(readings.time_s[0]), float(readings.time_s[-1])
    if ticks.time_s.size >= 2:
        from_s, to_s = float(ticks.time_s[0]), float(ticks.time_s[-1])
        slope_w = float(ticks.energy_j[-1] - ticks.energy_j[0]) / (to_s - from_s)
    instant_w = _mean(readings.time_s, readings.power_w, from_s, to_s) if device.power_method == "instant" else None
    plain_s, plain_w = np.array(plain).T
    return Powers(instant_w, _mean(plain_s, plain_w, from_s, to_s), slope_w)


def edges(device: Device, load: Load, each_s: float) -> Readings:
    """Counter and power, read every millisecond while the load goes on and off: there a lag shows."""
    sampler, done = Sampler([device], SAMPLE_INTERVAL_S, SystemClock()), threading.Event()
    reader = threading.Thread(target=sampler.poll, args=(done.is_set, 4 * _EDGES * each_s + 60.0), daemon=True)
    reader.start()
    try:
        for _ in range(_EDGES):
            time.sleep(each_s)
            load.on()
            time.sleep(each_s)
            load.off()
        time.sleep(each_s)
    finally:
        done.set()
        reader.join()
    return sampler.series[0].readings()


def fitted_lag_s(readings: Readings, period_s: float) -> float | None:
    """How far the counter is behind the power reading (s), by least squares; negative if it is ahead of it.

    The harness's own rule (`measure_lag`) asks which lags are possible at all and takes readings for instantaneous;
    this one names the likeliest, whatever delay the power reading has itself. None with fewer than two steps.
    """
    ticks = find_ticks(readings)
    closely = ticks.half_width_s <= _CLOSELY * period_s / 2
    tick_s, tick_j = ticks.time_s[closely], ticks.energy_j[closely]
    time_s, power_w = readings.powered()
    lags_s = np.arange(-_LEAD * period_s, _LAG * period_s, _LAG_STEP_S)
    if time_s.size < 2:
        return None
    inside = (tick_s - lags_s[-1] >= time_s[0]) & (tick_s - lags_s[0] <= time_s[-1])
    tick_s, tick_j = tick_s[inside], tick_j[inside]
    if tick_s.size < 2:
        return None
    sums_j = np.concatenate(([0.0], np.cumsum(np.diff(time_s) * (power_w[1:] + power_w[:-1]) / 2)))
    misfits = [np.diff(tick_j) - np.diff(np.interp(tick_s - lag_s, time_s, sums_j)) for lag_s in lags_s]
    return float(lags_s[int(np.argmin([np.sum(misfit**2) for misfit in misfits]))])


def sampler_share(device: Device, copies: int, seconds: float) -> float:
    """CPU time of the sampling thread at 100 ms over wall time, for as many GPUs as `copies` (fraction of a core).

    There may be one GPU only: it is read that many times.
    """
    sampler = Sampler([device] * copies, SAMPLE_INTERVAL_S, SystemClock())
    sampler.start()
    try:
        thread = next(one for one in threading.enumerate() if one.name == "sampler")
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        used_s, begun_s = time.clock_gettime(clock), time.perf_counter()
        time.sleep(seconds)
        return (time.clock_gettime(clock) - used_s) / (time.perf_counter() - begun_s)
    finally:
        sampler.stop()


def _read_every_s(readings: Readings) -> float:
    return float(np.median(np.diff(readings.time_s))) if readings.time_s.size > 1 else math.nan


def _timed_us(call: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    call()
    return (time.perf_counter() - begun_s) * 1e6


def _mean(time_s: Array, power_w: Array, from_s: float, to_s: float) -> float | None:
    """Time mean of a sampled power between two times (W)."""
    inside = (time_s >= from_s) & (time_s <= to_s) & np.isfinite(power_w)
    if np.count_nonzero(inside) < 2:
        return None
    time_s, power_w = time_s[inside], power_w[inside]
    return float(np.trapezoid(power_w, time_s) / (time_s[-1] - time_s[0]))
