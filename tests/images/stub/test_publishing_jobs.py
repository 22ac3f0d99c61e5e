"""Jobs that publish by themselves, as in a cluster, where no runner shares a disk with them."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images.contract.failure import JobFailure
from images.contract.job import ENV_NODE, ENV_POD, ExitCode
from images.contract.report import JobReport
from images.contract.result import ExperimentResult
from tests.images.stub.jobs import Ended, run, start, stub

BLOCK = {"study": "study", "cycle": 2, "scheduling": {"placement": "block", "order": "shuffled", "seed": 42}}


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

    def published(self) -> list[Path]:
        """Directories in the place, results and failures."""
        return sorted(path for path in self.place.iterdir() if not path.name.startswith("."))

    def tries(self) -> int:
        return len(list(self.place.glob(".begun/*/*")))


def environment(pod: str) -> dict[str, str]:
    return {ENV_POD: pod, ENV_NODE: "node-7"}


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
    (directory,) = cluster.published()
    failure = JobFailure.from_json(directory)
    assert said is not None
    assert (said.outcome, said.directory, said.message) == ("failure", directory.name, failure.message)
    assert said.exit_code == failure.exit_code != 0


def test_a_try_that_is_ended_from_outside_says_nothing_about_its_cycle(cluster: Cluster) -> None:
    own = cluster.folder / "pod-a"
    own.mkdir()
    job = start(own, stub(window_s=30.0), *cluster.arguments(own, "--keep-going"), env=environment("pod-a"))
    give_up_s = time.monotonic() + 30.0
    while not list(cluster.place.glob(".begun/*/*")) and time.monotonic() < give_up_s:
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


def test_a_place_that_cannot_be_used_is_told_before_anything_is_measured(cluster: Cluster) -> None:
    cluster.place.write_text("")
    ended, said = cluster.pod("pod-a", stub(), "--keep-going")
    assert ended.code == ExitCode.USAGE
    assert said is not None
    assert "cannot be written by uid" in said.message
    assert "phase: load" not in ended.stderr
