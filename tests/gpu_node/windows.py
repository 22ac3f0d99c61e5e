"""Measured windows in virtual time: the real meter on the real nvidia-ml-py, and the joules that it should find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from images.contract.parts import DeviceEnergy
from images.harness.meter import Meter, Metered
from images.harness.nvml import open_devices
from tests.gpu_node.node import Node


@dataclass(frozen=True)
class MeasuredWindow:
    """What the meter says and what is true (J), of the first device."""

    metered: Metered
    true_j: float
    seconds: float

    @property
    def device(self) -> DeviceEnergy:
        return self.metered.devices[0]

    @property
    def error(self) -> float:
        """Signed, relative to the truth."""
        assert self.device.energy_j is not None
        return self.device.energy_j / self.true_j - 1.0

    @property
    def bound(self) -> float:
        """As stored, relative to the truth."""
        assert self.device.bound_j is not None
        return self.device.bound_j / self.true_j


def measure_window(
    node: Node,
    seconds: float,
    *,
    gpu: int = 0,
    interval_s: float = 0.1,
    at_open: Callable[[], None] = lambda: None,
    at_close: Callable[[], None] = lambda: None,
    warm_up_s: float = 1.0,
) -> MeasuredWindow:
    """Open and close a window on one GPU of a node in virtual time, sampling in between as the thread would.

    Args:
        at_open, at_close: what happens to the load exactly at the marks.
        warm_up_s: time between calibration and opening, which the meter watches.
    """
    clock = node.clock
    device = node.gpus[gpu]
    meter = Meter(open_devices([device.uuid], clock.now_s), interval_s, clock)
    meter.calibrate()
    meter.sampler.begin()
    meter.sampler.watch_edge(warm_up_s)
    _sample_until(meter, clock.now_s() + warm_up_s, node)
    meter.begin(threaded=False)
    opened_s = clock.now_s()
    at_open()
    meter.opened()
    _sample_until(meter, opened_s + seconds, node)
    clock.advance_to(max(opened_s + seconds, clock.now_s()))
    meter.snap()
    closed_s = clock.now_s()
    at_close()
    meter.finish(closed_s)
    return MeasuredWindow(
        meter.metered(opened_s, closed_s), device.true_energy_j(opened_s, closed_s), closed_s - opened_s
    )


def _sample_until(meter: Meter, end_s: float, node: Node) -> None:
    """What the sampler's thread does."""
    while meter.sampler.due_s < end_s:
        node.clock.advance_to(max(meter.sampler.due_s, node.clock.now_s()))
        meter.sampler.take()
