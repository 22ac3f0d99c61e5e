"""The meter of one process: it watches the process's GPUs from before the opening mark until after the closing one.

Every millisecond it reads only before the opening and after the closing mark, where there is nothing to disturb: that
gives the counter's ticks next to the marks. While the model warms up, and in the window's first 2.5 periods of the
counter, it reads every 5 ms, which shows the counter's lag.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from images.contract import files
from images.contract.parts import DeviceActivity, DeviceEnergy
from images.harness.counter import Array, CounterTraits, Lag, measure_lag, measure_period, runs_backwards
from images.harness.energy import energy_between
from images.harness.nvml import THROTTLE_REASONS, Device
from images.harness.sampler import Clock, Sampler, Series, SystemClock

_CALIBRATION_S = 1.2
_CALIBRATION_TICKS = 6
_LONG_CALIBRATION_S = 3.0
_FEWEST_TICKS = 3
_WITHOUT_COUNTER_S = 0.02
"""Power alone is sampled at least this often: then each power step is known to 10 ms."""
_SETTLE_PERIODS, _SETTLE_S = 3.0, 0.2
_LONGEST_PERIODS = 1.5
_TAIL_PERIODS, _TAIL_S = 3.0, 0.2
_EDGE_PERIODS = 2.5
_WATCHED_S = 30.0
_RAMP_S = 0.5
"""An idle GPU's clock needs a moment to rise; that is no drop."""


@dataclass(frozen=True, slots=True)
class Metered:
    """What the meter says about a window; empty without one.

    Attributes:
        samples: rows of timeseries.parquet; None without a meter.
        lost, backwards, silent: UUIDs of GPUs that died, whose counter fell, whose counter stopped.
        newcomers: processes that came onto a GPU in mid-window, in words.
        unreadable: readings in the window without a usable power, by UUID.
        seconds: length of the described part (s).
    """

    devices: list[DeviceEnergy] = field(default_factory=list)
    activity: list[DeviceActivity] = field(default_factory=list)
    samples: files.Table | None = None
    lost: tuple[str, ...] = ()
    backwards: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    newcomers: tuple[str, ...] = ()
    unreadable: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Meter:
    """Energy of `devices`; with none of them, every method does nothing.

    Args:
        interval_s: longest mean gap between samples (s).
        first_index: number in the job of the first device, for the rows of timeseries.parquet.
    """

    def __init__(
        self, devices: Sequence[Device], interval_s: float, clock: Clock | None = None, first_index: int = 0
    ) -> None:
        self.devices = devices
        self._clock = clock or SystemClock()
        self._first_index = first_index
        if any(not device.has_counter for device in devices):
            interval_s = min(interval_s, _WITHOUT_COUNTER_S)
        self.sampler = Sampler(devices, interval_s, self._clock)
        self._periods_s: list[float | None] = [None] * len(devices)
        self._processes: list[set[int]] = []
        self._newcomers: list[str] = []

    @property
    def _longest_period_s(self) -> float:
        return max((period for period in self._periods_s if period is not None), default=0.0)

    def calibrate(self) -> None:
        """Measure how often each counter moves, before anything else runs."""
        if any(device.has_counter for device in self.devices):
            self.sampler.poll(lambda: self._ticked(_CALIBRATION_TICKS, since_s=0.0), _CALIBRATION_S)
            # A counter with steps of a second is rare, and worth the wait.
            self.sampler.poll(lambda: self._ticked(_FEWEST_TICKS, since_s=0.0), _LONG_CALIBRATION_S)
        self._periods_s = [
            measure_period(series.readings()) if device.has_counter else None
            for device, series in zip(self.devices, self.sampler.series, strict=True)
        ]

    def begin(self, *, threaded: bool = True) -> None:
        """Watch the idle device until every counter has moved; the opening mark may come right after it.

        Three periods at least, so that a lag shows where the work before left an edge in the power.

        Args:
            threaded: whether the sampler's thread runs from now on; else the caller takes the samples.
        """
        if not self.devices:
            return
        self._processes = [set(device.processes()) for device in self.devices]
        self._newcomers = [
            f"pid {pid} on {device.uuid} since the job began"
            for device, now in zip(self.devices, self._processes, strict=True)
            for pid in sorted(_strangers(now - device.processes_at_start))
        ]
        if threaded:
            self.sampler.start()
        else:
            self.sampler.begin()
        begun_s = self._clock.now_s()
        period_s = self._longest_period_s
        settle_s = max(_SETTLE_PERIODS * period_s, _SETTLE_S)
        self.sampler.poll(
            lambda: self._clock.now_s() - begun_s >= settle_s and self._ticked(1, begun_s),
            settle_s + _LONGEST_PERIODS * period_s,
        )

    def watch_until(self, happened: Callable[[], bool], at_most_s: float) -> None:
        """Read densely until something else happens; idle devices only."""
        if self.devices:
            self.sampler.poll(happened, at_most_s)
        else:
            deadline = self._clock.now_s() + at_most_s
            while not happened() and self._clock.now_s() < deadline:
                self._clock.sleep(0.001)

    def opened(self) -> None:
        """The window has opened: its first moments are read closely, because there the counter's lag shows."""
        if self.devices:
            self.sampler.watch_edge(_EDGE_PERIODS * self._longest_period_s)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read closely while the model warms up: between rounds the power has edges, which show the counter's lag."""
        if not self.devices:
            yield
            return
        self.sampler.start()
        self.sampler.watch_edge(_WATCHED_S)
        try:
            yield
        finally:
            self.sampler.stop()

    def snap(self) -> None:
        """One reading at the end of the work, just before the closing mark: it shows what the mark cuts off."""
        if self.devices:
            self.sampler.snap()

    def finish(self, closed_s: float) -> None:
        """Watch until every counter has moved twice after the closing mark, three periods at most."""
        if not self.devices:
            return
        period_s = self._longest_period_s
        self.sampler.poll(
            lambda: (
                self._clock.now_s() - closed_s >= min(_TAIL_S, _TAIL_PERIODS * period_s) and self._ticked(2, closed_s)
            ),
            max(_TAIL_PERIODS * period_s, _TAIL_S),
        )
        if self._longest_period_s == 0.0:
            self.sampler.snap()  # the one reading after the mark
        self.stop()
        self._newcomers += [
            f"pid {pid} on {device.uuid} since the window opened"
            for device, before in zip(self.devices, self._processes, strict=True)
            for pid in sorted(set(device.processes()) - before)
        ]

    def power_w(self) -> float | None:
        """Latest power of all devices (W), from any thread and without asking them; None without one."""
        return self.sampler.latest_power_w()

    def stop(self) -> None:
        """End the thread, whatever happened."""
        self.sampler.stop()

    def metered(self, opened_s: float, closed_s: float, span_s: tuple[float, float] | None = None) -> Metered:
        """Energy and activity between the marks.

        Args:
            span_s: part of the window that is described, in seconds after the opening; None is all of it.
        """
        start, end = (opened_s, closed_s) if span_s is None else (opened_s + span_s[0], opened_s + span_s[1])
        backwards, silent, energies = [], [], []
        unreadable: dict[str, int] = {}
        for device, series, period_s in zip(self.devices, self.sampler.series, self._periods_s, strict=True):
            readings = series.readings()
            traits = None
            if runs_backwards(readings):
                backwards.append(device.uuid)
            elif period_s is not None:
                # Averaged power lags itself, and shows nothing of the counter's lag.
                instant = device.power_method == "instant"
                lag = measure_lag(readings, period_s) if instant else Lag(0.0, period_s)
                traits = CounterTraits(period_s, lag)
            energy = energy_between(
                readings,
                start,
                end,
                gpu_uuid=device.uuid,
                power_method=device.power_method,
                traits=traits,
                dense_marks=span_s is None,
            )
            if device.lost:
                energy = DeviceEnergy(gpu_uuid=device.uuid, energy_j=None, samples=energy.samples)
            elif device.has_counter and energy.counter_j is None and device.uuid not in backwards and span_s is None:
                silent.append(device.uuid)
            inside = (readings.time_s >= start) & (readings.time_s <= end)
            unreadable[device.uuid] = int(np.isnan(readings.power_w[inside]).sum())
            energies.append(energy)
        return Metered(
            devices=energies,
            activity=[
                _activity(device.uuid, series, start, end)
                for device, series in zip(self.devices, self.sampler.series, strict=True)
            ],
            samples=self._table(opened_s, closed_s) if self.devices else None,
            lost=tuple(device.uuid for device in self.devices if device.lost),
            backwards=tuple(backwards),
            silent=tuple(silent),
            newcomers=tuple(self._newcomers),
            unreadable=unreadable,
            seconds=end - start,
        )

    def _ticked(self, times: int, since_s: float) -> bool:
        return all(
            not device.has_counter or device.lost or (len(series.ticks_s) >= times and series.ticks_s[-times] > since_s)
            for device, series in zip(self.devices, self.sampler.series, strict=True)
        )

    def _table(self, opened_s: float, closed_s: float) -> files.Table:
        """Samples inside the window and the nearest one of each device on each side of it, by device and time."""
        parts = []
        for index, series in enumerate(self.sampler.series, start=self._first_index):
            time = series.array("time_s")
            first = max(int(np.searchsorted(time, opened_s)) - 1, 0)
            last = int(np.searchsorted(time, closed_s, side="right")) + 1
            rows = slice(first, last)
            parts.append(
                files.timeseries_table(
                    {
                        "timestamp_s": time[rows] - opened_s,
                        "gpu_power_w": _nulls(series.array("power_w")[rows]),
                        "gpu_temperature_c": _nulls(series.array("temperature_c")[rows]),
                        "gpu_index": np.full(time[rows].size, index, dtype=np.int32),
                    }
                )
            )
        return files.concat_tables(parts)


def _activity(uuid: str, series: Series, opened_s: float, closed_s: float) -> DeviceActivity:
    time = series.array("time_s")
    inside = (time >= opened_s) & (time <= closed_s)
    sampled = inside & np.isfinite(series.array("reasons"))
    masks = series.array("reasons")[sampled].astype(int)
    throttled = np.zeros(masks.shape, dtype=bool)
    reasons = []
    for bit, name in THROTTLE_REASONS.items():
        set_here = (masks & bit) != 0
        if set_here.any():
            reasons.append(name)
            throttled |= set_here
    temperature = _finite(series.array("temperature_c")[inside])
    settled = inside & ((time >= opened_s + _RAMP_S) | (closed_s - opened_s < 4 * _RAMP_S))
    clock = _finite(series.array("sm_clock_mhz")[settled])
    utilisation = _finite(series.array("utilisation_percent")[inside])
    return DeviceActivity(
        gpu_uuid=uuid,
        reasons=reasons,
        throttle_duration_sec=float(throttled.mean()) * (closed_s - opened_s) if masks.size else None,
        start_temperature_c=float(temperature[0]) if temperature.size else None,
        max_temperature_c=float(temperature.max()) if temperature.size else None,
        sm_clock_min_mhz=float(clock.min()) if clock.size else None,
        sm_clock_mean_mhz=float(clock.mean()) if clock.size else None,
        sm_clock_max_mhz=float(clock.max()) if clock.size else None,
        utilisation_mean_percent=float(utilisation.mean()) if utilisation.size else None,
    )


def _strangers(pids: set[int]) -> set[int]:
    """Those that are not of this job, which is one process group; none where the driver counts processes otherwise.

    In a container it gives the host's numbers: then the job does not find itself, and cannot tell others apart.
    """
    return {pid for pid in pids if not _is_ours(pid)} if os.getpid() in pids else set()


def _is_ours(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgid(0)
    except ProcessLookupError:
        return False


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _nulls(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
