"""One result out of what several processes measured."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from images.contract import files
from images.contract.assembly import assemble
from images.contract.facts import Baseline, Facts
from images.contract.job import JobContext
from images.contract.parts import CoolDown, DeviceEnergy, EnvironmentSnapshot
from images.contract.process import ProcessData
from images.contract.result import ExperimentResult
from images.contract.scheduling import Placement, Scheduling
from images.harness.backend import Generation, MemoryUse
from images.harness.process import Place, measure_process
from images.harness.window import OwnMarks
from tests.images.harness.fakes import FakeBackend, Phases, config, loaded_model

OFF = {"warmup": {"enabled": False}}
FACTS: dict[str, Any] = {
    "experiment_id": "exp_test",
    "config_hash": "0" * 16,
    "environment": EnvironmentSnapshot(),
    "cool_down": None,
    "baseline_before": None,
    "baseline_after": None,
    "no_meter": None,
    "no_baseline": None,
    "foreign": (),
}


def process(index: int, energies_j: list[float | None], **device: Any) -> ProcessData:
    """What process `index` of two measured in 2 s, with made-up energy of its GPUs."""
    place = Place("exp_test", "0" * 16, index, 0, ())
    chosen = config(measurement=OFF, num_processes=2)
    backend = FakeBackend(seconds=[2.0])
    data = measure_process(chosen, JobContext(gpu_uuids=[]), place, backend, OwnMarks(), Phases(), lambda _: None)
    devices = [
        DeviceEnergy(gpu_uuid=f"GPU-{index}-{at}", energy_j=energy, source="nvml_counter", **device)
        for at, energy in enumerate(energies_j)
    ]
    total = None if None in energies_j or not energies_j else sum(one for one in energies_j if one is not None)
    energy = data.record.raw.energy_metrics.model_copy(update={"total_energy_joules": total})
    raw = data.record.raw.model_copy(update={"energy_metrics": energy})
    return ProcessData(data.record.model_copy(update={"devices": devices, "raw": raw}), data.requests, None)


def result(*data: ProcessData, **facts: Any) -> ExperimentResult:
    return assemble(config(measurement=OFF, num_processes=2), JobContext(), Facts(**{**FACTS, **facts}), data)[0]


def codes(found: ExperimentResult) -> set[str]:
    return {warning.split(":")[0] for warning in found.measurement_warnings}


def placed(placement: Placement | None, gpu_uuids: list[str] | None) -> ExperimentResult:
    """The result of a cycle that was scheduled so, and whose processes worked on such GPUs."""
    data = process(0, [10.0])
    raw = data.record.raw.model_copy(update={"gpu_uuids": gpu_uuids})
    one = ProcessData(data.record.model_copy(update={"raw": raw}), data.requests, None)
    context = JobContext(scheduling=Scheduling(placement=placement))
    return assemble(config(measurement=OFF), context, Facts(**FACTS), [one])[0]


def test_a_cycle_on_whichever_gpus_were_free_says_so_and_names_them_and_stays_valid() -> None:
    found = placed("any", ["GPU-a", "GPU-b"])
    (warning,) = (one for one in found.measurement_warnings if one.startswith("gpu_confounded: "))
    assert "GPU-a, GPU-b" in warning
    assert re.fullmatch(r"[a-z_]+: [^\n]+\. [A-Z][^\n]+\.", warning)
    assert found.measurement_valid is True


@pytest.mark.parametrize(("placement", "gpu_uuids"), [("block", ["GPU-a"]), (None, ["GPU-a"]), ("any", None)])
def test_blocks_and_work_on_the_cpu_are_not_confounded(
    placement: Placement | None, gpu_uuids: list[str] | None
) -> None:
    assert "gpu_confounded" not in codes(placed(placement, gpu_uuids))


def test_energies_and_bounds_are_summed_over_all_gpus_of_all_processes() -> None:
    found = result(process(0, [10.0, 20.0], bound_j=1.0), process(1, [30.0, 40.0], bound_j=2.0))
    assert found.total_energy_j == 100.0
    assert found.energy_per_device_j == [10.0, 20.0, 30.0, 40.0]
    assert found.energy_breakdown is not None
    assert found.energy_breakdown.bound_j == 6.0
    assert found.multi_gpu is not None
    assert (found.multi_gpu.num_gpus, found.multi_gpu.energy_per_gpu_j) == (4, [10.0, 20.0, 30.0, 40.0])
    assert found.energy_per_output_token_j == pytest.approx(100.0 / (found.output_tokens or 0))


def test_a_sum_with_an_unmeasured_part_is_unmeasured() -> None:
    found = result(process(0, [10.0, None]), process(1, [30.0, 40.0]))
    assert (found.total_energy_j, found.energy_per_device_j, found.energy_per_output_token_j) == (None, None, None)


def test_the_adjusted_energy_is_what_exceeds_the_idle_power_before_load_and_may_be_negative() -> None:
    before, after = Baseline(60.0, 1.0, True), Baseline(90.0, 2.0, True)
    found = result(process(0, [100.0]), process(1, [10.0]), baseline_before=before, baseline_after=after)
    assert found.baseline_power_w == 60.0
    assert found.energy_adjusted_j == pytest.approx(110.0 - 60.0 * 2.0)
    assert found.energy_breakdown is not None
    assert found.energy_breakdown.baseline_power_after_w == 90.0
    assert found.energy_breakdown.baseline_context
    assert "no_baseline" not in codes(found)


def test_a_process_without_a_meter_leaves_no_half_of_an_energy() -> None:
    found = result(process(0, [500.0]), process(1, []), baseline_before=Baseline(60.0, 1.0, True))
    parts = [found.total_energy_j, found.energy_adjusted_j, found.energy_per_device_j, found.energy_breakdown]
    assert parts == [None] * 4
    assert found.energy_source == "none"
    assert any("process 1 had no meter" in warning for warning in found.measurement_warnings)


@pytest.mark.parametrize(("reached", "expected"), [(True, set()), (False, {"not_cooled_down"})])
def test_a_cool_down_that_gave_up_is_said_and_kept(reached: bool, expected: set[str]) -> None:
    gate = CoolDown(target_c=50.0, waited_s=3.0, reached=reached, temperature_c=70.0)
    found = result(process(0, [1.0]), process(1, [1.0]), cool_down=gate)
    assert codes(found) & {"not_cooled_down"} == expected
    assert found.thermal_throttle is not None
    assert found.thermal_throttle.cool_down == gate


def test_a_missing_process_makes_the_result_invalid_and_is_named() -> None:
    found = result(process(1, [30.0]))
    assert (found.measurement_valid, found.invalid_reasons) == (False, ["rank_missing"])
    (warning,) = (one for one in found.measurement_warnings if one.startswith("rank_missing"))
    assert "process 0" in warning


def test_foreign_processes_make_energy_invalid_and_leave_a_run_without_meter_alone() -> None:
    seen = ["python (pid 7) on GPU-0"]
    metered = result(process(0, [1.0]), process(1, [1.0]), foreign=seen)
    assert metered.invalid_reasons == ["foreign_process"]
    assert "foreign_process" in codes(metered)
    unmetered = result(process(0, []), process(1, []), foreign=seen, no_meter="there is none")
    assert unmetered.invalid_reasons == []
    assert codes(unmetered) & {"foreign_process", "no_energy_meter"} == {"no_energy_meter"}
    assert (unmetered.energy_source, unmetered.total_energy_j) == ("none", None)


def open_loop(lag_ms: list[float]) -> ExperimentResult:
    """The result of requests that were handed over so much too late."""
    data = process(0, [])
    columns = {name: data.requests[name].to_pylist() for name in data.requests.schema.names}
    count = data.requests.num_rows
    late = files.requests_table({**columns, "lag_ms": (lag_ms * count)[:count]})
    chosen = config({"arrivals": {"process": "poisson", "rate_per_s": 5.0}}, OFF)
    return assemble(chosen, JobContext(), Facts(**FACTS), [ProcessData(data.record, late, None)])[0]


def test_a_generator_that_was_late_itself_says_so_because_its_lag_is_in_the_latency() -> None:
    late = open_loop([1.0, 1.0, 40.0])
    (warning,) = (one for one in late.measurement_warnings if one.startswith("late_arrivals: "))
    assert re.fullmatch(r"[a-z_]+: [^\n]+\. [A-Z][^\n]+\.", warning)
    assert late.extended_metrics is not None
    assert late.extended_metrics.schedule_lag_p50_ms == 1.0
    assert "late_arrivals" not in codes(open_loop([1.0]))
    assert "late_arrivals" not in codes(result(process(0, []), process(1, [])))


def test_a_short_open_loop_is_not_told_to_repeat_what_cannot_be_repeated() -> None:
    advice = {
        "open": next(one for one in open_loop([0.0]).measurement_warnings if one.startswith("short_duration")),
        "closed": next(
            one
            for one in result(process(0, []), process(1, [])).measurement_warnings
            if one.startswith("short_duration")
        ),
    }
    assert "min_window_s" in advice["closed"]
    assert "min_window_s" not in advice["open"]


def test_what_the_backend_holds_in_memory_is_in_the_result() -> None:
    backend = FakeBackend(loaded=loaded_model(slots=3), memory_use=MemoryUse(weights_mb=7.0, peak_mb=9.0))
    place = Place("exp_test", "0" * 16, 0, 0, ())
    chosen = config(measurement=OFF)
    data = measure_process(chosen, JobContext(gpu_uuids=[]), place, backend, OwnMarks(), Phases(), lambda _: None)
    found = assemble(chosen, JobContext(), Facts(**FACTS), [data])[0]
    assert found.extended_metrics is not None
    assert (found.extended_metrics.weights_mb, found.extended_metrics.peak_memory_mb) == (7.0, 9.0)
    assert found.extended_metrics.kv_cache_mb is None
    assert found.process_results[0].compute_metrics.peak_memory_mb == 9.0
    assert data.record.slots == 3


def test_cached_input_tokens_of_a_part_are_those_of_the_requests_whose_input_counts_in_it() -> None:
    def one_each_second(generations: list[Generation]) -> list[Generation]:
        return [
            dataclasses.replace(
                one,
                delivery_s=tuple(stamp + one.request_index for stamp in one.delivery_s or ()),
                cached_input_tokens=10**one.request_index,
            )
            for one in generations
        ]

    part = {"methodology": "windowed", "window_skip_s": 1.5, "window_length_s": 2.0}
    chosen = config(measurement={**OFF, **part})
    place = Place("exp_test", "0" * 16, 0, 0, ())
    backend = FakeBackend(seconds=[6.0], edit=one_each_second)
    data = measure_process(chosen, JobContext(gpu_uuids=[]), place, backend, OwnMarks(), Phases(), lambda _: None)
    found = assemble(chosen, JobContext(), Facts(**FACTS), [data])[0]
    assert found.cached_input_tokens == 10**2 + 10**3
    assert found.extended_metrics is not None
    assert found.extended_metrics.kv_cache_hit_rate == pytest.approx(1100 / (found.input_tokens or 0))
