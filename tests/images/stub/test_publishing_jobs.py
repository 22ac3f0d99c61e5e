"""Jobs that publish by themselves, as in a cluster, where no runner shares a disk with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images.contract import files
from images.contract.config import parse_config
from images.contract.failure import JobFailure
from images.contract.job import ENV_JOB, ENV_NODE, ENV_POD, ExitCode
from images.contract.leftover import load_leftover
from images.contract.publication import LastWord, said_key
from images.contract.report import JobReport
from images.contract.result import ExperimentResult
from tests.images.stub.jobs import Ended, run, start, stub
from tests.images.stub.simulated import Machine, on_gpus, ranks_of
from tests.images.stub.test_termination import wait_for_phase

BLOCK: dict[str, Any] = {
    "study": "study",
    "cycle": 2,
    "scheduling": {"placement": "block", "order": "shuffled", "seed": 42},
}
JOB = "0f6e4a1c-uid"
TWO_PROCESSES = on_gpus({"n_prompts": 4, "max_output_tokens": 4}, num_processes=2, stub={"window_s": 1.5})


@dataclass(frozen=True)
class Cluster:
    """A place, and pods that try one cycle after another."""

    folder: Path

    @property
    def place(self) -> Path:
        return self.folder / "place"

    def pod(self, name: str, document: dict[str, Any], *arguments: str) -> tuple[Ended, JobReport | None]:
        own = self.folder / name
        own.mkdir()
        ended = run(own, document, *self.arguments(own, *arguments), env=environment(name))
        return ended, self.report(name)

    def arguments(self, own: Path, *arguments: str) -> list[str]:
        context = own / "context.json"
        context.write_text(json.dumps(BLOCK))
        (own / "report").touch()
        given = ["--context", str(context), "--publish", str(self.place), "--report", str(own / "report")]
        return [*given, *arguments]

    def report(self, name: str) -> JobReport | None:
        return JobReport.parse((self.folder / name / "report").read_text())

    def said(self, pod: str, document: dict[str, Any]) -> LastWord | None:
        """What a failed try left beside its mark."""
        path = self.place / said_key(parse_config(document).measurement_config_hash(), BLOCK["cycle"], JOB, pod)
        return LastWord.parse(path.read_bytes()) if path.exists() else None

    def published(self) -> list[Path]:
        """Directories in the place, results and failures."""
        return sorted(path for path in self.place.iterdir() if not path.name.startswith("."))

    def tries(self) -> int:
        return len(list(self.place.glob(".begun/*/*/*")))

    def tells(self, pod: str, document: dict[str, Any]) -> JobFailure:
        """The one failure in the place, which report and mark of the pod name."""
        (directory,) = self.published()
        report = self.report(pod)
        assert report is not None
        assert (report.outcome, report.directory) == ("failure", directory.name)
        assert self.said(pod, document) == LastWord(directory=directory.name, exit_code=report.exit_code)
        return JobFailure.from_json(directory)


def environment(pod: str) -> dict[str, str]:
    return {ENV_POD: pod, ENV_NODE: "node-7", ENV_JOB: JOB}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_a_result_is_published_with_what_only_the_pod_knows_and_a_second_try_measures_nothing(cluster: Cluster) -> None:
    first, said = cluster.pod("pod-a", stub())
    assert first.code == 0, first.stderr
    (directory,) = cluster.published()
    result = ExperimentResult.from_json(directory)
    assert said == JobReport(outcome="result", experiment_id=result.experiment_id, directory=directory.name)
    assert result.environment_snapshot is not None
    assert (result.environment_snapshot.node, result.environment_snapshot.pod) == ("node-7", "pod-a")
    assert (result.block, result.attempt, result.cycle) == ("c002-cpu", 1, 2)

    second, said = cluster.pod("pod-b", stub())
    assert second.code == 0
    assert said is not None
    assert (said.outcome, said.experiment_id) == ("earlier", result.experiment_id)
    assert "window" not in second.stderr
    assert cluster.published() == [directory]


@pytest.mark.parametrize(
    ("fail", "arguments", "code"),
    [
        ("out_of_memory", ["--keep-going"], 0),
        ("bug", ["--keep-going"], 0),
        ("out_of_memory", [], ExitCode.OUT_OF_MEMORY),
        ("gpu_unusable", ["--keep-going"], ExitCode.GPU_UNUSABLE),
    ],
)
def test_a_failure_is_published_and_ends_a_block_only_where_the_next_job_would_meet_it(
    cluster: Cluster, fail: str, arguments: list[str], code: int
) -> None:
    ended, said = cluster.pod("pod-a", stub(fail=fail), *arguments)
    assert ended.code == code
    failure = cluster.tells("pod-a", stub(fail=fail))
    assert said is not None
    assert said.message == failure.message
    assert said.exit_code == failure.exit_code != 0


def test_a_failure_that_cannot_be_published_has_a_mark_that_names_nothing(cluster: Cluster) -> None:
    cluster.place.mkdir()
    (cluster.place / ".uploads").write_text("")
    document = stub(fail="out_of_memory")
    ended, said = cluster.pod("pod-a", document, "--keep-going")
    assert ended.code == ExitCode.OUT_OF_MEMORY
    assert said is not None
    assert (said.directory, said.message) == (None, "the stub was told to run out of memory.")
    assert cluster.said("pod-a", document) == LastWord(exit_code=ExitCode.OUT_OF_MEMORY)
    assert cluster.published() == []


def test_a_try_that_is_ended_from_outside_says_nothing_about_its_cycle(cluster: Cluster) -> None:
    own = cluster.folder / "pod-a"
    own.mkdir()
    job = start(own, stub(window_s=30.0), *cluster.arguments(own, "--keep-going"), env=environment("pod-a"))
    give_up_s = time.monotonic() + 30.0
    while not list(cluster.place.glob(".begun/*/*/*")) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.end().code == ExitCode.INTERRUPTED
    said = cluster.report("pod-a")
    assert said is not None
    assert said.outcome == "interrupted"
    assert (cluster.published(), cluster.tries()) == ([], 0)


def test_a_job_that_is_killed_again_and_again_without_a_word_becomes_a_failure(cluster: Cluster) -> None:
    arguments = ["--keep-going", "--tries", "2"]
    for name in ("pod-a", "pod-b"):
        ended, said = cluster.pod(name, stub(fail="killed"), *arguments)
        assert (ended.code, said) == (-signal.SIGKILL, None)
    ended, said = cluster.pod("pod-c", stub(fail="killed"), *arguments)
    assert ended.code == 0, "the block goes on"
    (directory,) = cluster.published()
    assert "2 tries at this cycle ended without a word" in JobFailure.from_json(directory).message
    assert said is not None
    assert said.exit_code == ExitCode.MEASUREMENT_FAILED


def test_a_block_that_is_tried_again_does_not_measure_again_what_failed_in_it(cluster: Cluster) -> None:
    document = stub(fail="out_of_memory")
    ended, first = cluster.pod("pod-a", document, "--keep-going", "--tries", "3")
    again, second = cluster.pod("pod-b", document, "--keep-going", "--tries", "3")
    assert (ended.code, again.code) == (0, 0)
    assert first is not None
    assert second is not None
    assert (second.outcome, second.directory, second.exit_code) == ("failure", first.directory, first.exit_code)
    assert len(cluster.published()) == 1
    alone, _ = cluster.pod("pod-c", document, "--tries", "3")
    assert alone.code == ExitCode.OUT_OF_MEMORY
    assert len(cluster.published()) == 2, "without a block its Job has asked for another try"


def test_a_gpu_that_stays_broken_ends_the_job_after_as_many_tries(cluster: Cluster) -> None:
    arguments = ["--keep-going", "--tries", "2"]
    codes = [cluster.pod(f"pod-{name}", stub(fail="gpu_unusable"), *arguments)[0].code for name in "abc"]
    assert codes == [ExitCode.GPU_UNUSABLE, ExitCode.GPU_UNUSABLE, ExitCode.USAGE]
    report = cluster.report("pod-c")
    assert report is not None
    assert report.message == "2 tries at this cycle found their GPUs unusable."


def test_a_place_that_cannot_be_used_is_told_before_anything_is_measured(cluster: Cluster) -> None:
    cluster.place.write_text("")
    ended, said = cluster.pod("pod-a", stub(), "--keep-going")
    assert ended.code == ExitCode.USAGE
    assert said is not None
    assert "cannot be written by uid" in said.message
    assert "phase: load" not in ended.stderr


def test_what_single_processes_left_is_published_with_their_failure(cluster: Cluster, machine: Machine) -> None:
    ended = with_a_killed_process(cluster, machine)
    assert ended.code == 0, ended.stderr
    (folder,) = (cluster.place / files.RAW_FOLDER).iterdir()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept == {path.name: path.read_bytes() for path in ended.output.glob(f"raw/{folder.name}/*")}
    leftover = load_leftover(folder)
    assert (leftover.report().missing, len(leftover.data)) == ([1], 1)
    shutil.rmtree(folder.parent)
    assert cluster.tells("pod-a", TWO_PROCESSES).experiment_id == leftover.experiment_id
    assert not list(cluster.place.glob(".uploads/*"))


def test_where_it_cannot_be_published_the_failure_counts_all_the_same(cluster: Cluster, machine: Machine) -> None:
    cluster.place.mkdir()
    (cluster.place / files.RAW_FOLDER).write_text("")
    ended = with_a_killed_process(cluster, machine)
    assert ended.code == 0, ended.stderr
    assert " WARNING what single processes measured could not be published: " in ended.stderr
    (cluster.place / files.RAW_FOLDER).unlink()
    assert cluster.tells("pod-a", TWO_PROCESSES).exit_code == ExitCode.INCOMPLETE_PROCESSES


def with_a_killed_process(cluster: Cluster, machine: Machine) -> Ended:
    """A job of two processes of which the second is killed in mid-window."""
    own = cluster.folder / "pod-a"
    own.mkdir()
    variables = {**machine.environment(), **environment("pod-a")}
    job = start(own, TWO_PROCESSES, *cluster.arguments(own, "--keep-going"), env=variables)
    wait_for_phase(job, "window")
    time.sleep(0.5)
    ranks_of(own)[1].kill()
    return job.end()
