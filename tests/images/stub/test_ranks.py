"""Several processes in one job: one window, every GPU counted once, every request once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from images.contract.parts import RawProcessResult
from images.contract.result import ExperimentResult
from tests.gpu_node.node import Gpu
from tests.images.stub.jobs import Ended
from tests.images.stub.simulated import Machine, on_gpus, ranks_of, true_energy_j, watts_of
from tests.images.stub.test_termination import wait_for_phase

pytestmark = pytest.mark.xdist_group("ranks")
BUSY_W, IDLE_W = 400.0, 90.0
SEVEN = {"n_prompts": 7, "max_output_tokens": 8}


@dataclass(frozen=True)
class Pair:
    """A job of two processes, the second twice as slow, and the two GPUs it ran on."""

    ended: Ended
    gpus: list[Gpu]

    @property
    def result(self) -> ExperimentResult:
        return ExperimentResult.from_json(self.ended.directory)

    @property
    def processes(self) -> list[RawProcessResult]:
        return self.result.process_results


@pytest.fixture(scope="module")
def pair(shared_machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The quick process's GPU idles from about the end of its own work on, as a real one would."""
    gpus = [shared_machine.node.gpus[index] for index in (5, 2)]
    gpus[0].constant(BUSY_W)
    gpus[1].square(IDLE_W, BUSY_W, period_s=0.37)
    document = on_gpus(SEVEN, num_processes=2, stub={"window_s": 1.0, "slowdown_per_rank": 1.0})
    job = shared_machine.start(tmp_path_factory.mktemp("pair"), document, visible="5,2")
    wait_for_phase(job, "window")
    time.sleep(1.4)
    gpus[0].load(IDLE_W)
    ended = job.end()
    assert ended.code == 0, ended.stderr
    return Pair(ended, gpus)


def test_the_energy_of_all_gpus_runs_from_the_common_open_to_the_common_close(pair: Pair) -> None:
    result = pair.result
    true_j = [true_energy_j(gpu, result.start_time, result.end_time) for gpu in pair.gpus]
    window_s = (result.end_time - result.start_time).total_seconds()

    assert result.total_inference_time_sec == pytest.approx(window_s, abs=1e-5)
    assert IDLE_W * window_s * 1.2 < true_j[0] < BUSY_W * window_s * 0.9, "the idle tail has to show in the truth"
    assert result.total_energy_j == pytest.approx(sum(true_j), rel=0.015)
    for one in result.process_results:
        mean_w = (one.energy_metrics.total_energy_joules or 0.0) / result.total_inference_time_sec
        assert one.energy_metrics.avg_power_watts == pytest.approx(mean_w), "over the common window, its tail included"
    assert result.energy_per_device_j == pytest.approx(true_j, rel=0.01)
    assert result.energy_source == "nvml_counter"


def test_energies_of_processes_add_up_and_each_knows_its_own_gpu_only(pair: Pair) -> None:
    result = pair.result
    assert [one.gpu_uuids for one in pair.processes] == [[gpu.uuid] for gpu in pair.gpus]
    assert [one.gpu_id for one in pair.processes] == [0, 1]
    energies = [one.energy_metrics.total_energy_joules for one in pair.processes]
    assert sum(energy for energy in energies if energy is not None) == pytest.approx(result.total_energy_j)
    assert energies == pytest.approx(result.energy_per_device_j)
    assert result.environment_snapshot is not None
    assert result.environment_snapshot.gpu_uuids == [gpu.uuid for gpu in pair.gpus]
    assert result.multi_gpu is not None
    assert result.multi_gpu.num_gpus == 2
    assert result.energy_breakdown is not None
    assert [device.gpu_uuid for device in result.energy_breakdown.devices] == [gpu.uuid for gpu in pair.gpus]


def test_processes_open_together_and_the_quick_one_waits_for_the_slow_one(pair: Pair) -> None:
    quick, slow = pair.processes
    assert quick.timestamps.start == slow.timestamps.start == pair.result.start_time
    assert slow.timestamps.end == pair.result.end_time
    assert quick.timestamps.duration_sec == pytest.approx(1.0, abs=0.15)
    assert slow.timestamps.duration_sec == pytest.approx(2.0, abs=0.15)
    assert slow.idle_tail_s == pytest.approx(0.0, abs=1e-6)
    assert quick.idle_tail_s == pytest.approx(slow.timestamps.duration_sec - quick.timestamps.duration_sec, abs=1e-4)


def test_overlap_and_gpu_attribution_are_verified(pair: Pair) -> None:
    aggregation = pair.result.aggregation
    assert aggregation is not None
    assert (aggregation.num_processes, aggregation.warnings) == (2, [])
    assert aggregation.temporal_overlap_verified
    assert aggregation.gpu_attribution_verified


def test_samples_of_all_gpus_stand_in_one_file_on_one_time_axis(pair: Pair) -> None:
    rows = pq.read_table(pair.ended.directory / "timeseries.parquet").to_pylist()
    window_s = pair.result.total_inference_time_sec
    assert {row["gpu_index"] for row in rows} == {0, 1}
    for index, gpu in enumerate(pair.gpus):
        own = [row for row in rows if row["gpu_index"] == index]
        before, after = own[0]["timestamp_s"], own[-1]["timestamp_s"]
        assert before < 0 < window_s < after, "one sample on each side of the window"
        opened_s = pair.result.start_time.timestamp() - time.time() + time.perf_counter()
        true_w = [gpu.true_power_w(opened_s + row["timestamp_s"]) for row in own]
        wrong = sum(row["gpu_power_w"] != pytest.approx(watts) for row, watts in zip(own, true_w, strict=True))
        assert wrong <= 0.05 * len(own), "only a sample right on an edge of the curve may differ"


def test_requests_are_split_without_loss_or_doubling(pair: Pair, shared_machine: Machine, tmp_path: Path) -> None:
    alone = shared_machine.start(tmp_path / "alone", on_gpus(SEVEN, measurement={"energy": "none"})).end()
    one = ExperimentResult.from_json(alone.directory)

    assert _work(pair.ended) == _work(alone)
    rows = pq.read_table(pair.ended.directory / "requests.parquet").to_pylist()
    places = [(row["process_index"], row["request_index"]) for row in rows]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert pair.result.input_tokens == one.input_tokens
    assert pair.result.output_tokens == one.output_tokens
    assert pair.result.prompts_sha256 == one.prompts_sha256


def test_raw_results_and_processes_are_gone_when_all_is_well(pair: Pair) -> None:
    assert pair.ended.errors == []
    assert [path.name for path in pair.ended.output.iterdir()] == [pair.ended.directory.name]
    names = {"result.json", "requests.parquet", "timeseries.parquet"}
    assert {path.name for path in pair.ended.directory.iterdir()} == names
    assert ranks_of(pair.ended.output) == {}


def test_longer_set_up_warm_up_and_tear_down_change_neither_energy_nor_time_nor_tokens(
    gpu_library: Path, tmp_path: Path
) -> None:
    def measured(name: str, measurement: dict[str, Any], load_s: float) -> ExperimentResult:
        machine = Machine(tmp_path / name, gpu_library)
        gpu = machine.node.gpus[0]
        gpu.constant(IDLE_W)
        document = on_gpus(SEVEN, measurement=measurement, stub={"load_s": load_s, "window_s": 1.0})
        job = machine.start(tmp_path / name, document)
        wait_for_phase(job, "window")  # three ticks of the counter before it opens
        gpu.load(BUSY_W)
        wait_for_phase(job, "close")
        gpu.load(IDLE_W)
        return ExperimentResult.from_json(job.end().directory)

    slow = {"baseline": {"seconds": 1.0}, "warmup": {"window": 2, "max_rounds": 80, "cv_threshold": 1e-9}}
    with ThreadPoolExecutor(2) as pool:
        short, long = pool.map(measured, ("short", "long"), ({}, slow), (0.0, 1.0))

    # On a busy machine the load follows its phase late; a second of set-up would make it 50 % and more.
    assert short.total_energy_j == pytest.approx(BUSY_W * short.total_inference_time_sec, rel=0.05)
    assert long.total_energy_j == pytest.approx(BUSY_W * long.total_inference_time_sec, rel=0.05)
    assert long.total_inference_time_sec == pytest.approx(short.total_inference_time_sec, abs=0.02)
    assert (long.input_tokens, long.output_tokens) == (short.input_tokens, short.output_tokens)
    assert long.baseline_power_w == pytest.approx(IDLE_W, rel=0.01)
    assert short.baseline_power_w is None


def test_the_steady_state_of_several_processes_is_the_part_in_which_all_work(machine: Machine, tmp_path: Path) -> None:
    document = on_gpus(SEVEN | {"ignore_eos": True}, num_processes=2, measurement={"methodology": "steady_state"})
    document["stub"] |= {"window_s": 0.6, "slowdown_per_rank": 1.0}
    result = ExperimentResult.from_json(machine.start(tmp_path / "job", document).end().directory)

    assert result.steady_state_window is not None
    from_s, to_s = result.steady_state_window
    assert 0.0 <= from_s < 0.1
    assert 0.5 < to_s < 0.8, "the slow process goes on for as long again"
    assert result.total_inference_time_sec == pytest.approx(to_s - from_s, abs=1e-4)
    true_j = (watts_of(0) + watts_of(1)) * (to_s - from_s)
    breakdown = result.energy_breakdown
    assert breakdown is not None
    assert breakdown.integral_j == pytest.approx(true_j, rel=0.015)
    # No dense readings stand where the described part ends, so the counter knows its tick there to half a sample only.
    assert breakdown.bound_j is not None
    assert result.total_energy_j == pytest.approx(true_j, abs=breakdown.bound_j)
    shares = [one.timestamps.duration_sec for one in result.process_results]
    assert shares == pytest.approx([to_s - from_s] * 2, abs=1e-4)


def _work(ended: Ended) -> list[tuple[Any, ...]]:
    rows = pq.read_table(ended.directory / "requests.parquet").to_pylist()
    return sorted((row["output_sha256"], row["input_tokens"], row["output_tokens"]) for row in rows)
