"""Names of finished directories: whatever an experiment is called, its hash and cycle can be read back."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from images.contract import files
from images.contract.config import BACKENDS
from images.contract.failure import JobFailure
from images.contract.files import DirectoryName, parse_directory_name
from tests.images.contract import make, strategies

NAMES = st.text(max_size=120) | st.from_regex(r"[a-z0-9._-]{0,120}", fullmatch=True)
BACKEND_NAMES = st.sampled_from(BACKENDS) | NAMES
HASHES = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
CYCLES = st.integers(0, 99_999)
TIMES = strategies.TIMES.filter(lambda time: time.year >= 1971)


def failure(**changes: object) -> JobFailure:
    fields = {"experiment_id": "e", "error_class": "Killed", "exit_code": 16, "message": "m", "time": make.OPEN}
    return JobFailure.model_validate({**fields, **changes})


def written(folder: Path, made: JobFailure) -> str:
    return made.save(folder).parent.name


@settings(deadline=None)
@given(NAMES, BACKEND_NAMES, HASHES, CYCLES, TIMES, st.sampled_from(["", "_1", "_217"]))
@example("m" * 200, "pytorch", "0123456789abcdef", 12_345, make.OPEN, "")
@example("", "b" * 200, "0123456789abcdef", 1, make.OPEN, "_1")
@example("old-deadbeef-c001-failed_2026-01-01t00-00-00z", "stub", "0123456789abcdef", 2, make.OPEN, "")
def test_hash_and_cycle_of_a_result_survive_every_experiments_name(
    experiment: str, backend: str, config_hash: str, cycle: int, start: datetime, suffix: str
) -> None:
    made = make.result(
        experiment=experiment, backend=backend, measurement_config_hash=config_hash, cycle=cycle, start_time=start
    )
    name = made.directory_name
    assert parse_directory_name(name + suffix) == DirectoryName(config_hash[:8], cycle, failed=False)
    assert len(name) <= files.MAX_NAME + len("_2026-03-01T12-00-00Z")


@settings(deadline=None, max_examples=50)
@given(NAMES, BACKEND_NAMES, HASHES, CYCLES)
def test_hash_and_cycle_of_a_failure_survive_every_experiments_name(
    tmp_path_factory: pytest.TempPathFactory, experiment: str, backend: str, config_hash: str, cycle: int
) -> None:
    folder = tmp_path_factory.mktemp("out")
    made = failure(experiment=experiment, backend=backend, measurement_config_hash=config_hash, cycle=cycle)
    expected = DirectoryName(config_hash[:8], cycle, failed=True)
    assert [parse_directory_name(written(folder, made)) for _ in range(2)] == [expected, expected]


def test_the_experiments_name_comes_first_and_the_models_name_stands_in_for_it(tmp_path: Path) -> None:
    assert make.result(experiment="Batch 8/4").directory_name.startswith("batch-8-4-pytorch-01234567-c001_")
    assert make.result(experiment=None).directory_name.startswith("builtin-tiny-llama-pytorch-")
    told = {"backend": "vllm", "measurement_config_hash": "ab" * 8, "cycle": 3}
    assert written(tmp_path, failure(experiment="Batch 8/4", **told)).startswith("batch-8-4-vllm-abababab-c003-failed_")
    assert written(tmp_path, failure(config={"model": "org/m"}, **told)).startswith("m-vllm-abababab-c003-failed_")


@pytest.mark.parametrize("experiment", ["base-deadbeef", "deadbeef", "-deadbeef-"])
def test_a_failure_without_a_hash_is_not_taken_for_one_with_the_end_of_its_name(
    tmp_path: Path, experiment: str
) -> None:
    assert parse_directory_name(written(tmp_path, failure(experiment=experiment, cycle=1))) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "raw",
        "study.json",
        ".attempts",
        "x-01234567-c001",
        "x-01234567-c001_2026-03-01",
        "x-01234567-c01_2026-03-01T12-00-00Z",
        "x-0123456g-c001_2026-03-01T12-00-00Z",
        "x-01234567-c001-lost_2026-03-01T12-00-00Z",
        "x-01234567-c001_2026-03-01T12-00-00Z_",
        "x-01234567-c001_2026-03-01T12-00-00Z_1_1",
        "x-01234567-c001_2026-03-01T12-00-00Z.zip",
        "x-01234567-c001_2026-03-01T12-00-00Z\n",
        "x-01234567-c00\u0661_2026-03-01T12-00-00Z",
        "x-01234567-c" + "1" * 5000 + "_2026-03-01T12-00-00Z",
    ],
)
def test_other_names_say_nothing(name: str) -> None:
    assert parse_directory_name(name) is None


@given(st.text(max_size=300))
def test_no_name_is_an_error(name: str) -> None:
    assert parse_directory_name(name) is None


def test_ten_thousand_names_are_read_in_a_moment() -> None:
    longest = make.result(experiment="a-" * 60).directory_name
    names = [longest.replace("c001", f"c{number:03d}") for number in range(5_000)] + ["-" * 250] * 5_000
    best_s = min(_seconds(names) for _ in range(5))
    assert best_s < 0.05


def _seconds(names: list[str]) -> float:
    begun_s = time.process_time()
    cycles = {parsed.cycle for name in names if (parsed := parse_directory_name(name)) is not None}
    spent_s = time.process_time() - begun_s
    assert len(cycles) == 5_000
    return spent_s
