"""Measured windows in virtual time: the real meter on the real nvidia-ml-py, and the joules that it should find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from images.contract.config import parse_config
from images.contract.parts import DeviceEnergy
from images.harness.findings import meter_findings, meter_verdict
from images.harness.meter import Meter, Metered
from images.harness.nvml import Device, open_devices
from tests.gpu_node.node import Node


@dataclass(frozen=True)
class MeasuredWindow:
    """What the meter says, and what is true of each device (J); `device`, `error` and `bound` are the first one's.

    `naive_j` is the difference of two readings of the first one's counter at the marks, as other tools take it.
    """

    metered: Metered
    true_j: list[float]
    seconds: float
    devices: list[Device]
    naive_j: float

    @property
    def device(self) -> DeviceEnergy:
        return self.metered.devices[0]

    @property
    def error(self) -> float:
        """Signed, relative to the truth."""
        assert self.device.energy_j is not None
        return self.device.energy_j / self.true_j[0] - 1.0

    @property
    def bound(self) -> float:
        """As stored, relative to the truth."""
        assert self.device.bound_j is not None
        return self.device.bound_j / self.true_j[0]

    def findings(self) -> list[str]:
        """The meter's warnings."""
        return meter_findings(parse_config({"backend": "stub"}), self.metered, self.devices)

    def verdict(self) -> list[str]:
        """Codes of what makes it invalid, besides being simulated."""
        return [code for code in meter_verdict(self.metered, self.devices, self.seconds) if code != "simulated_device"]


def measure_window(
    node: Node,
    seconds: float,
    *,
    gpus: Sequence[int] = (0,),
    interval_s: float = 0.1,
    at_open: Callable[[], None] = lambda: None,
    at_close: Callable[[], None] = lambda: None,
    warm_up_s: float = 1.0,
    starved_s: tuple[float, float] = (0.0, 0.0),
    span_s: tuple[float, float] | None = None,
) -> MeasuredWindow:
    """Open and close a window in virtual time, sampling in between as the thread would.

    Args:
        at_open, at_close: what happens to the load exactly at the marks.
        warm_up_s: time between calibration and opening, which the meter watches.
        starved_s: part of the window in which the sampler gets no CPU.
        span_s: the described part; the truth is that of this part.
    """
    clock = node.clock
    chosen = [node.gpus[gpu] for gpu in gpus]
    meter = Meter(open_devices([gpu.uuid for gpu in chosen], clock.now_s), interval_s, clock)
    meter.calibrate()
    meter.sampler.begin()
    meter.sampler.watch_edge(warm_up_s)
    _sample_until(meter, clock.now_s() + warm_up_s, node)
    meter.begin(threaded=False)
    counter_j = meter.devices[0].read().energy_j
    opened_s = clock.now_s()
    at_open()
    meter.opened()
    if starved_s[1] > 0.0:
        _sample_until(meter, opened_s + starved_s[0], node)
        clock.advance_to(opened_s + starved_s[1])
    _sample_until(meter, opened_s + seconds, node)
    clock.advance_to(max(opened_s + seconds, clock.now_s()))
    meter.snap()
    counter_j = meter.devices[0].read().energy_j - counter_j
    closed_s = clock.now_s()
    at_close()
    meter.finish(closed_s)
    start_s, end_s = (opened_s, closed_s) if span_s is None else (opened_s + span_s[0], opened_s + span_s[1])
    true_j = [gpu.true_energy_j(start_s, end_s) for gpu in chosen]
    return MeasuredWindow(
        meter.metered(opened_s, closed_s, span_s), true_j, end_s - start_s, list(meter.devices), counter_j
    )


def _sample_until(meter: Meter, end_s: float, node: Node) -> None:
    """What the sampler's thread does."""
    while meter.sampler.due_s < end_s:
        node.clock.advance_to(max(meter.sampler.due_s, node.clock.now_s()))
        meter.sampler.take()


def square_window(node: Node, seconds: float, random: Generator, lag_s: float = 0.0) -> MeasuredWindow:
    """Curve (a): 90/400 W with a period of 1.7 s, at a random phase."""
    gpu = node.gpus[0]
    gpu.counter(0.1, lag_s, random.uniform(0.0, 0.1))
    gpu.square(90.0, 400.0, 1.7, random.uniform(0.0, 1.7))
    return measure_window(node, seconds, warm_up_s=random.uniform(0.3, 1.2))


def tied_window(node: Node, seconds: float, random: Generator, lag_s: float = 0.0) -> MeasuredWindow:
    """Curve (b): 90 W outside, 400 W between the marks."""
    gpu = node.gpus[0]
    gpu.counter(0.1, lag_s, random.uniform(0.0, 0.1))
    gpu.constant(90.0)
    return measure_window(
        node,
        seconds,
        at_open=lambda: gpu.load(400.0),
        at_close=lambda: gpu.load(90.0),
        warm_up_s=random.uniform(0.3, 1.2),
    )


def mixed_window(node: Node, random: Generator) -> MeasuredWindow:
    """Any curve on any counter: 0.5 to 8 s, steps of 20 to 120 ms, lags up to 100 ms, instant power up to 50 ms old."""
    gpu = node.gpus[0]
    gpu.counter(random.choice([0.02, 0.05, 0.1, 0.12]), random.choice([0.0, 0.05, 0.1]), random.uniform(0.0, 0.1))
    gpu.instant(random.choice([0.0, 0.0, 0.02, 0.05]))
    gpu.counter_supported = bool(random.uniform() < 0.8)
    low, high = np.sort(random.uniform(60.0, 700.0, 2))
    kind = random.choice(["square", "pulses", "ramp", "noise", "tied", "constant"])
    at_open = at_close = _nothing
    if kind == "square":
        gpu.square(low, high, random.uniform(0.3, 5.0), random.uniform(0.0, 5.0), random.uniform(0.1, 0.9))
    elif kind == "pulses":
        gpu.square(low, high, random.uniform(0.03, 0.3), random.uniform(0.0, 0.3), random.uniform(0.2, 0.8))
    elif kind == "ramp":
        gpu.ramp(low, high, random.uniform(0.5, 10.0))
    elif kind == "noise":
        gpu.trace(np.arange(200) * 0.05, random.uniform(low, high, 200), 10.0)
    else:
        gpu.constant(low)
    if kind == "tied":
        at_open, at_close = (lambda: gpu.load(high)), (lambda: gpu.load(low))
    seconds = random.uniform(0.5, 8.0)
    try:
        return measure_window(node, seconds, at_open=at_open, at_close=at_close, warm_up_s=random.uniform(0.3, 1.2))
    finally:
        gpu.instant(0.0)
        gpu.counter_supported = True


def _nothing() -> None:
    """No load is tied to the marks."""
