"""What can go wrong with a GPU's meters while they are watched: a failure or a flag, never a wrong number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from images.contract import files
from images.contract.config import parse_config
from images.contract.job import GpuUnusable, JobContext
from images.harness.gpus import find_gpus
from images.harness.nvml import MeterUnavailable, open_devices
from tests.gpu_node.gpu import FaultKind
from tests.gpu_node.node import Node
from tests.gpu_node.windows import MeasuredWindow, measure_window


def codes(window: MeasuredWindow) -> set[str]:
    return {finding.split(":")[0] for finding in window.findings()}


def with_fault(node: Node, kind: FaultKind, value: int = 0, at_s: float = 1.0, seconds: float = 3.0) -> MeasuredWindow:
    """A window of 200 W in whose middle one GPU fails."""
    gpu = node.gpus[0]
    gpu.constant(200.0)
    return measure_window(node, seconds, at_open=lambda: gpu.fault(kind, from_s=node.clock.now_s() + at_s, value=value))


def test_without_a_fault_nothing_is_found(virtual_node: Node) -> None:
    virtual_node.gpus[0].constant(200.0)
    window = measure_window(virtual_node, 3.0)
    assert (window.findings(), window.verdict()) == ([], [])
    assert window.device.energy_j == pytest.approx(600.0, rel=1e-3)
    assert window.device.counter_j is not None
    assert window.device.integral_j == pytest.approx(window.device.counter_j, rel=1e-3)


def test_a_gpu_that_dies_has_no_energy(virtual_node: Node) -> None:
    window = with_fault(virtual_node, "gpu_lost")
    assert (window.device.energy_j, window.device.source) == (None, None)
    assert codes(window) == {"gpu_lost"}
    assert window.verdict() == ["gpu_lost"]


def test_another_gpus_death_is_not_this_ones(virtual_node: Node) -> None:
    virtual_node.gpus[1].constant(200.0)
    virtual_node.gpus[0].fault("gpu_lost")
    window = measure_window(virtual_node, 2.0, gpus=[1])
    assert window.device.energy_j == pytest.approx(400.0, rel=1e-3)
    assert window.verdict() == []


def test_a_counter_that_vanishes_leaves_the_integral_and_says_so(virtual_node: Node) -> None:
    window = with_fault(virtual_node, "counter_unsupported")
    assert (window.device.counter_j, window.device.source) == (None, "nvml_power")
    assert window.error == pytest.approx(0.0, abs=0.01)
    assert codes(window) == {"counter_lost"}
    assert window.verdict() == []


def test_a_counter_that_stands_still_is_not_believed(virtual_node: Node) -> None:
    window = with_fault(virtual_node, "counter_stuck")
    assert (window.device.counter_j, window.device.source) == (None, "nvml_power")
    assert window.error == pytest.approx(0.0, abs=0.01)
    assert codes(window) == {"counter_lost"}


def test_a_counter_that_runs_backwards_makes_the_measurement_invalid(virtual_node: Node) -> None:
    window = with_fault(virtual_node, "counter_backwards", value=100_000)
    assert (window.device.counter_j, window.device.source) == (None, "nvml_power")
    assert window.error == pytest.approx(0.0, abs=0.01)
    assert codes(window) == {"counter_backwards"}
    assert window.verdict() == ["counter_backwards"]


@pytest.mark.parametrize(("kind", "value"), [("power_zero", 0), ("power_absurd", 3_000_000)])
def test_power_that_cannot_be_is_no_sample(virtual_node: Node, kind: FaultKind, value: int) -> None:
    window = with_fault(virtual_node, kind, value)
    assert window.device.source == "nvml_counter"
    assert window.error == pytest.approx(0.0, abs=0.01)
    assert codes(window) == {"sampling_gap", "no_power_readings"}
    assert any("refused" in finding for finding in window.findings() if finding.startswith("sampling_gap"))
    assert window.metered.samples is not None
    assert set(window.metered.samples["gpu_power_w"].drop_null().to_pylist()) == {200.0}
    assert window.metered.samples["gpu_power_w"].null_count > 10
    assert window.verdict() == [], "the counter is the figure, and it is right"


def test_power_that_cannot_be_read_up_to_the_end_and_no_counter_is_no_energy(virtual_node: Node) -> None:
    virtual_node.gpus[0].counter_supported = False
    window = with_fault(virtual_node, "power_zero")
    assert (window.device.energy_j, window.device.source) == (None, None)
    assert "no_energy_meter" in codes(window)


def test_a_hole_before_the_closing_mark_is_in_the_bound(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.counter_supported = False
    gpu.constant(100.0)

    def peak_and_silence() -> None:
        now_s = virtual_node.clock.now_s()
        gpu.load(600.0, now_s + 3.1)
        gpu.load(100.0, now_s + 3.25)
        gpu.fault("power_zero", from_s=now_s + 3.2)

    window = measure_window(virtual_node, 4.0, at_open=peak_and_silence)
    assert abs(window.error) <= window.bound
    assert "sampling_gap" in codes(window)


@pytest.mark.parametrize("shown_mw", [1_000_000, 1_390_000])
def test_power_above_the_limit_is_not_believed(virtual_node: Node, shown_mw: int) -> None:
    gpu = virtual_node.gpus[0]
    gpu.counter_supported = False
    gpu.constant(200.0)
    gpu.fault("power_absurd", value=shown_mw)
    window = measure_window(virtual_node, 2.0)
    assert "power_over_limit" in codes(window)
    assert window.verdict() == ["power_over_limit"]


def test_a_counter_that_falls_by_less_than_it_rises_widens_the_bound_to_the_truth(virtual_node: Node) -> None:
    window = with_fault(virtual_node, "counter_backwards", value=15_000)
    assert window.device.source == "nvml_counter"
    assert abs(window.error) > 0.02
    assert abs(window.error) <= window.bound


def test_power_that_is_denied_in_mid_run_is_a_gap_and_not_a_zero(virtual_node: Node) -> None:
    window = with_fault(virtual_node, "no_permission")
    assert window.device.energy_j is None or abs(window.error) < 0.01
    assert codes(window) & {"sampling_gap", "counter_lost"}
    assert any("permission" in finding for finding in window.findings())


@pytest.mark.parametrize(("counter", "verdict"), [(True, []), (False, ["sampling_gap"])])
def test_a_starved_sampler_spoils_the_integral_only(virtual_node: Node, counter: bool, verdict: list[str]) -> None:
    gpu = virtual_node.gpus[0]
    gpu.counter_supported = counter
    gpu.square(100.0, 300.0, 1.7)
    window = measure_window(virtual_node, 5.0, starved_s=(1.0, 3.0))
    assert window.device.longest_gap_s == pytest.approx(2.0, abs=0.3)
    assert "sampling_gap" in codes(window)
    assert window.verdict() == verdict
    assert abs(window.error) <= (0.002 if counter else window.bound)


@pytest.mark.parametrize(("shown_mw", "verdict"), [(222_000, []), (300_000, ["meter_disagreement"])])
def test_meters_that_contradict_each_other_are_flagged_and_beyond_a_fifth_invalid(
    virtual_node: Node, shown_mw: int, verdict: list[str]
) -> None:
    gpu = virtual_node.gpus[0]
    gpu.constant(200.0)
    gpu.fault("power_absurd", value=shown_mw)
    window = measure_window(virtual_node, 5.0)
    assert codes(window) == {"meter_disagreement"}
    assert window.verdict() == verdict


def test_meters_that_differ_by_less_than_their_bounds_are_not_accused(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.square(90.0, 600.0, 0.11)  # far faster than it is sampled
    for _ in range(5):
        assert "meter_disagreement" not in codes(measure_window(virtual_node, 1.0))


def test_an_averaged_power_reading_is_known_as_such(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.counter_supported = gpu.instant_supported = False
    gpu.constant(100.0)
    short = measure_window(virtual_node, 5.0)
    assert (short.device.power_method, codes(short), short.verdict()) == (
        "average_1s",
        {"average_power"},
        ["average_power"],
    )
    long = measure_window(virtual_node, 12.0, at_open=lambda: gpu.load(400.0), at_close=lambda: gpu.load(100.0))
    assert long.verdict() == []
    assert abs(long.error) <= long.bound


@pytest.mark.parametrize(
    ("architecture", "capability", "method"),
    [(7, (8, 0), "instant"), (7, (8, 6), "average_1s"), (6, (7, 5), "instant")],
)
def test_plain_power_is_a_mean_on_ampere_and_newer_but_not_on_ga100(
    virtual_node: Node, architecture: int, capability: tuple[int, int], method: str
) -> None:
    gpu = virtual_node.gpus[0]
    gpu.instant_supported = False
    gpu.architecture = architecture
    gpu.capability_major, gpu.capability_minor = capability
    (device,) = open_devices([gpu.uuid], virtual_node.clock.now_s)
    assert device.power_method == method


def test_averaged_power_is_never_used_to_reach_the_marks(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.instant_supported = False
    gpu.constant(100.0)
    window = measure_window(virtual_node, 5.0, at_open=lambda: gpu.load(400.0), at_close=lambda: gpu.load(100.0))
    assert window.device.source == "nvml_counter"
    assert abs(window.error) <= min(window.bound, 0.03)


def test_the_sidecar_holds_the_window_and_one_reading_of_each_gpu_on_each_side(virtual_node: Node) -> None:
    virtual_node.call_cost_s = 30e-6
    window = measure_window(virtual_node, 2.0, gpus=[4, 5])
    table = window.metered.samples
    assert table is not None
    assert table.schema == files.TIMESERIES_SCHEMA
    for index in (0, 1):
        rows = [row for row in table.to_pylist() if row["gpu_index"] == index]
        times = np.array([row["timestamp_s"] for row in rows])
        assert (times < 0).sum() == 1
        assert (times > window.seconds).sum() == 1
        assert (np.diff(times) > 0).all()
        assert ((times >= 0) & (times <= window.seconds)).sum() >= 15


@pytest.mark.parametrize(
    ("uuid", "says"),
    [
        ("GPU-00000000-0000-0000-0000-000000000000", "not here"),
        ("MIG-1234", "no energy of its own"),
        ("GPU-51a00000-0000-4000-8000-000000000000::1", "no energy of its own"),
    ],
)
def test_what_is_no_whole_gpu_of_this_machine_is_refused(virtual_node: Node, uuid: str, says: str) -> None:
    with pytest.raises(GpuUnusable, match=says):
        open_devices([uuid], virtual_node.clock.now_s)


def test_mig_mode_mps_and_a_dead_gpu_are_refused(virtual_node: Node) -> None:
    now_s = virtual_node.clock.now_s
    uuids = [gpu.uuid for gpu in virtual_node.gpus]
    virtual_node.gpus[0].mig = True
    with pytest.raises(GpuUnusable, match="MIG"):
        open_devices(uuids[:1], now_s)
    with pytest.raises(GpuUnusable, match="MPS"):
        open_devices(uuids[1:2], now_s, {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mps"})
    with pytest.raises(GpuUnusable, match="twice"):
        open_devices([uuids[1], uuids[1]], now_s)
    virtual_node.gpus[2].fault("gpu_lost")
    with pytest.raises(GpuUnusable):
        open_devices(uuids[2:3], now_s)


@pytest.mark.parametrize(
    ("setting", "chosen"), [("3", [3]), ("5,1", [5, 1]), ("GPU-51a00000-0000-4000-8000-000000000006", [6]), ("", [])]
)
def test_nvml_ignores_cuda_visible_devices_but_we_do_not(virtual_node: Node, setting: str, chosen: list[int]) -> None:
    devices = open_devices(None, virtual_node.clock.now_s, {"CUDA_VISIBLE_DEVICES": setting})
    assert [device.uuid for device in devices] == [virtual_node.gpus[index].uuid for index in chosen]


@pytest.mark.parametrize(("error", "says"), [(9, "no NVIDIA driver"), (4, "says: Insufficient Permissions")])
def test_a_driver_that_does_not_answer_is_no_meter(virtual_node: Node, error: int, says: str) -> None:
    virtual_node.init_error = error
    with pytest.raises(MeterUnavailable, match=says):
        open_devices(None, virtual_node.clock.now_s)


def test_a_gpu_that_tells_nothing_is_no_meter_unless_one_is_demanded(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.fault("no_permission")
    context = JobContext(gpu_uuids=[gpu.uuid])
    found = find_gpus(parse_config({"backend": "stub"}), context, virtual_node.clock)
    assert (found.devices, found.uuids) == ([], [gpu.uuid])
    assert found.no_meter is not None
    assert "neither its energy nor its power" in found.no_meter
    with pytest.raises(GpuUnusable, match="neither its energy nor its power"):
        find_gpus(parse_config({"backend": "stub", "measurement": {"energy": "nvml"}}), context, virtual_node.clock)


def test_temperatures_clocks_and_utilisation_are_those_of_the_window(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.constant(500.0)
    gpu.temperature(50.0, 1.0)
    window = measure_window(virtual_node, 3.0, at_open=lambda: gpu.temperature(60.0, 1.0))
    (activity,) = window.metered.activity
    assert activity.start_temperature_c == pytest.approx(60.0, abs=1.0)
    assert activity.max_temperature_c == pytest.approx(62.5, abs=1.0)
    assert (activity.sm_clock_min_mhz, activity.sm_clock_max_mhz) == (1980.0, 1980.0)
    assert activity.utilisation_mean_percent == 100.0
    assert activity.throttle_duration_sec == 0.0
    assert not any(math.isnan(value) for value in activity.model_dump().values() if isinstance(value, float))
