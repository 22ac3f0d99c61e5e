"""Every warning that needs a GPU is provoked on one, and says what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pynvml
import pytest

from images.contract.config import parse_config
from images.contract.findings import find_warnings, foreign_warning
from images.contract.job import JobContext
from images.contract.work import CoolDownGate
from images.harness.gpus import find_gpus, wait_until_cool
from images.harness.meter import Meter
from images.harness.nvml import open_devices
from tests.gpu_node.gpu import Gpu
from tests.gpu_node.node import Node
from tests.gpu_node.windows import measure_window

STUB = parse_config({"backend": "stub"})


def _throttle(gpu: Gpu, now_s: float) -> None:
    gpu.throttle(now_s + 1.0, now_s + 2.0, pynvml.nvmlClocksEventReasonSwThermalSlowdown, 1980)


def _drop_clock(gpu: Gpu, now_s: float) -> None:
    gpu.throttle(now_s + 1.0, now_s + 2.0, 0, 1500)


def _idle_clocks(gpu: Gpu, now_s: float) -> None:
    gpu.throttle(now_s + 1.0, now_s + 2.0, pynvml.nvmlClocksEventReasonGpuIdle, 1980)


def _warm(gpu: Gpu, _now_s: float) -> None:
    gpu.temperature(40.0, 5.0)


def _warm_a_little(gpu: Gpu, _now_s: float) -> None:
    gpu.temperature(40.0, 2.0)


def _no_persistence(gpu: Gpu, _now_s: float) -> None:
    gpu.persistence = False


def _no_ecc(gpu: Gpu, _now_s: float) -> None:
    gpu.ecc = False


def _no_ecc_to_turn_off(gpu: Gpu, _now_s: float) -> None:
    gpu.ecc_supported = False


@pytest.mark.parametrize(
    ("provoke", "expected"),
    [
        (_throttle, {"throttled"}),
        (_idle_clocks, set()),
        (_drop_clock, {"clock_drop"}),
        (_warm, {"thermal_drift"}),
        (_warm_a_little, set()),
        (_no_persistence, {"persistence_mode_off"}),
        (_no_ecc, {"ecc_disabled"}),
        (_no_ecc_to_turn_off, set()),
    ],
)
def test_a_condition_gives_its_warning_and_no_other(
    virtual_node: Node, provoke: Callable[[Gpu, float], None], expected: set[str]
) -> None:
    gpu = virtual_node.gpus[0]
    if provoke in (_no_persistence, _no_ecc, _no_ecc_to_turn_off):
        provoke(gpu, 0.0)
        window = measure_window(virtual_node, 3.0)
    else:
        window = measure_window(virtual_node, 3.0, at_open=lambda: provoke(gpu, virtual_node.clock.now_s()))
    found = window.findings()
    assert {finding.split(":")[0] for finding in found} == expected
    assert [one for one in found if not re.fullmatch(r"[a-z_]+: [^\n]+\. [A-Z][^\n]+\.", one)] == []
    assert window.verdict() == [], "a warning never makes a measurement invalid"


def test_throttling_is_named_and_timed(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    window = measure_window(virtual_node, 4.0, at_open=lambda: _throttle(gpu, virtual_node.clock.now_s()))
    (activity,) = window.metered.activity
    assert activity.reasons == ["sw_thermal_slowdown"]
    assert activity.throttle_duration_sec == pytest.approx(1.0, abs=0.35)


def test_whoever_is_on_the_gpu_already_is_foreign(virtual_node: Node) -> None:
    busy, full, free = virtual_node.gpus[:3]
    busy.processes = [(4242, 2**30)]
    full.memory_used = 2**30
    for gpu, seen in ((busy, "pid 4242"), (full, "1074 MB in use"), (free, None)):
        gpus = find_gpus(STUB, JobContext(gpu_uuids=[gpu.uuid]), virtual_node.clock)
        if seen is None:
            assert (gpus.foreign, foreign_warning(gpus.foreign)) == ([], [])
        else:
            (warning,) = foreign_warning(gpus.foreign)
            assert warning.startswith("foreign_process: ")
            assert seen in warning
            assert gpu.uuid in warning


def test_who_comes_onto_the_gpu_in_mid_window_is_foreign_and_makes_it_invalid(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.processes = [(1, 2**30)]  # our own context, by then
    alone = measure_window(virtual_node, 1.0)
    assert (alone.findings(), alone.verdict()) == ([], [])
    joined = measure_window(virtual_node, 1.0, at_open=lambda: setattr(gpu, "processes", [(1, 2**30), (77, 2**20)]))
    (warning,) = joined.findings()
    assert warning.startswith("foreign_process: ")
    assert "pid 77" in warning
    assert joined.verdict() == ["foreign_process"]


def test_who_comes_while_the_model_loads_is_foreign_too(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    devices = open_devices([gpu.uuid], virtual_node.clock.now_s)
    gpu.processes = [(os.getpid(), 2**30), (os.getppid(), 2**20), (2**22 - 1, 2**20)]
    meter = Meter(devices, 0.1, virtual_node.clock)
    meter.calibrate()
    meter.begin(threaded=False)
    meter.finish(virtual_node.clock.now_s())
    newcomers = meter.metered(virtual_node.clock.now_s() - 0.1, virtual_node.clock.now_s()).newcomers
    assert f"pid {2**22 - 1} on {gpu.uuid} since the job began" in newcomers
    assert not any(f"pid {os.getpid()} " in one for one in newcomers)


def test_no_meter_and_no_baseline_are_said_once_with_their_reason() -> None:
    clean = {
        "window_s": 60.0,
        "n_requests": 200,
        "stamped_requests": 200,
        "caches_emptied": True,
        "cached_input_tokens": None,
        "has_chat_template": False,
        "cut_prompts": 0,
    }
    config = parse_config({"backend": "stub", "measurement": {"warmup": {"enabled": False}}})
    for no_meter, no_baseline, code in (
        ("the driver is asleep", "it was turned off", "no_energy_meter"),
        (None, "it was turned off", "no_baseline"),
        (None, None, "not_warmed_up"),
    ):
        found = find_warnings(config, warmup=None, no_meter=no_meter, no_baseline=no_baseline, **clean)  # type: ignore[arg-type]
        assert [one.split(":")[0] for one in found] == list(dict.fromkeys([code, "not_warmed_up"]))
        assert (no_meter or no_baseline or "") in found[0]


def test_the_cool_down_gate_waits_for_the_hottest_gpu_and_says_how_long(virtual_node: Node) -> None:
    first, second = virtual_node.gpus[:2]
    first.temperature(70.0, -2.0, max_c=100.0)
    second.temperature(40.0)
    devices = open_devices([first.uuid, second.uuid], virtual_node.clock.now_s)
    cooled = wait_until_cool(devices, CoolDownGate(max_temperature_c=50.0), virtual_node.clock)
    assert cooled is not None
    assert cooled.reached
    assert cooled.waited_s == pytest.approx(10.0, abs=1.5)
    assert cooled.temperature_c is not None
    assert cooled.temperature_c <= 50.0
    assert wait_until_cool(devices, CoolDownGate(), virtual_node.clock) is None


def test_the_cool_down_gate_gives_up_in_time_and_says_so(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    gpu.temperature(70.0)
    devices = open_devices([gpu.uuid], virtual_node.clock.now_s)
    begun_s = virtual_node.clock.now_s()
    cooled = wait_until_cool(devices, CoolDownGate(max_temperature_c=50.0, timeout_s=7.5), virtual_node.clock)
    assert cooled is not None
    assert (cooled.reached, cooled.temperature_c) == (False, 70.0)
    assert virtual_node.clock.now_s() - begun_s == pytest.approx(7.5, abs=0.1)
