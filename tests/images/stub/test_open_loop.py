"""Open loop through the whole harness: the schedule is kept whatever the backend does, and its slowness is latency."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from images.contract.config import parse_config
from images.contract.result import ExperimentResult
from images.harness.open_loop import schedule
from tests.images.stub.jobs import Ended, run, stub

ARRIVALS = {"process": "poisson", "rate_per_s": 25.0}
COUNT = 30
MOST_LAG_MS = 30.0
"""Of the median request; on a machine that has time it is under 1 ms (`make bench ARGS=openloop`)."""


def open_loop(service_s: float, **fields: Any) -> dict[str, Any]:
    workload = {"n_prompts": COUNT, "ignore_eos": True, "arrivals": ARRIVALS}
    return {**stub(workload, service_s=service_s), **fields}


def rows(ended: Ended) -> list[dict[str, Any]]:
    """Of requests.parquet, by arrival."""
    assert ended.code == 0, ended.stderr
    table = pq.read_table(ended.directory / "requests.parquet")
    return sorted(table.to_pylist(), key=lambda row: float(row["arrival_s"]))


def due_s(document: dict[str, Any]) -> list[float]:
    config = parse_config(document)
    due: list[float] = schedule(config.workload.arrivals, COUNT, config.seed).tolist()
    return due


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return run(tmp_path_factory.mktemp("quick"), open_loop(0.001, batch_size=8))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One slot, and each request takes twice the mean time between two arrivals."""
    return run(tmp_path_factory.mktemp("slow"), open_loop(0.08, batch_size=1))


def test_requests_arrive_on_the_schedule_of_the_seed_and_the_generators_lag_is_stored(quick: Ended) -> None:
    found = rows(quick)
    assert [row["arrival_s"] for row in found] == pytest.approx(due_s(open_loop(0.001)), abs=1e-9)
    assert all(row["lag_ms"] >= 0.0 for row in found)
    assert statistics.median(row["lag_ms"] for row in found) < MOST_LAG_MS
    assert all(row["ttft_ms"] >= row["queue_ms"] >= row["lag_ms"] for row in found), "the lag is part of the latency"


def test_the_window_lasts_as_long_as_the_schedule_and_the_last_request(quick: Ended) -> None:
    last_s = due_s(open_loop(0.001))[-1]
    found = rows(quick)[-1]
    window_s = ExperimentResult.from_json(quick.directory).total_inference_time_sec
    assert window_s >= last_s + found["e2e_ms"] / 1e3
    assert found["request_index"] == COUNT - 1


def test_a_slow_backend_shows_as_latency_and_not_as_a_slower_schedule(quick: Ended, slow: Ended) -> None:
    fast, late = rows(quick), rows(slow)
    for ended in (fast, late):
        assert statistics.median(row["lag_ms"] for row in ended) < MOST_LAG_MS, "handed over when due, whatever runs"
    # One after the other: the n-th answer is there after n services at the earliest, whenever its request came.
    for number, row in enumerate(late, start=1):
        assert row["e2e_ms"] / 1e3 + row["arrival_s"] >= 0.08 * number
    backlog_ms = late[-1]["e2e_ms"]
    assert backlog_ms > 1e3 * (0.08 * COUNT - late[-1]["arrival_s"]) > 500.0
    assert max(row["lag_ms"] for row in late) < backlog_ms / 3, "requests were handed over when due, not when asked for"


def test_whatever_the_speed_every_answer_comes_back_once_and_is_the_same(quick: Ended, slow: Ended) -> None:
    assert len(rows(quick)) == len(rows(slow)) == COUNT
    outputs = [[(row["output_sha256"], row["output_tokens"]) for row in rows(ended)] for ended in (quick, slow)]
    assert outputs[0] == outputs[1]
    results = [ExperimentResult.from_json(ended.directory) for ended in (quick, slow)]
    assert {result.output_tokens for result in results} == {COUNT * 4}
    assert len({result.prompts_sha256 for result in results}) == 1


def test_processes_share_one_schedule(tmp_path: Path) -> None:
    document = open_loop(0.001, batch_size=8, num_processes=2)
    found = rows(run(tmp_path, document))
    assert [row["arrival_s"] for row in found] == pytest.approx(due_s(document), abs=1e-9)
    assert [row["process_index"] for row in found] == [0, 1] * (COUNT // 2)


def test_lengths_that_were_drawn_are_those_of_the_answers(tmp_path: Path) -> None:
    lengths = {"distribution": "uniform"}
    workload = {"source": "synthetic", "max_input_tokens": 20, "max_output_tokens": 9, "ignore_eos": True}
    found = rows(
        run(tmp_path, stub({**workload, "n_prompts": 60, "input_lengths": lengths, "output_lengths": lengths}))
    )
    assert {row["output_tokens"] for row in found} == set(range(1, 10))
    assert (min(row["input_tokens"] for row in found), max(row["input_tokens"] for row in found)) == (1, 20)
    assert {row["finish_reason"] for row in found} == {"length"}
