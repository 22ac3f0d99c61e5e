"""One measured experiment against a backend that writes down what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from images.contract.files import REQUESTS_SCHEMA
from images.contract.job import ConfigInvalid, GpuUnusable, JobContext, JobError, MeasurementFailed, OutOfMemory
from images.contract.scheduling import Scheduling
from images.harness.backend import Generation
from images.harness.measure import Measured, measure
from images.harness.warmup import coefficient_of_variation
from tests.images.harness.fakes import CLOCK, FakeBackend, Phases, config, loaded_model

OFF = {"warmup": {"enabled": False}}


def run(backend: FakeBackend, chosen: Any = None, context: JobContext | None = None) -> Measured:
    return measure(
        chosen or config(measurement=OFF),
        context or JobContext(gpu_uuids=[]),
        "exp_test",
        backend,
        Phases(),
        Path(),
    )


def test_the_window_is_drained_and_emptied_before_it_opens_and_drained_before_it_closes() -> None:
    backend = FakeBackend()
    run(backend)
    assert backend.calls == ["load", "drain", "reset_caches", "drain", "run", "drain", "close"]


def test_phases_are_reported_around_the_window_but_never_inside_it() -> None:
    backend = FakeBackend()
    measure(config(measurement=OFF), JobContext(gpu_uuids=[]), "exp_test", backend, Phases(backend.calls), Path())
    opened, closed = backend.calls.index("window"), backend.calls.index("close")
    assert backend.calls[: opened + 1] == ["load", "load", "warm_up", "window"]
    assert backend.calls[opened + 1 : closed] == ["drain", "reset_caches", "drain", "run", "drain"]


def test_all_requests_of_the_workload_and_only_they_are_in_the_window() -> None:
    backend = FakeBackend()
    measured = run(backend, config())
    window = backend.batches[-1]
    assert [request.index for request in window] == list(range(6))
    assert {request.ignore_eos for request in window} == {False}
    raw = measured.result.process_results[0].inference_metrics
    assert raw.total_prompts == 6
    assert raw.input_tokens == sum(len(request.token_ids) for request in window)
    assert raw.output_tokens == 6 * 3
    assert measured.result.total_tokens == raw.input_tokens + raw.output_tokens


def test_a_longer_load_and_warm_up_change_neither_the_windows_time_nor_its_tokens() -> None:
    quick = FakeBackend(seconds=[0.02])
    slow = FakeBackend(load_s=30.0, seconds=[5.0, 5.0, 5.0, 0.02])
    with_warmup = config(measurement={"warmup": {"full_pass": False, "max_rounds": 3, "cv_threshold": 1.0}})
    results = [run(quick).result, run(slow, with_warmup).result]
    assert len(slow.batches) == 4
    for result in results:
        assert result.total_inference_time_sec == pytest.approx(0.02)
        assert (result.end_time - result.start_time).total_seconds() == pytest.approx(0.02)
    assert results[0].total_tokens == results[1].total_tokens
    assert results[0].prompts_sha256 == results[1].prompts_sha256


def test_rates_and_latencies_come_from_the_same_window() -> None:
    result = run(FakeBackend(seconds=[0.05])).result
    assert result.output_tokens_per_second == pytest.approx(18 / 0.05)
    assert result.total_tokens_per_second == pytest.approx(result.total_tokens / 0.05)
    assert result.avg_tokens_per_second == pytest.approx(result.total_tokens / 0.05)
    assert result.latency_stats is not None
    assert result.latency_stats.ttft_samples == 6
    assert result.latency_stats.itl_samples == 12
    assert result.latency_stats.itl_mean_ms == pytest.approx(1.0)
    assert result.extended_metrics is not None
    assert result.extended_metrics.tpot_mean_ms == pytest.approx(1.0)


def test_work_that_ends_only_when_drained_is_inside_the_window() -> None:
    class Late(FakeBackend):
        def drain(self) -> None:
            CLOCK.advance(0.5 if self.calls[-1] == "run" else 7.0)
            super().drain()

    assert run(Late(seconds=[0.25])).result.total_inference_time_sec == pytest.approx(0.75)


def lose_one(generations: list[Generation]) -> list[Generation]:
    return generations[1:]


def double_one(generations: list[Generation]) -> list[Generation]:
    return [*generations, generations[0]]


def answer_one_twice_instead_of_another(generations: list[Generation]) -> list[Generation]:
    return [generations[0], *generations[:-1]]


def answer_a_request_that_was_not_made(generations: list[Generation]) -> list[Generation]:
    return [*generations[:-1], dataclasses.replace(generations[-1], request_index=99)]


@pytest.mark.parametrize(
    "edit", [lose_one, double_one, answer_one_twice_instead_of_another, answer_a_request_that_was_not_made]
)
def test_a_lost_or_doubled_request_is_no_measurement(edit: Callable[[list[Generation]], list[Generation]]) -> None:
    backend = FakeBackend(edit=edit)
    with pytest.raises(MeasurementFailed):
        run(backend)
    assert backend.calls[-1] == "close"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output_ids": ()}, "0 output tokens"),
        ({"output_ids": (1,) * 5, "delivery_s": None}, "5 output tokens, 4 allowed"),
        ({"delivery_tokens": (1, 1)}, "do not add up"),
        ({"delivery_tokens": (1, 1, 2)}, "do not add up"),
        ({"delivery_s": (0.0, 0.0, 0.0)}, "outside the measured window"),
        ({"delivery_s": (1e9, 1e9, 1e9)}, "outside the measured window"),
    ],
)
def test_a_generation_that_contradicts_itself_is_no_measurement(changes: dict[str, Any], says: str) -> None:
    backend = FakeBackend(edit=lambda generations: [dataclasses.replace(one, **changes) for one in generations])
    with pytest.raises(MeasurementFailed, match=says):
        run(backend)


def test_the_cpu_of_a_machine_with_gpus_is_not_called_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    on_cpu = FakeBackend(loaded=dataclasses.replace(loaded_model(), device="cpu"))
    on_gpu = FakeBackend(loaded=dataclasses.replace(loaded_model(), device="Fast GPU"))
    context = JobContext(gpu_uuids=["GPU-1"])
    cpu, gpu = (run(backend, context=context).result.environment_snapshot for backend in (on_cpu, on_gpu))
    assert cpu is not None
    assert gpu is not None
    assert (cpu.gpu_uuids, cpu.gpu_names) == (None, None)
    assert (gpu.gpu_uuids, gpu.gpu_names) == (["GPU-1"], ["Fast GPU"])


def test_requests_may_come_back_in_any_order() -> None:
    measured = run(FakeBackend(edit=lambda generations: generations[::-1]))
    assert measured.requests["request_index"].to_pylist() == list(range(6))


def test_the_backend_is_closed_when_the_window_fails_and_the_cause_is_kept() -> None:
    class Full(FakeBackend):
        def run(self, requests: Any, /) -> list[Generation]:
            raise OutOfMemory("full")

    backend = Full()
    with pytest.raises(OutOfMemory):
        run(backend)
    assert backend.calls == ["load", "drain", "reset_caches", "drain", "close"]


def test_without_a_meter_energy_is_none_everywhere_and_its_source_is_none() -> None:
    result = run(FakeBackend()).result
    document = result.model_dump()
    energy = {key: value for key, value in document.items() if "energy" in key or "power" in key}
    assert energy.pop("energy_source") == "none"
    assert set(energy.values()) == {None}
    assert {"total_energy_j", "avg_energy_per_token_j", "energy_per_output_token_j", "baseline_power_w"} <= set(energy)
    metrics = document["process_results"][0]["energy_metrics"]
    assert set(metrics.values()) == {None}
    assert result.measurement_valid is True  # no meter is not invalid


def test_a_backend_without_stamps_gives_a_result_without_latencies() -> None:
    backend = FakeBackend(changes={"delivery_s": None, "delivery_tokens": None, "started_s": None})
    measured = run(backend)
    assert measured.result.latency_stats is None
    assert measured.result.output_tokens == 18
    assert measured.requests.schema == REQUESTS_SCHEMA
    assert measured.requests["ttft_ms"].to_pylist() == [None] * 6


@pytest.mark.parametrize(("cached", "total"), [(None, None), (0, 0), (2, 12)])
def test_tokens_from_a_cache_are_counted_and_unknown_is_not_zero(cached: int | None, total: int | None) -> None:
    assert run(FakeBackend(changes={"cached_input_tokens": cached})).result.cached_input_tokens == total


def test_one_request_with_unknown_cached_tokens_makes_the_sum_unknown() -> None:
    def edit(generations: list[Generation]) -> list[Generation]:
        return [dataclasses.replace(one, cached_input_tokens=one.request_index or None) for one in generations]

    assert run(FakeBackend(edit=edit)).result.cached_input_tokens is None


def test_flops_count_the_windows_tokens_by_the_named_method() -> None:
    backend = FakeBackend(loaded=loaded_model(parameters=100))
    result = run(backend).result
    positions = result.total_tokens - 6  # the last token of each request is not fed back
    assert result.total_flops == 2 * 100 * positions
    assert result.process_results[0].compute_metrics.flops_method == "parameters_2N"
    assert run(FakeBackend()).result.total_flops is None


def test_what_the_launcher_knows_reaches_the_result() -> None:
    context = JobContext(
        study="s",
        experiment="e",
        scheduling=Scheduling(order="shuffled", seed=1, position=2),
        cycle=3,
        block="b",
        attempt=2,
        measurement_config_hash="f" * 16,
        image_id="sha256:1",
        launcher="docker",
    )
    result = run(FakeBackend(loaded=loaded_model(device="GPU X", model_commit="abc")), context=context).result
    assert (result.study, result.experiment, result.cycle, result.block, result.attempt) == ("s", "e", 3, "b", 2)
    assert result.scheduling == context.scheduling
    assert result.measurement_config_hash == "f" * 16
    environment = result.environment_snapshot
    assert environment is not None
    assert (environment.image_id, environment.launcher) == ("sha256:1", "docker")
    assert (environment.device, environment.model_commit) == ("GPU X", "abc")
    assert environment.package_versions["numpy"]


def test_without_a_launcher_the_hash_is_the_configurations_own() -> None:
    chosen = config(measurement=OFF)
    result = run(FakeBackend(), chosen).result
    assert result.measurement_config_hash == chosen.measurement_config_hash()
    assert result.effective_config == chosen.model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"gpus_per_process": 2}, ConfigInvalid, "gpus_per_process"),
        ({"measurement": {"energy": "nvml"}}, GpuUnusable, "measurement.energy"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name_before_anything_is_loaded(
    changes: dict[str, Any], error: type[JobError], named: str
) -> None:
    backend = FakeBackend()
    with pytest.raises(error, match=named):
        run(backend, config(**changes))
    assert backend.calls == []


def test_coefficient_of_variation_is_the_sample_deviation_over_the_mean() -> None:
    assert coefficient_of_variation([8.0, 12.0]) == pytest.approx(8**0.5 / 10)
