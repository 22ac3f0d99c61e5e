"""What the library answers is what numpy makes of the same script: counter, mean and instant power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gpu_node.node import Gpu, Node, use_in_process

EPOCH_S = 1000.0
watts = st.one_of(st.sampled_from([0.0, 100.0, 700.0]), st.floats(0, 1500))


@dataclass(frozen=True)
class Case:
    """A script, a counter, and moments to look at (seconds after the node's epoch)."""

    points: list[tuple[float, float]]
    period_s: float
    start_s: float
    loads: list[tuple[float, float]]
    step_s: float
    phase_s: float
    lag_s: float
    moments_s: list[float]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    # In microseconds: what happens within the 10 ns around a moment cannot be told from that moment.
    microseconds = st.one_of(st.sampled_from([0, 500_000, 1_000_000]), st.integers(0, 5_000_000))
    offsets = [offset / 1e6 for offset in sorted(draw(st.lists(microseconds, min_size=1, max_size=8)))]
    powers = draw(st.lists(watts, min_size=len(offsets), max_size=len(offsets)))
    longer = offsets[-1] + draw(st.sampled_from([0.0, 0.01, 0.7]))
    period_s = draw(st.sampled_from([0.0, max(longer, 0.01)]))
    load_times = sorted(draw(st.lists(st.floats(-5, 60), max_size=6)))
    return Case(
        points=list(zip(offsets, powers, strict=True)),
        period_s=period_s,
        start_s=draw(st.floats(-20, 20)),
        loads=[(time, draw(watts)) for time in load_times],
        step_s=draw(st.sampled_from([0.0, 0.1, 0.02, 0.033, 1.0])),
        phase_s=draw(st.sampled_from([0.0, 0.037, -0.5])),
        lag_s=draw(st.sampled_from([0.0, 0.013, 2.0])),
        moments_s=sorted(draw(st.lists(st.floats(0, 60), min_size=1, max_size=5))),
    )


def _apply(case: Case, node: Node) -> Gpu:
    gpu = node.gpus[0]
    offsets, powers = zip(*case.points, strict=True)
    gpu.trace(offsets, powers, case.period_s, start_s=EPOCH_S + case.start_s)
    gpu.counter(case.step_s, case.lag_s, case.phase_s, base_j=1e6)
    for time_s, power_w in case.loads:
        gpu.load(power_w, at_s=EPOCH_S + time_s)
    return gpu


def _expected_mj(case: Case, gpu: Gpu, now_ns: int) -> float:
    tick_ns = now_ns
    if case.step_s:
        step_ns, phase_ns = round(case.step_s * 1e9), round(case.phase_s * 1e9)
        tick_ns = (now_ns - phase_ns) // step_ns * step_ns + phase_ns
    return 1e9 + 1e3 * gpu.true_energy_j(EPOCH_S, tick_ns / 1e9 - case.lag_s)


def _nearby_w(gpu: Gpu, now_s: float) -> tuple[float, float]:
    """Lowest and highest power within 10 ns: at a jump both sides are right."""
    around = [gpu.true_power_w(now_s + shift_s) for shift_s in (-1e-8, 0, 1e-8)]
    return min(around), max(around)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_any_curve(case: Case, virtual_node: Node, gpu_library: Path) -> None:
    node = Node.create(virtual_node.file, gpus=1, virtual_s=EPOCH_S)
    use_in_process(gpu_library, node.file)
    gpu = _apply(case, node)
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        for moment_s in case.moments_s:
            node.clock.advance_to(EPOCH_S + moment_s)
            now_ns, now_s = node.clock.now_ns(), node.clock.now_s()
            fields = pynvml.nvmlDeviceGetFieldValues(handle, [83, 185, 186])
            counter_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            assert abs(counter_mj - math.floor(_expected_mj(case, gpu, now_ns))) <= 1
            assert fields[0].value.ullVal == counter_mj
            mean_mw = pynvml.nvmlDeviceGetPowerUsage(handle)
            assert mean_mw == pytest.approx(gpu.true_energy_j(now_s - 1, now_s) * 1e3, abs=0.51)
            assert fields[1].value.uiVal == mean_mw
            low_w, high_w = _nearby_w(gpu, now_s)
            slack_w = high_w - low_w + 6e-4
            assert low_w - slack_w <= fields[2].value.uiVal / 1e3 <= high_w + slack_w
    finally:
        pynvml.nvmlShutdown()


def test_truth_by_hand(virtual_node: Node) -> None:
    """Everything else is compared with numpy's truth, so that is compared with integrals done by hand."""
    constant, square, ramp, stepped = virtual_node.gpus[:4]
    constant.constant(250)
    assert constant.true_energy_j(10, 14) == pytest.approx(1000)
    assert constant.true_energy_j(14, 10) == pytest.approx(-1000)
    square.square(100, 300, period_s=2, duty=0.25, start_s=1000)
    assert square.true_energy_j(1000, 1002) == pytest.approx(0.5 * 300 + 1.5 * 100)
    assert square.true_energy_j(1000.25, 1000.75) == pytest.approx(0.25 * 300 + 0.25 * 100)
    assert square.true_energy_j(997, 1003) == pytest.approx(100 + 300 + 300 + 200)
    assert [square.true_power_w(t) for t in (1000, 1000.49, 1000.5, 999.9, 1002)] == [300, 300, 100, 100, 300]
    ramp.ramp(100, 200, seconds=10, start_s=1000)
    assert ramp.true_energy_j(1000, 1010) == pytest.approx(1500)
    assert ramp.true_energy_j(990, 1020) == pytest.approx(1000 + 1500 + 2000)
    assert ramp.true_power_w(1002.5) == pytest.approx(125)
    stepped.constant(100)
    stepped.load(500, at_s=1005)
    stepped.load(50, at_s=1006)
    assert stepped.true_energy_j(1000, 1010) == pytest.approx(500 + 500 + 200)
    assert [stepped.true_power_w(t) for t in (1004.9, 1005, 1005.9, 1006)] == [100, 500, 500, 50]


def test_points_closer_than_any_clock(virtual_node: Node) -> None:
    """Hypothesis found a slope that was infinite, and energy that was no number."""
    gpu = virtual_node.gpus[0]
    gpu.trace([0, 2e-313, 0.5], [0, 100, 0], period_s=0.5, start_s=1000)
    gpu.counter(step_s=0)
    virtual_node.clock.advance_to(1001)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 50_000
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 1_000_000_000 + 50_000


def test_a_long_trace(virtual_node: Node) -> None:
    """All 4096 points and 8192 loads, with jumps."""
    random = np.random.default_rng(7)
    gpu = virtual_node.gpus[5]
    gpu.trace(np.repeat(np.sort(random.uniform(0, 100, 2048)), 2), random.uniform(50, 700, 4096), start_s=1000)
    gpu.counter(step_s=0)
    for time_s in np.sort(random.uniform(1050, 1100, 8192)):
        gpu.load(float(random.uniform(50, 700)), at_s=float(time_s))
    with pytest.raises(ValueError, match="full"):
        gpu.load(1, at_s=2000)
    virtual_node.clock.advance_to(1120)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
    expected_mj = 1e9 + 1e3 * gpu.true_energy_j(1000, 1120)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == pytest.approx(expected_mj, abs=1.01)


def test_the_counter_moves_in_steps_and_lags(virtual_node: Node) -> None:
    gpu, clock = virtual_node.gpus[0], virtual_node.clock
    gpu.counter(step_s=0.1, lag_s=0.03, phase_s=0.05, base_j=1e6)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    values = []
    for _ in range(40):
        clock.sleep(0.01)
        values.append(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - 1_000_000_000)
    # Ticks at x.x5 s; each shows 100 W up to 30 ms earlier.
    ticks = {now: (now - 5) // 10 * 10 + 5 - 3 for now in range(1, 41)}
    assert values == [1000 * tick for tick in ticks.values()]


def test_instant_power_on_its_own_grid(virtual_node: Node) -> None:
    gpu, clock = virtual_node.gpus[0], virtual_node.clock
    gpu.ramp(0, 1000, seconds=10, start_s=1000)
    gpu.instant(step_s=0.5)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    clock.advance_to(1001.2)
    assert pynvml.nvmlDeviceGetFieldValues(handle, [186])[0].value.uiVal == 100_000
    gpu.instant()
    assert pynvml.nvmlDeviceGetFieldValues(handle, [186])[0].value.uiVal == 120_000


def test_a_resting_gpu_shows_round_joules(virtual_node: Node) -> None:
    """Sums of round figures are off in the last bits, and must not show a millijoule less."""
    gpu, clock = virtual_node.gpus[0], virtual_node.clock
    gpu.square(0, 333, period_s=0.3, duty=1 / 3, start_s=1000)
    gpu.counter(step_s=0, base_j=0)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for period in range(20_000):
        clock.advance_to(1000.2 + period * 0.3)
        assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == (period + 1) * 33_300
