"""Which part of a run the figures describe: total, steady_state, windowed, and whole passes up to a minimum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid, JobContext, MeasurementFailed
from images.contract.result import ExperimentResult
from images.harness.backend import Generation, Request
from images.harness.measure import Measured, measure
from images.harness.window import Pass, full_load
from tests.images.harness.fakes import CLOCK, FakeBackend, Phases, answer, config

OFF = {"warmup": {"enabled": False}}


def run(backend: FakeBackend, workload: dict[str, Any] | None = None, **measurement: Any) -> Measured:
    chosen = config(workload, {**OFF, **measurement})
    return measure(chosen, JobContext(gpu_uuids=[]), "exp_test", backend, Phases(), Path())


class Scripted(FakeBackend):
    """Takes 10 s; request i runs and delivers at the times it was told, in seconds after the start."""

    def __init__(self, starts_s: Sequence[float], deliveries_s: Sequence[Sequence[float]], **changes: Any) -> None:
        super().__init__(**changes)
        self._starts_s, self._deliveries_s = starts_s, deliveries_s

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        started = CLOCK.now_s
        generations = [
            dataclasses.replace(
                answer(request, started, output_ids=(7,) * len(stamps)),
                started_s=started + start,
                delivery_s=tuple(started + stamp for stamp in stamps),
                delivery_tokens=(1,) * len(stamps),
            )
            for request, start, stamps in zip(requests, self._starts_s, self._deliveries_s, strict=True)
        ]
        CLOCK.advance(10.0)
        self.batches.append(list(requests))
        return generations


# Three requests: two run from 1.5 s to 4 s, then one of them and the third until 7 s, then the third alone.
THREE = ([1.0, 1.5, 4.0], [(2.0, 3.0, 4.0), (2.0, 5.0, 7.0), (5.0, 6.0, 9.0)])


def steady(script: tuple[Any, Any] = THREE, slots: int = 2, n_prompts: int = 3) -> Measured:
    chosen = config({"n_prompts": n_prompts}, {**OFF, "methodology": "steady_state"}, batch_size=slots)
    return measure(chosen, JobContext(gpu_uuids=[]), "exp_test", Scripted(*script), Phases(), Path())


def test_steady_state_is_from_the_first_to_the_last_moment_at_full_load() -> None:
    result = steady().result
    assert result.steady_state_window == pytest.approx((1.5, 7.0))
    assert result.total_inference_time_sec == pytest.approx(5.5)
    assert (result.end_time - result.start_time).total_seconds() == pytest.approx(5.5)
    assert result.measurement_methodology == "steady_state"


def test_output_tokens_count_by_their_stamp_and_input_tokens_at_the_first_one() -> None:
    measured = steady()
    inputs = measured.requests["input_tokens"].to_pylist()
    assert measured.result.output_tokens == 3 + 3 + 2  # the third request's last token comes at 9 s
    assert measured.result.input_tokens == sum(inputs)
    assert measured.result.output_tokens_per_second == pytest.approx(8 / 5.5)
    assert measured.result.total_flops is None, "what was computed in a part of the window is not known"


def test_requests_that_straddle_an_edge_are_left_out_of_latency_but_stay_in_the_sidecar() -> None:
    measured = steady()
    assert measured.requests.num_rows == 3
    stats = measured.result.latency_stats
    assert stats is not None
    assert stats.ttft_samples == 1  # of the three only the second runs wholly inside
    assert stats.ttft_mean_ms == pytest.approx(2000.0)
    assert stats.itl_samples == 2
    assert measured.result.extended_metrics is not None
    assert measured.result.extended_metrics.e2e_mean_ms == pytest.approx(7000.0)


def test_with_fewer_requests_than_slots_full_load_is_all_of_them() -> None:
    together = ([1.0, 2.0], [(3.0, 4.0), (5.0, 6.0)])
    assert steady(together, slots=8, n_prompts=2).result.steady_state_window == pytest.approx((2.0, 4.0))


def test_a_load_that_was_never_full_has_no_steady_state() -> None:
    apart = ([1.0, 4.0], [(2.0, 3.0), (5.0, 6.0)])
    with pytest.raises(MeasurementFailed, match="2 requests never ran at the same time"):
        steady(apart, n_prompts=2)


def test_full_load_spans_passes_and_looks_at_load_only() -> None:
    requests = [Request(index, (1,), 4, False) for index in range(2)]
    first = [Generation(i, (7,), "length", 1.0 + i, (5.0 + i,), (1,)) for i in range(2)]
    second = [Generation(i, (7,), "length", 11.0 + i, (15.0 + i,), (1,)) for i in range(2)]
    passes = [Pass(requests, 0.0, first), Pass(requests, 10.0, second)]
    assert full_load(passes, 2, 0.0) == (2.0, 15.0)
    assert full_load(passes, 1, 0.5) == (0.5, 15.5)


def test_without_stamps_there_is_no_steady_state() -> None:
    blind = Generation(0, (7,), "length", None, None, None)
    with pytest.raises(MeasurementFailed, match="when requests start"):
        full_load([Pass([Request(0, (1,), 4, False)], 0.0, [blind])], 1, 0.0)


@pytest.mark.parametrize("methodology", ["steady_state", "windowed"])
@pytest.mark.parametrize("backend", ["vllm", "trt"])
def test_a_backend_without_token_stamps_refuses_parts_of_a_window(methodology: str, backend: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"{methodology} needs a time stamp on every token"):
        parse_config({"backend": backend, "measurement": {"methodology": methodology}})


def windowed(script: tuple[Any, Any], skip_s: float, length_s: float) -> Measured:
    return run(
        Scripted(*script), {"n_prompts": 3}, methodology="windowed", window_skip_s=skip_s, window_length_s=length_s
    )


def test_windowed_describes_a_fixed_part() -> None:
    measured = windowed(THREE, 2.5, 3.0)
    result = measured.result
    assert result.steady_state_window == pytest.approx((2.5, 5.5))
    assert result.total_inference_time_sec == pytest.approx(3.0)
    assert result.output_tokens == 2 + 1 + 1
    assert result.input_tokens == measured.requests["input_tokens"].to_pylist()[2]
    assert result.latency_stats is None


def test_a_part_that_reaches_beyond_the_work_is_refused() -> None:
    with pytest.raises(MeasurementFailed, match=r"the work took 10\.0 s, and the part to describe ends at 11\.0 s"):
        windowed(THREE, 1.0, 10.0)


def test_a_part_without_any_token_is_refused() -> None:
    with pytest.raises(MeasurementFailed, match="no token was generated"):
        windowed(THREE, 9.2, 0.5)


def test_total_describes_everything_and_says_no_part() -> None:
    result = run(Scripted(*THREE), {"n_prompts": 3}).result
    assert result.steady_state_window is None
    assert result.output_tokens == 9
    assert result.total_inference_time_sec == pytest.approx(10.0)


@pytest.mark.parametrize(("least_s", "passes"), [(0.0, 1), (2.0, 1), (2.1, 2), (7.0, 4)])
def test_whole_passes_are_repeated_until_the_window_is_long_enough(least_s: float, passes: int) -> None:
    backend = FakeBackend(seconds=[2.0])
    measured = run(backend, min_window_s=least_s)
    result = measured.result
    assert result.passes == passes
    assert result.total_inference_time_sec == pytest.approx(2.0 * passes)
    assert measured.requests["request_index"].to_pylist() == list(range(6 * passes))
    assert result.output_tokens == 18 * passes
    assert backend.calls.count("reset_caches") == passes, "caches are emptied before every pass"


def test_the_padded_share_is_that_of_all_passes_together() -> None:
    backend = FakeBackend(seconds=[2.0], paddings=(0.5, 0.0, 0.75))
    result = run(backend, {"n_prompts": 2, "source": "synthetic", "max_input_tokens": 6}, min_window_s=6.0).result
    assert result.passes == 3
    positions = 12 / 0.5 + 12 / 1.0 + 12 / 0.25
    assert padding_fraction(result) == pytest.approx(1 - 36 / positions)
    assert padding_fraction(run(FakeBackend()).result) is None


def padding_fraction(result: ExperimentResult) -> float | None:
    assert result.extended_metrics is not None
    return result.extended_metrics.padding_fraction


def test_nothing_is_prepared_between_the_warm_up_and_the_window(tmp_path: Path) -> None:
    """GPUs would cool down meanwhile, and their clocks fall."""
    workload = prompt_file(20)(tmp_path)

    class Deleting(FakeBackend):
        def run(self, requests: Sequence[Request], /) -> list[Generation]:
            Path(workload["source"]).unlink(missing_ok=True)
            return super().run(requests)

    chosen = config(workload, {"min_window_s": 2.0, "warmup": {"enabled": True, "full_pass": False}})
    context = JobContext(gpu_uuids=[], measurement_config_hash="0" * 16)
    measured = measure(chosen, context, "exp_test", Deleting(seconds=[1.0]), Phases(), Path())
    assert measured.result.passes == 2


def test_a_requests_arrival_is_its_own_passes_beginning() -> None:
    measured = run(FakeBackend(seconds=[2.0]), min_window_s=4.0)
    arrivals = measured.requests["arrival_s"].to_pylist()
    assert arrivals == pytest.approx([0.0] * 6 + [2.0] * 6)
    assert measured.requests["ttft_ms"].to_pylist() == pytest.approx([1.0] * 12)


def distinct(source: Callable[[Path], dict[str, Any]], folder: Path) -> int:
    backend = FakeBackend(seconds=[1.0])
    measured = run(backend, source(folder), min_window_s=2.0)
    assert measured.result.passes == 2
    return len({request.token_ids for batch in backend.batches for request in batch})


def prompt_file(lines: int) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        path = folder / "prompts.jsonl"
        path.write_text("".join(f'{{"prompt": "{"x" * (number + 1)}"}}\n' for number in range(lines)))
        return {"source": str(path)}

    return write


@pytest.mark.parametrize(
    ("source", "expected"),
    [(lambda _: {"source": "synthetic"}, 12), (prompt_file(20), 12), (prompt_file(9), 9), (prompt_file(6), 6)],
)
def test_later_passes_have_other_prompts_where_the_source_has_them(
    tmp_path: Path, source: Callable[[Path], dict[str, Any]], expected: int
) -> None:
    assert distinct(source, tmp_path) == expected


def test_a_later_passes_prompts_change_neither_the_first_pass_nor_its_hash() -> None:
    one, several = FakeBackend(seconds=[1.0]), FakeBackend(seconds=[1.0])
    hashes = {run(one).result.prompts_sha256, run(several, min_window_s=5.0).result.prompts_sha256}
    assert len(hashes) == 1
    assert several.batches[0] == one.batches[0]
