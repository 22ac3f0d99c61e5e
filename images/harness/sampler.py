"""Readings of all devices of a process: at a steady rate in a thread, and densely around the marks.

Samples are spread over their slots by a low-discrepancy sequence, one in each slot: a load that repeats with the
sampling interval, or a multiple of it, would otherwise be met in the same phase again and again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from images.harness.counter import Array, Readings
from images.harness.nvml import Device

DENSE_S = 0.001
"""Gap between dense readings, where no work is measured."""
EDGE_S = 0.005
"""Gap between readings in the window's first moments and in the warm-up."""
_GOLDEN = 0.6180339887498949
_ROUNDING_S = 1e-6
_OLD_S = 2.0


class Clock(Protocol):
    """Monotonic seconds, the same for every process of the machine, and a way to let them pass."""

    def now_s(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """`time.perf_counter`: CLOCK_MONOTONIC, the clock of the backends' stamps."""

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(slots=True)
class Series:
    """All that was read of one device: parallel lists; in dense readings all but counter and power are NaN."""

    time_s: list[float] = field(default_factory=list)
    energy_j: list[float] = field(default_factory=list)
    power_w: list[float] = field(default_factory=list)
    temperature_c: list[float] = field(default_factory=list)
    sm_clock_mhz: list[float] = field(default_factory=list)
    utilisation_percent: list[float] = field(default_factory=list)
    reasons: list[float] = field(default_factory=list)
    ticks_s: list[float] = field(default_factory=list)
    """When the counter was seen to have moved."""

    def readings(self) -> Readings:
        return Readings(self.array("time_s"), self.array("energy_j"), self.array("power_w"))

    def array(self, name: str) -> Array:
        return np.array(getattr(self, name), dtype=float)


class Sampler:
    """
    Args:
        interval_s: one sample of everything in each interval while the thread runs (s).
    """

    def __init__(self, devices: Sequence[Device], interval_s: float, clock: Clock) -> None:
        self.series = [Series() for _ in devices]
        self._devices = devices
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Set the slots; the first one starts now."""
        self._begun_s = self._latest_s = self._clock.now_s()
        self._slot = 0
        self._edge_until_s = -math.inf

    def watch_edge(self, seconds: float) -> None:
        """Read counter and power every 5 ms for so long from now, besides the samples."""
        self._edge_until_s = self._clock.now_s() + seconds

    @property
    def due_s(self) -> float:
        """When the next reading is due, on the clock."""
        return min(self._slot_due_s, self._latest_s + EDGE_S if self._latest_s < self._edge_until_s else math.inf)

    @property
    def _slot_due_s(self) -> float:
        return self._begun_s + (self._slot + (self._slot + 1) * _GOLDEN % 1.0) * self._interval_s

    def take(self) -> None:
        """The reading that is due: everything in each slot, counter and power near an edge."""
        self._latest_s = self._clock.now_s()
        sample = self._latest_s >= self._slot_due_s - _ROUNDING_S
        self._read(with_state=sample)
        if sample:
            passed = int((self._latest_s - self._begun_s) / self._interval_s)
            self._slot = max(self._slot + 1, passed)

    def snap(self) -> None:
        """Read counter and power once, now."""
        self._read(with_state=False)

    def poll(self, enough: Callable[[], bool], at_most_s: float) -> None:
        """Read counter and power densely, in this thread, until `enough`."""
        deadline = self._clock.now_s() + at_most_s
        while not enough() and self._clock.now_s() < deadline:
            self._read(with_state=False)
            self._clock.sleep(DENSE_S)

    def latest_power_w(self) -> float | None:
        """Power of all devices together as it was read last (W); None if a reading is missing or old.

        It reads nothing itself and takes no lock, so any thread may ask.
        """
        oldest_s = self._clock.now_s() - max(_OLD_S, 2.0 * self._interval_s)
        total_w = 0.0
        for series in self.series:
            if not series.power_w or series.time_s[-1] < oldest_s:
                return None
            total_w += series.power_w[-1]
        return total_w if self.series and math.isfinite(total_w) else None

    def start(self) -> None:
        """Sample in a thread from now on."""
        self.begin()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(max(self.due_s - self._clock.now_s(), 0.0)):
            self.take()

    def _read(self, *, with_state: bool) -> None:
        with self._lock:
            for device, series in zip(self._devices, self.series, strict=True):
                reading = device.read()
                if series.energy_j and reading.energy_j > series.energy_j[-1]:
                    series.ticks_s.append(reading.time_s)
                series.time_s.append(reading.time_s)
                series.energy_j.append(reading.energy_j)
                series.power_w.append(reading.power_w)
                state = device.state() if with_state else None
                series.temperature_c.append(state.temperature_c if state else np.nan)
                series.sm_clock_mhz.append(state.sm_clock_mhz if state else np.nan)
                series.utilisation_percent.append(state.utilisation_percent if state else np.nan)
                series.reasons.append(state.reasons if state else np.nan)
