"""trt jobs through the real harness: a stand-in for TensorRT-LLM, simulated GPUs, and all else as it is shipped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from images.contract.job import ExitCode
from images.contract.result import ExperimentResult
from tests.images.stub.jobs import Ended, start
from tests.images.stub.simulated import Machine
from tests.images.trt.jobs import environment, small

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("trt jobs")]

OPEN_LOOP = {"arrivals": {"process": "poisson", "rate_per_s": 40.0}, "n_prompts": 12}
GOOD: dict[str, dict[str, Any]] = {
    "closed": small(),
    "open loop": small(workload=OPEN_LOOP, trt={"engine": "tensorrt", "token_times": True}),
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    **GOOD,
    "unknown option": small(trt={"extra": {"max_bach_size": 4}}),
    "no GPU": small(),
    "dying engine": small(),
}


@pytest.fixture(scope="module")
def ended(gpu_library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All jobs, two at a time: most of each is the import of torch."""
    folders = {name: tmp_path_factory.mktemp("job") for name in DOCUMENTS}
    machine = Machine(tmp_path_factory.mktemp("machine"), gpu_library)

    def one(name: str) -> Ended:
        env = environment(0) if name == "no GPU" else {**machine.environment(), **environment(1)}
        env |= {"STAND_IN_STEPS": "20"} if name == "dying engine" else {}
        return start(folders[name], DOCUMENTS[name], backend="trt", env=env).end(240.0)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(DOCUMENTS, pool.map(one, DOCUMENTS), strict=True))


@pytest.fixture(scope="module")
def results(ended: dict[str, Ended]) -> dict[str, ExperimentResult]:
    for name in GOOD:
        assert ended[name].code == 0, ended[name].stderr
        assert ended[name].errors == []
    return {name: ExperimentResult.from_json(ended[name].directory) for name in GOOD}


def test_a_closed_batch_has_energy_and_latency_without_gaps(results: dict[str, ExperimentResult]) -> None:
    result = results["closed"]
    assert result.total_energy_j
    assert result.cached_input_tokens == 0
    assert result.latency_stats is not None
    assert result.latency_stats.ttft_samples == 6
    assert result.latency_stats.itl_mean_ms is None
    assert not [one for one in result.measurement_warnings if one.startswith(("warm_cache", "not_in_effect"))]


def test_an_open_loop_with_token_times_has_gaps(results: dict[str, ExperimentResult]) -> None:
    stats = results["open loop"].latency_stats
    assert stats is not None
    assert stats.ttft_samples == 12
    assert stats.itl_mean_ms is not None
    assert stats.itl_mean_ms > 0


def test_building_the_engine_has_a_time_of_its_own(results: dict[str, ExperimentResult]) -> None:
    environment = results["open loop"].environment_snapshot
    assert environment is not None
    assert environment.observed_settings is not None
    assert float(environment.observed_settings["engine_build_s"]) > 0


def test_an_unknown_engine_option_ends_with_the_engines_own_words(ended: dict[str, Ended]) -> None:
    job = ended["unknown option"]
    assert job.code == ExitCode.CONFIG_INVALID
    assert "LLM got invalid argument: max_bach_size" in job.failure.message
    assert len(job.errors) == 1


def test_an_engine_that_dies_is_a_failed_measurement_and_no_bug(ended: dict[str, Ended]) -> None:
    job = ended["dying engine"]
    assert job.code == ExitCode.MEASUREMENT_FAILED
    assert "Executor worker died" in job.failure.message
    assert len(job.errors) == 1


def test_without_a_gpu_it_ends_with_one_line(ended: dict[str, Ended]) -> None:
    job = ended["no GPU"]
    assert job.code == ExitCode.GPU_UNUSABLE
    assert "needs an NVIDIA GPU" in job.failure.message
    assert len(job.errors) == 1
