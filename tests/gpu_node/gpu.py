"""One GPU of a simulated node, as a test scripts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from tests.gpu_node.curves import Script
from tests.gpu_node.layout import (
    FOREVER_NS,
    MAX_FAULTS,
    MAX_INTERVALS,
    MAX_LOADS,
    MAX_POINTS,
    MAX_PROCESSES,
    FaultStruct,
    GpuStruct,
    IntervalStruct,
    LoadStruct,
    ProcessStruct,
    to_ns,
)

FaultKind = Literal[
    "gpu_lost",
    "counter_unsupported",
    "counter_backwards",
    "counter_stuck",
    "power_zero",
    "power_absurd",
    "no_permission",
    "slow_call",
]
_FAULT_NUMBERS: dict[FaultKind, int] = {
    "gpu_lost": 1,
    "counter_unsupported": 2,
    "counter_backwards": 3,
    "counter_stuck": 4,
    "power_zero": 5,
    "power_absurd": 6,
    "no_permission": 7,
    "slow_call": 8,
}

T = TypeVar("T")


class Now(Protocol):
    """What a GPU needs of its node's clock."""

    def now_s(self) -> float: ...


class Member(Generic[T]):
    """A member of struct gpu that can be read and set at any time."""

    def __init__(self, kind: Callable[[Any], T]) -> None:
        self._kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, gpu: Gpu, owner: type | None = None) -> T:
        return self._kind(getattr(gpu.state, self._name))

    def __set__(self, gpu: Gpu, value: T) -> None:
        setattr(gpu.state, self._name, value)


class Gpu:
    """Setting a curve rewrites the GPU's whole past and empties the load log; load() changes it from now on.

    Times are absolute seconds of the node's clock; None means now for a beginning, never for an end.
    """

    minor = Member(int)
    architecture = Member(int)
    capability_major = Member(int)
    capability_minor = Member(int)
    memory_total = Member(int)
    memory_reserved = Member(int)
    memory_used = Member(int)
    persistence = Member(bool)
    ecc_supported = Member(bool)
    ecc = Member(bool)
    mig_supported = Member(bool)
    mig = Member(bool)
    compute_mode = Member(int)
    performance_state = Member(int)
    power_limit_mw = Member(int)
    utilisation = Member(int)
    utilisation_follows_power = Member(bool)
    field_api_supported = Member(bool)
    power_supported = Member(bool)
    instant_supported = Member(bool)
    counter_supported = Member(bool)
    contexts_opened = Member(int)
    contexts_open = Member(int)

    def __init__(
        self, index: int, state: GpuStruct, clock: Now, exclusive: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.index = index
        self.state = state
        self._clock = clock
        self._exclusive = exclusive

    @property
    def uuid(self) -> str:
        return str(self.state.uuid.decode())

    @property
    def name(self) -> str:
        return str(self.state.name.decode())

    @name.setter
    def name(self, name: str) -> None:
        self.state.name = name.encode()

    @property
    def pci_bus_id(self) -> str:
        return str(self.state.pci_bus_id.decode())

    # --- power

    def constant(self, watts: float) -> None:
        """The same power at all times."""
        self._set_curve([0.0], [watts], 0.0, None)

    def square(
        self,
        low_w: float,
        high_w: float,
        period_s: float,
        phase_s: float = 0.0,
        duty: float = 0.5,
        start_s: float | None = None,
    ) -> None:
        """High for duty x period_s from start_s + phase_s on, then low; repeated in both directions of time."""
        high_s = duty * period_s
        start_s = (self._clock.now_s() if start_s is None else start_s) + phase_s
        self._set_curve([0.0, high_s, high_s, period_s], [high_w, high_w, low_w, low_w], period_s, start_s)

    def ramp(self, from_w: float, to_w: float, seconds: float, start_s: float | None = None) -> None:
        """A straight line that begins at start_s; the end values before and after."""
        self._set_curve([0.0, seconds], [from_w, to_w], 0.0, start_s)

    def trace(
        self,
        offsets_s: ArrayLike,
        watts: ArrayLike,
        period_s: float = 0.0,
        start_s: float | None = None,
    ) -> None:
        """Linear between points; two points with the same offset are a jump. Offsets count from start_s."""
        self._set_curve(offsets_s, watts, period_s, start_s)

    def load(self, watts: float, at_s: float | None = None) -> None:
        """From at_s on the GPU draws this much, whatever the curve says; visible at once to every process."""
        if not (math.isfinite(watts) and watts >= 0):
            raise ValueError(f"{watts} W is no power")
        with self._exclusive():
            count = self.state.load_count
            time_ns = to_ns(self._clock.now_s() if at_s is None else at_s)
            if count >= MAX_LOADS:
                raise ValueError(f"the load log of GPU {self.index} is full ({MAX_LOADS} entries)")
            if count and self.state.loads[count - 1].time_ns > time_ns:
                raise ValueError(f"{at_s} s is before the last entry of GPU {self.index}'s load log")
            self.state.loads[count] = LoadStruct(time_ns, watts)
            self.state.load_count = count + 1

    def _set_curve(self, offsets_s: ArrayLike, watts: ArrayLike, period_s: float, start_s: float | None) -> None:
        offsets, powers = np.asarray(offsets_s, float), np.asarray(watts, float)
        if offsets.shape != powers.shape or offsets.ndim != 1 or not 0 < len(offsets) <= MAX_POINTS:
            raise ValueError(f"a curve needs 1 to {MAX_POINTS} offsets and as many powers")
        if not np.isfinite(offsets).all() or (np.diff(offsets) < 0).any():
            raise ValueError("offsets must not decrease")
        if not np.isfinite(powers).all() or (powers < 0).any():
            raise ValueError("powers must be 0 or more")
        if period_s < 0 or (period_s > 0 and not (offsets[0] >= 0 and offsets[-1] <= period_s)):
            raise ValueError(f"offsets must lie within the period of {period_s} s")
        start_ns = to_ns(self._clock.now_s() if start_s is None else start_s)
        with self._exclusive():
            # Odd from here on, also where a writer was killed half-way.
            self.state.sequence |= 1
            points = np.ctypeslib.as_array(self.state.points)
            points["offset_s"][: len(offsets)] = offsets
            points["watts"][: len(powers)] = powers
            self.state.point_count = len(offsets)
            self.state.curve_period_s = period_s
            self.state.curve_start_ns = start_ns
            self.state.load_count = 0
            self.state.sequence += 1

    def _script(self) -> Script:
        points = np.ctypeslib.as_array(self.state.points)[: self.state.point_count]
        loads = np.ctypeslib.as_array(self.state.loads)[: self.state.load_count]
        start_s, period_s = self.state.curve_start_ns / 1e9, self.state.curve_period_s
        return Script(points["offset_s"], points["watts"], start_s, period_s, loads["time_ns"] / 1e9, loads["watts"])

    def true_power_w(self, t_s: float) -> float:
        """Watts of the script at a time."""
        return float(self._script().power_w(np.array([t_s]))[0])

    def true_energy_j(self, t0_s: float, t1_s: float) -> float:
        """Joules of the script between two times, faults and the counter's steps and lag left out."""
        return self._script().energy_j(t0_s, t1_s)

    # --- sensors

    def counter(
        self, step_s: float = 0.1, lag_s: float = 0.0, phase_s: float = 0.0, base_j: float | None = None
    ) -> None:
        """At time t the counter shows the energy up to (last tick not after t) - lag_s; ticks every step_s (0: always).

        Ticks lie on multiples of step_s of the clock, moved by phase_s. base_j is its value at the node's epoch.
        """
        self.state.counter_step_ns = to_ns(step_s)
        self.state.counter_phase_ns = to_ns(phase_s)
        self.state.counter_lag_ns = to_ns(lag_s)
        if base_j is not None:
            self.state.counter_base_mj = base_j * 1e3

    def instant(self, step_s: float = 0.0) -> None:
        """Instant power changes on multiples of step_s of the clock only; 0: continuously."""
        self.state.instant_step_ns = to_ns(step_s)

    def temperature(
        self, base_c: float, rate_c_per_s: float = 0.0, max_c: float = 90.0, start_s: float | None = None
    ) -> None:
        """base_c until start_s, then rising up to max_c."""
        self.state.temperature_start_ns = to_ns(self._clock.now_s() if start_s is None else start_s)
        self.state.temperature_base_c = base_c
        self.state.temperature_rate_c_per_s = rate_c_per_s
        self.state.temperature_max_c = max_c

    def clocks(
        self,
        sm_mhz: int | None = None,
        mem_mhz: int | None = None,
        max_sm_mhz: int | None = None,
        max_mem_mhz: int | None = None,
    ) -> None:
        """Clocks outside throttle() intervals; None leaves one as it is."""
        given = {"sm_mhz": sm_mhz, "mem_mhz": mem_mhz, "max_sm_mhz": max_sm_mhz, "max_mem_mhz": max_mem_mhz}
        for member, mhz in given.items():
            if mhz is not None:
                setattr(self.state, member, mhz)

    def throttle(self, from_s: float | None, to_s: float | None, reasons_mask: int, sm_clock: int) -> None:
        """Between two times the clock event reasons are reasons_mask and the SM clock is sm_clock MHz."""
        with self._exclusive():
            place = self._room(self.state.interval_count, MAX_INTERVALS, "intervals")
            begin_ns, end_ns = self._span_ns(from_s, to_s)
            self.state.intervals[place] = IntervalStruct(begin_ns, end_ns, reasons_mask, sm_clock)
            self.state.interval_count = place + 1

    # --- who uses it

    @property
    def processes(self) -> list[tuple[int, int]]:
        """(pid, bytes) of the processes that compute."""
        stored = self.state.processes[: self.state.process_count]
        return [(one.pid, one.bytes) for one in stored if not one.graphics]

    @processes.setter
    def processes(self, compute: Iterable[tuple[int, int]]) -> None:
        self.set_processes(compute)

    def set_processes(self, compute: Iterable[tuple[int, int]], graphics: Iterable[tuple[int, int]] = ()) -> None:
        """(pid, bytes) of each process; memory_used does not follow."""
        listed = [ProcessStruct(size, pid, 0) for pid, size in compute]
        listed += [ProcessStruct(size, pid, 1) for pid, size in graphics]
        self._room(len(listed) - 1, MAX_PROCESSES, "processes")
        self.state.process_count = 0
        for place, one in enumerate(listed):
            self.state.processes[place] = one
        self.state.process_count = len(listed)

    # --- faults

    def fault(self, kind: FaultKind, from_s: float | None = None, to_s: float | None = None, value: int = 0) -> None:
        """Something goes wrong between two times; value is mJ (backwards), mW (absurd) or ns (slow_call)."""
        with self._exclusive():
            place = self._room(self.state.fault_count, MAX_FAULTS, "faults")
            begin_ns, end_ns = self._span_ns(from_s, to_s)
            self.state.faults[place] = FaultStruct(begin_ns, end_ns, value, _FAULT_NUMBERS[kind])
            self.state.fault_count = place + 1

    def clear_faults(self) -> None:
        self.state.fault_count = 0

    def _span_ns(self, from_s: float | None, to_s: float | None) -> tuple[int, int]:
        begin_ns = to_ns(self._clock.now_s() if from_s is None else from_s)
        return begin_ns, FOREVER_NS if to_s is None else to_ns(to_s)

    def _room(self, used: int, most: int, what: str) -> int:
        if used >= most:
            raise ValueError(f"GPU {self.index} has room for {most} {what}")
        return used
