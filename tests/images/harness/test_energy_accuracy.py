"""The energy figure against the true joules of scripted power curves, in virtual time.

The curves are known, so the truth is. The limits are half of what the project promises (`make bench` prints the
figures themselves, over more windows).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import default_rng

from images.harness.meter import Meter
from images.harness.nvml import open_devices
from tests.gpu_node.node import Node
from tests.gpu_node.windows import MeasuredWindow, measure_window, mixed_window, square_window, tied_window

CALL_COST_S = 30e-6
Curve = Callable[..., MeasuredWindow]


def windows(node: Node, curve: Curve, seconds: float, count: int, **more: float) -> list[MeasuredWindow]:
    node.call_cost_s = CALL_COST_S
    random = default_rng(int(seconds * 1000))
    return [curve(node, seconds, random, **more) for _ in range(count)]


@pytest.mark.parametrize("curve", [square_window, tied_window])
@pytest.mark.parametrize(
    ("seconds", "limit", "signed_limit"), [(1, 0.4, 0.15), (2, 0.2, 0.075), (5, 0.1, 0.05), (10, 0.05, 0.025)]
)
def test_the_counters_figure_is_right_at_both_edges(
    virtual_node: Node, curve: Curve, seconds: float, limit: float, signed_limit: float
) -> None:
    errors = np.array([100 * window.error for window in windows(virtual_node, curve, seconds, 24)])
    assert np.abs(errors).mean() <= limit
    if curve is tied_window:
        assert abs(errors.mean()) <= signed_limit


@pytest.mark.parametrize("curve", [square_window, tied_window])
def test_a_lagging_counter_has_a_larger_bound_that_holds_the_truth(virtual_node: Node, curve: Curve) -> None:
    median_bounds = []
    for lag_s in (0.0, 0.05, 0.1):
        measured = windows(virtual_node, curve, 2.0, 16, lag_s=lag_s)
        assert all(abs(window.error) <= window.bound for window in measured)
        known = [window.device.counter_lag_s for window in measured if window.device.counter_lag_s is not None]
        assert known == pytest.approx([lag_s] * len(known), abs=0.02)
        assert len(known) >= 8
        median_bounds.append(
            np.median([window.bound for window in measured if window.device.counter_lag_s is not None])
        )
    assert median_bounds == sorted(median_bounds)


@pytest.mark.parametrize("curve", [square_window, tied_window])
def test_without_a_counter_the_integral_is_right_to_a_percent(virtual_node: Node, curve: Curve) -> None:
    virtual_node.gpus[0].counter_supported = False
    measured = windows(virtual_node, curve, 5.0, 16)
    assert {window.device.source for window in measured} == {"nvml_power"}
    assert np.mean([abs(window.error) for window in measured]) <= 0.005
    assert all(abs(window.error) <= window.bound for window in measured)


def test_the_stored_bound_holds_the_truth_on_any_curve_and_counter(virtual_node: Node) -> None:
    virtual_node.call_cost_s = CALL_COST_S
    measured = [mixed_window(virtual_node, default_rng([11, number])) for number in range(150)]
    assert {window.device.source for window in measured} == {"nvml_counter", "nvml_power"}
    assert sum(abs(window.error) > window.bound for window in measured) <= 1
    assert np.median([window.bound for window in measured]) < 0.05, "a bound that allows everything says nothing"


def test_a_part_in_the_middle_of_the_window_has_a_figure_and_a_bound_too(virtual_node: Node) -> None:
    virtual_node.call_cost_s = CALL_COST_S
    virtual_node.gpus[0].trace(np.arange(100) * 0.1, default_rng(5).uniform(250.0, 300.0, 100), 10.0)
    window = measure_window(virtual_node, 12.0, span_s=(1.0, 11.0))
    assert window.seconds == pytest.approx(10.0)
    assert abs(window.error) <= min(window.bound, 0.01)
    short = measure_window(virtual_node, 3.0, span_s=(1.0, 1.5))
    assert abs(short.error) <= short.bound
    assert short.device.counter_bound_j is not None
    assert short.device.integral_bound_j is not None
    assert short.device.bound_j == min(short.device.counter_bound_j, short.device.integral_bound_j)


@pytest.mark.parametrize("from_s", [0.02, 0.2, 0.3, 0.35, 0.4, 0.5])
def test_a_healthy_counter_is_used_wherever_the_described_part_begins(virtual_node: Node, from_s: float) -> None:
    virtual_node.call_cost_s = CALL_COST_S
    virtual_node.gpus[0].constant(300.0)
    for phase in (0.0, 0.03, 0.07):
        virtual_node.gpus[0].counter(0.1, phase_s=phase)
        window = measure_window(virtual_node, 4.0, span_s=(from_s, 3.5))
        assert window.device.counter_j is not None
        assert window.findings() == []


@pytest.mark.parametrize("lag_s", [0.25, 0.6])
def test_a_lag_longer_than_usual_is_found_or_at_least_in_the_bound(virtual_node: Node, lag_s: float) -> None:
    for window in windows(virtual_node, tied_window, 2.0, 8, lag_s=lag_s):
        assert abs(window.error) <= window.bound


def test_several_devices_are_measured_at_once_each_with_its_own_figure(virtual_node: Node) -> None:
    for index, gpu in enumerate(virtual_node.gpus):
        gpu.counter(0.1, phase_s=0.012 * index)
        gpu.square(60.0 + 10 * index, 500.0 - 20 * index, 0.9 + 0.1 * index)
    window = measure_window(virtual_node, 3.0, gpus=range(8))
    energies = [device.energy_j for device in window.metered.devices]
    assert energies == pytest.approx(window.true_j, rel=0.005)
    assert [device.gpu_uuid for device in window.metered.devices] == [gpu.uuid for gpu in virtual_node.gpus]


def test_in_real_time_with_a_thread_the_figure_is_as_good(gpu_node: Node) -> None:
    """Three times the promised limit, because a busy machine may keep the sampler waiting."""
    gpu = gpu_node.gpus[2]
    gpu.constant(90.0)
    meter = Meter(open_devices([gpu.uuid], time.perf_counter), 0.1)
    meter.calibrate()
    errors = []
    for _ in range(3):
        meter.begin()
        opened_s = time.perf_counter()
        gpu.load(400.0, opened_s)
        meter.opened()
        time.sleep(2.0)
        meter.snap()
        closed_s = time.perf_counter()
        gpu.load(90.0, closed_s)
        meter.finish(closed_s)
        measured = meter.metered(opened_s, closed_s).devices[0]
        assert measured.energy_j is not None
        assert measured.bound_j is not None
        true_j = gpu.true_energy_j(opened_s, closed_s)
        errors.append(abs(measured.energy_j / true_j - 1.0))
        assert abs(measured.energy_j - true_j) <= measured.bound_j
    assert np.mean(errors) <= 3 * 0.004
