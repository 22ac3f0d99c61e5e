"""One of several processes dies, fails, hangs or is left alone: one clear end, and nothing measured is thrown away."""

from __future__ import annotations

import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images.contract import files
from images.contract.aggregation import validate_process_completeness
from images.contract.config import ExperimentConfig
from images.contract.failure import JobFailure
from images.contract.job import ExitCode, JobContext
from images.contract.process import ProcessData, load_processes
from tests.images.stub.jobs import Ended, Job
from tests.images.stub.simulated import Machine, on_gpus, ranks_of, wait_until, watts_of
from tests.images.stub.test_termination import wait_for_phase

pytestmark = pytest.mark.xdist_group("rank_failures")
FOUR = {"n_prompts": 4, "max_output_tokens": 4}


@pytest.fixture(autouse=True)
def _no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = ranks_of(tmp_path)
    for process in left.values():
        process.kill()
    assert left == {}


@pytest.fixture(scope="module")
def killed(shared_machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A job whose second process is killed in mid-window."""
    job = shared_machine.start(tmp_path_factory.mktemp("killed"), _two(window_s=1.5))
    wait_for_phase(job, "window")
    time.sleep(1.0)
    ranks_of(job.output)[1].kill()
    return job.end()


def _two(measurement: dict[str, Any] | None = None, **stub: Any) -> dict[str, Any]:
    return on_gpus(FOUR, num_processes=2, measurement=measurement or {}, stub=stub)


def _failure(ended: Ended) -> JobFailure:
    (path,) = ended.output.glob(f"*/{files.FAILURE_FILE}")
    return JobFailure.from_json(path)


def _raw(ended: Ended) -> Path:
    (folder,) = (ended.output / files.RAW_FOLDER).iterdir()
    return folder


def _raw_results(data: list[ProcessData]) -> list[Any]:
    return [one.record.raw for one in data]


def test_a_process_killed_in_mid_window_fails_the_job_in_one_line_and_leaves_what_the_others_measured(
    killed: Ended,
) -> None:
    failure = _failure(killed)

    assert killed.code == failure.exit_code == ExitCode.INCOMPLETE_PROCESSES
    (line,) = killed.errors
    assert "process 1 was killed by SIGKILL." in line
    assert {path.name for path in killed.output.iterdir()} == {files.RAW_FOLDER, _directory_of(killed).name}
    folder = _raw(killed)
    assert folder.name == failure.experiment_id
    assert f"kept in {folder}" in killed.stderr
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "context.json", "facts.json", "plan.json"),
        *("process_0.json", "requests_0.parquet", "samples_0.parquet", ".completed_0"),
    }


def test_what_a_survivor_left_needs_nothing_else_to_be_aggregated(killed: Ended, shared_machine: Machine) -> None:
    folder = _raw(killed)
    (survivor,) = load_processes(folder)

    raw = survivor.record.raw
    uuids = [gpu.uuid for gpu in shared_machine.node.gpus[:2]]
    assert (raw.process_index, raw.gpu_uuids) == (0, uuids[:1])
    energy_j = raw.energy_metrics.total_energy_joules
    assert energy_j == pytest.approx(watts_of(0) * survivor.record.window_s, rel=0.015)
    assert survivor.requests.num_rows == 2
    assert survivor.samples is not None
    assert survivor.samples.num_rows >= 8
    config = ExperimentConfig.model_validate(files.read_json(folder / "config.json"))
    assert config == ExperimentConfig.model_validate(_two(window_s=1.5))
    assert JobContext.model_validate(files.read_json(folder / "context.json")).gpu_uuids == uuids


def test_each_of_the_four_checks_of_completeness_finds_its_fault(killed: Ended, tmp_path: Path) -> None:
    folder = tmp_path / files.RAW_FOLDER / _raw(killed).name
    shutil.copytree(_raw(killed), folder)
    found = _raw_results(load_processes(folder))
    twin = found[0].model_copy(update={"process_index": 1})

    def check(raw: list[Any], expected: int = 2, where: Path = folder) -> tuple[bool, int, list[int], list[int], Any]:
        report = validate_process_completeness(folder.name, raw, expected, where)
        assert report.expected == expected
        return report.is_complete, report.found, report.missing, report.duplicates, report.missing_markers

    assert check(found) == (False, 1, [1], [], [1])
    assert check(found, where=tmp_path) == (False, 1, [1], [], [1]), "by the folder above raw/ too"
    assert check([*found, *found]) == (False, 2, [1], [0], [1])
    assert check([*found, twin]) == (False, 2, [], [], [1])
    (folder / ".completed_1").touch()
    assert check([*found, twin]) == (True, 2, [], [], [])
    assert check([*found, twin, twin]) == (False, 3, [], [1], [])
    assert check([*found, twin], expected=1)[0] is False
    assert check([found[0], twin.model_copy(update={"process_index": 2})]) == (False, 2, [1], [], [])


def test_a_process_that_runs_out_of_memory_while_loading_ends_the_job_at_once_with_its_own_code(
    machine: Machine, tmp_path: Path
) -> None:
    begun = time.monotonic()
    ended = machine.start(tmp_path / "job", _two(fail="out_of_memory", when="load", rank=1, load_s=60.0)).end()

    assert time.monotonic() - begun < 20, "the other process, which loads for a minute, is not waited for"
    assert ended.code == ended.failure.exit_code == ExitCode.OUT_OF_MEMORY
    (line,) = ended.errors
    assert "process 1: the stub was told to run out of memory. Set stub.fail: none." in line


def test_a_process_with_a_bug_is_named_and_its_traceback_is_in_the_log(machine: Machine, tmp_path: Path) -> None:
    ended = machine.start(tmp_path / "job", _two(fail="bug", when="warm_up", rank=0)).end()

    assert ended.code == ended.failure.exit_code == ExitCode.INCOMPLETE_PROCESSES
    assert "process 0 ended with exit code 1 in mid-work." in ended.failure.message
    assert "RuntimeError: the stub was told to have a bug" in ended.stderr


@pytest.mark.parametrize(("hang", "when"), [("interruptible", "window"), ("uninterruptible", "load")])
def test_sigterm_ends_all_processes_within_five_seconds_also_one_that_hangs(
    machine: Machine, tmp_path: Path, hang: str, when: str
) -> None:
    job = machine.start(tmp_path / "job", _two(hang=hang, when=when, rank=1, window_s=0.2))
    _until_it_hangs(job, when)
    sent = time.monotonic()
    job.process.terminate()
    ended = job.end()

    assert time.monotonic() - sent < 5.5
    assert ended.code == ExitCode.INTERRUPTED
    assert _failure(ended).error_class == "Interrupted"
    assert "Traceback" not in ended.stderr
    wait_until(lambda: not ranks_of(tmp_path), 1.0)


@pytest.mark.parametrize("moment", ["start", "window"])
def test_processes_end_by_themselves_when_the_coordinator_is_killed(
    machine: Machine, tmp_path: Path, moment: str
) -> None:
    when = "load" if moment == "start" else moment
    job = machine.start(tmp_path / "job", _two(hang="uninterruptible", when=when))
    if moment == "start":
        wait_until(lambda: len(ranks_of(tmp_path)) == 2)
    else:
        _until_it_hangs(job, when)
    job.process.kill()
    ended = job.end()

    assert ended.code == -signal.SIGKILL
    wait_until(lambda: not ranks_of(tmp_path), 5.0)
    assert "Traceback" not in ended.stderr


def test_a_process_that_dies_after_it_has_written_costs_nothing(machine: Machine, tmp_path: Path) -> None:
    job = machine.start(tmp_path / "job", _two({"baseline": {"seconds": 1.0}}, window_s=0.2))
    wait_until(lambda: len(list(job.output.glob(".raw-*/.completed_*"))) == 2)
    ranks_of(tmp_path)[1].kill()
    ended = job.end()

    assert ended.code == 0, ended.stderr
    assert (ended.directory / files.RESULT_FILE).is_file()


def test_results_of_processes_that_cannot_be_written_are_no_bug(machine: Machine, tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    document = on_gpus({"n_prompts": 400}, num_processes=2)
    ended = machine.start(tmp_path / "job", document, preexec_fn=no_large_files).end()

    assert ended.code == ExitCode.MEASUREMENT_FAILED
    assert "its result cannot be written" in ended.failure.message
    assert "Traceback" not in ended.stderr


def test_whole_raw_results_stay_when_the_result_made_of_them_cannot_be_written(
    machine: Machine, tmp_path: Path
) -> None:
    def room_for_each_half() -> None:  # a process's largest file has 12.9 kB, the result's have 14.6 and 16.2
        resource.setrlimit(resource.RLIMIT_FSIZE, (13_700, 13_700))

    document = on_gpus({"n_prompts": 400, "max_output_tokens": 2}, num_processes=2, measurement={"energy": "none"})
    ended = machine.start(tmp_path / "job", document, preexec_fn=room_for_each_half).end()

    assert ended.code == ExitCode.MEASUREMENT_FAILED
    assert "the result cannot be written to" in _failure(ended).message
    assert [one.record.raw.process_index for one in load_processes(_raw(ended))] == [0, 1]


def _directory_of(ended: Ended) -> Path:
    (path,) = ended.output.glob(f"*/{files.FAILURE_FILE}")
    return path.parent


def _until_it_hangs(job: Job, when: str) -> None:
    """Both processes are there and the phase is the one in which they hang."""
    wait_for_phase(job, when)
    wait_until(lambda: len(ranks_of(job.output)) == 2)
    time.sleep(1.0)
    assert job.process.poll() is None
