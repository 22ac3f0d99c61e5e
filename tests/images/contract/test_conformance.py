"""One test per promise of late aggregation and of the completeness check."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from images.contract.aggregation import aggregate_results, validate_process_completeness
from images.contract.parts import RawProcessResult, Timestamps
from images.contract.result import AggregatedResult, CompletenessReport, ExperimentResult
from tests.images.contract import make
from tests.images.contract.make import OPEN, raw

ID = "exp_20260301_120000_0123abcd"
HASH = "0123456789abcdef"
ROOT = Path(__file__).parents[3]


def aggregate(*raws: RawProcessResult) -> ExperimentResult:
    return aggregate_results(raws, ID, HASH)


def test_a_single_process_gives_a_result_with_matching_metrics() -> None:
    one = raw(energy_j=25.0, tokens=300, output_tokens=100, seconds=10.0, backend="stub")
    result = aggregate(one)
    assert result.experiment_id == ID
    assert result.backend == "stub"
    assert (result.total_tokens, result.input_tokens, result.output_tokens) == (300, 200, 100)
    assert result.total_energy_j == 25.0
    assert result.total_flops == 1e9
    assert result.total_inference_time_sec == 10.0
    assert (result.start_time, result.end_time) == (one.timestamps.start, one.timestamps.end)
    assert result.avg_tokens_per_second == result.total_tokens_per_second == 30.0
    assert result.output_tokens_per_second == 10.0
    assert result.avg_energy_per_token_j == pytest.approx(25 / 300)
    assert result.energy_per_output_token_j == 0.25


def test_the_type_is_experiment_result() -> None:
    assert type(aggregate(raw())) is ExperimentResult


def test_aggregated_result_is_an_alias() -> None:
    assert AggregatedResult is ExperimentResult


def test_the_schema_version_is_2_0() -> None:
    assert aggregate(raw()).schema_version == "2.0"


def test_config_hash_and_methodology_are_passed_through() -> None:
    result = aggregate_results([raw()], ID, HASH, "steady_state", (1.0, 9.0))
    assert result.measurement_config_hash == HASH
    assert result.measurement_methodology == "steady_state"
    assert result.steady_state_window == (1.0, 9.0)


def test_energies_of_two_processes_sum() -> None:
    assert aggregate(raw(0, energy_j=25.0), raw(1, energy_j=30.0)).total_energy_j == 55.0


def test_tokens_of_two_processes_sum() -> None:
    result = aggregate(raw(0, tokens=300, output_tokens=100), raw(1, tokens=500, output_tokens=50))
    assert (result.total_tokens, result.input_tokens, result.output_tokens) == (800, 650, 150)


def test_rates_run_over_the_common_window_while_the_compatible_one_is_a_mean() -> None:
    """Process 0 ran 0..10 s, process 1 ran 5..15 s: 800 tokens in 15 s, at 30 and 50 tokens/s."""
    result = aggregate(raw(0, tokens=300), raw(1, tokens=500, start_s=5.0))
    assert (result.start_time, result.end_time) == (OPEN, OPEN + timedelta(seconds=15))
    assert result.total_inference_time_sec == 15.0
    assert result.total_tokens_per_second == pytest.approx(800 / 15)
    assert result.output_tokens_per_second == pytest.approx(200 / 15)
    assert result.avg_tokens_per_second == 40.0


def test_one_process_keeps_its_monotonic_duration() -> None:
    """The wall clock was set back by an hour while it ran."""
    times = Timestamps(start=OPEN, end=OPEN - timedelta(hours=1), duration_sec=10.0)
    assert aggregate(raw(timestamps=times)).total_tokens_per_second == 30.0


def test_latencies_of_two_processes_are_concatenated_not_averaged() -> None:
    few, many = [100.0], [10.0, 20.0, 30.0, 40.0]
    stats = aggregate(raw(0, ttft_ms=few, itl_ms=[1.0]), raw(1, ttft_ms=many, itl_ms=[3.0, 5.0])).latency_stats
    assert stats is not None
    assert (stats.ttft_samples, stats.itl_samples) == (5, 3)
    assert stats.ttft_mean_ms == pytest.approx(40.0)  # an average of averages would be 62.5
    assert (stats.ttft_p50_ms, stats.ttft_min_ms, stats.ttft_max_ms) == (30.0, 10.0, 100.0)
    assert stats.ttft_p95_ms == pytest.approx(np.quantile([*few, *many], 0.95, method="linear"))
    assert stats.ttft_p99_ms == pytest.approx(np.quantile([*few, *many], 0.99, method="linear"))
    assert stats.itl_mean_ms == 3.0


def test_without_token_times_the_latency_is_none_not_zero() -> None:
    assert aggregate(raw()).latency_stats is None
    stats = aggregate(raw(ttft_ms=[12.0])).latency_stats
    assert stats is not None
    assert (stats.itl_mean_ms, stats.itl_p99_ms, stats.itl_samples) == (None, None, 0)


def test_process_results_are_embedded_in_order_without_their_token_times() -> None:
    result = aggregate(raw(1, ttft_ms=[1.0], itl_ms=[1.0]), raw(0, per_request_latencies_ms=[5.0]))
    assert [part.process_index for part in result.process_results] == [0, 1]
    assert result.process_results[0] == raw(0, per_request_latencies_ms=[5.0])
    assert result.process_results[1] == raw(1)


def test_num_processes_and_the_method_are_recorded() -> None:
    metadata = aggregate(raw(0), raw(1), raw(2)).aggregation
    assert metadata is not None
    assert (metadata.num_processes, metadata.method) == (3, "sum_energy_avg_throughput")


def test_the_order_in_which_processes_report_changes_nothing() -> None:
    raws = [raw(index, energy_j=float(index), ttft_ms=[float(index)]) for index in range(5)]
    shuffled = random.Random(1).sample(raws, len(raws))
    assert shuffled != raws
    assert aggregate(*shuffled) == aggregate(*raws)


def test_unmeasured_energy_makes_the_sum_none_not_the_sum_of_the_rest() -> None:
    result = aggregate(raw(0, energy_j=25.0), raw(1, energy_j=None))
    assert result.total_energy_j is None
    assert result.avg_energy_per_token_j is None
    assert result.energy_per_output_token_j is None
    nothing_used = aggregate(raw(0, energy_j=0.0))
    assert (nothing_used.total_energy_j, nothing_used.energy_per_output_token_j) == (0.0, 0.0)


def test_an_unmeasured_token_split_stays_none() -> None:
    result = aggregate(raw(0), raw(1, output_tokens=None))
    assert (result.total_tokens, result.output_tokens, result.output_tokens_per_second) == (600, None, None)


def test_no_output_tokens_is_no_figure_rather_than_a_division_by_zero() -> None:
    assert aggregate(raw(output_tokens=0)).energy_per_output_token_j is None


def test_no_process_results_is_an_error_that_names_the_experiment() -> None:
    with pytest.raises(ValueError, match=ID):
        aggregate()


def test_processes_that_ran_together_are_verified() -> None:
    metadata = aggregate(raw(0), raw(1, start_s=9.0)).aggregation
    assert metadata is not None
    assert metadata.temporal_overlap_verified
    assert metadata.gpu_attribution_verified
    assert metadata.warnings == []


def test_processes_one_after_the_other_are_a_warning() -> None:
    metadata = aggregate(raw(0), raw(1, start_s=5.0), raw(2, start_s=12.0)).aggregation
    assert metadata is not None
    assert not metadata.temporal_overlap_verified
    assert metadata.warnings == ["processes did not run at the same time"]


def test_a_gpu_claimed_twice_is_named_by_id_without_uuids() -> None:
    metadata = aggregate(raw(0, gpu_id=0), raw(1, gpu_id=0)).aggregation
    assert metadata is not None
    assert not metadata.gpu_attribution_verified
    assert metadata.warnings == ["GPU 0 appears in multiple processes"]


def test_gpus_are_told_apart_by_uuid_where_there_is_one() -> None:
    """Each process sees its own device as index 0."""
    apart = aggregate(raw(0, gpu_id=0, gpu_uuids=["GPU-a"]), raw(1, gpu_id=0, gpu_uuids=["GPU-b"])).aggregation
    assert apart is not None
    assert apart.gpu_attribution_verified
    shared = aggregate(raw(0, gpu_uuids=["GPU-a", "GPU-b"]), raw(1, gpu_uuids=["GPU-b", "GPU-c"])).aggregation
    assert shared is not None
    assert not shared.gpu_attribution_verified
    assert shared.warnings == ["GPU-b appears in multiple processes"]


def test_processes_on_the_cpu_share_no_gpu() -> None:
    metadata = aggregate(raw(0, gpu_id=None), raw(1, gpu_id=None)).aggregation
    assert metadata is not None
    assert metadata.warnings == []


def test_validity_follows_the_reasons_and_is_unknown_without_them() -> None:
    valid = aggregate_results([raw()], ID, HASH, invalid_reasons=[])
    invalid = aggregate_results([raw()], ID, HASH, invalid_reasons=["gpu_lost"])
    assert (aggregate(raw()).measurement_valid, valid.measurement_valid, invalid.measurement_valid) == (
        None,
        True,
        False,
    )
    assert invalid.invalid_reasons == ["gpu_lost"]


def completeness(folder: Path, indices: list[int], markers: list[int], expected: int = 2) -> CompletenessReport:
    for index in markers:
        (folder / f".completed_{index}").touch()
    return validate_process_completeness(ID, [raw(index) for index in indices], expected, folder)


def test_complete(tmp_path: Path) -> None:
    report = completeness(tmp_path, [1, 0], [0, 1])
    assert report == CompletenessReport(is_complete=True, expected=2, found=2)


def test_missing_process(tmp_path: Path) -> None:
    report = completeness(tmp_path, [0], [0, 1])
    assert report == CompletenessReport(is_complete=False, expected=2, found=1, missing=[1])


def test_duplicate_process(tmp_path: Path) -> None:
    report = completeness(tmp_path, [0, 1, 1], [0, 1])
    assert report == CompletenessReport(is_complete=False, expected=2, found=3, duplicates=[1])


def test_non_contiguous_processes(tmp_path: Path) -> None:
    report = completeness(tmp_path, [0, 2], [0, 1, 2])
    assert report == CompletenessReport(is_complete=False, expected=2, found=2, missing=[1])


def test_more_processes_than_expected_are_not_complete(tmp_path: Path) -> None:
    assert not completeness(tmp_path, [0, 1, 2], [0, 1, 2]).is_complete


def test_missing_marker(tmp_path: Path) -> None:
    report = completeness(tmp_path, [0, 1], [0])
    assert report == CompletenessReport(is_complete=False, expected=2, found=2, missing_markers=[1])


def test_markers_of_an_unfinished_experiment_are_found_in_its_raw_folder(tmp_path: Path) -> None:
    kept = tmp_path / "raw" / ID
    kept.mkdir(parents=True)
    for index in (0, 1):
        (kept / f".completed_{index}").touch()
    assert completeness(tmp_path, [0, 1], []).is_complete


def test_no_loguru_anywhere() -> None:
    texts = [
        path
        for folder in ("images", "runner", "warehouse")
        for path in (ROOT / folder).rglob("*")
        # What an engine itself brings along stands in its own constraints.
        if (path.suffix in {".py", ".txt"} and path.name != "constraints.txt") or path.name == "Dockerfile"
    ]
    texts += [
        ROOT / name
        for name in ("pyproject.toml", "constraints.txt", "images/constraints.txt", "tests/requirements.txt")
    ]
    assert len(texts) > 10
    assert [path for path in texts if "loguru" in path.read_text().lower()] == []


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not UTC, so that reading a naive time as local shows."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
def test_naive_datetimes_are_accepted_as_utc() -> None:
    assert OPEN.astimezone().utcoffset() != timedelta(0)
    naive = datetime(2026, 3, 1, 12, 0, 0)  # noqa: DTZ001
    elsewhere = OPEN.astimezone(timezone(timedelta(hours=5)))
    for written in (naive, elsewhere, "2026-03-01T12:00:00", "2026-03-01T13:00:00+01:00"):
        result = make.result(start_time=written)
        assert result.start_time == OPEN
        assert result.start_time.tzinfo is UTC
    mixed = Timestamps.from_times(naive, elsewhere + timedelta(seconds=3))
    assert (mixed.start, mixed.duration_sec) == (OPEN, 3.0)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_never_become_a_result(number: float) -> None:
    for build in (
        lambda: make.result(total_energy_j=number),
        lambda: make.result(energy_per_device_j=[1.0, number]),
        lambda: make.result(effective_config={"vllm": {"extra": [number]}}),
        lambda: raw(energy_j=number),
        lambda: aggregate(raw(), raw(1, ttft_ms=[1.0, number])),
    ):
        with pytest.raises(ValidationError):
            build()
