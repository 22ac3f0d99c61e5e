"""A job that is not measured by its deadline ends itself, as a failure like any other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from images.contract.failure import JobFailure
from images.contract.job import ExitCode
from tests.images.stub.jobs import run, start, stub
from tests.images.stub.simulated import Machine, on_gpus, ranks_of, wait_until
from tests.images.stub.test_publishing_jobs import Cluster, environment
from tests.images.stub.test_termination import wait_for_phase

pytestmark = pytest.mark.xdist_group("deadline")
GRACE_S = 5.0


def check_timed_out(failure: JobFailure, seconds: float) -> None:
    assert (failure.error_class, failure.exit_code) == ("TimedOut", ExitCode.MEASUREMENT_FAILED)
    assert failure.message == f"no result after {seconds:g} s; the job was ended."


@pytest.mark.parametrize("when", ["load", "window"])
def test_a_job_that_hangs_ends_as_one_that_failed(tmp_path: Path, when: str) -> None:
    began = time.monotonic()
    ended = run(tmp_path, stub(hang="interruptible", when=when), "--deadline", "3")
    assert 3.0 < time.monotonic() - began < 3.0 + GRACE_S, "at once, and not after its grace"
    assert ended.code == ExitCode.MEASUREMENT_FAILED
    check_timed_out(ended.failure, 3)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("hang", ["interruptible", "uninterruptible"])
def test_in_a_block_its_failure_is_published_and_the_next_job_runs(tmp_path: Path, hang: str) -> None:
    cluster = Cluster(tmp_path)
    document = stub(hang=hang)
    ended, _ = cluster.pod("pod-a", document, "--keep-going", "--deadline", "5")
    assert ended.code == 0, ended.stderr
    failure = cluster.tells("pod-a", document)
    check_timed_out(failure, 5)
    assert any("phase: window" in line for line in failure.log_tail)
    assert cluster.pod("pod-b", stub(), "--keep-going", "--deadline", "60")[0].code == 0


def test_a_measured_job_is_not_ended_however_long_its_publishing_takes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    own = tmp_path / "pod-a"
    own.mkdir()
    arguments = cluster.arguments(own, "--keep-going", "--deadline", "6")
    (own / "report").unlink()
    os.mkfifo(own / "report")  # whoever writes it waits for a reader
    began = time.monotonic()
    job = start(own, stub(), *arguments, env=environment("pod-a"))
    wait_until(lambda: list(cluster.place.glob("*/result.json")), 6.0)

    time.sleep(began + 6.0 + GRACE_S + 2.0 - time.monotonic())

    said = cluster.report("pod-a")
    assert job.end().code == 0
    (directory,) = cluster.published()
    assert said is not None
    assert (said.outcome, said.directory) == ("result", directory.name)


@pytest.mark.parametrize("hang", ["interruptible", "uninterruptible"])
def test_none_of_several_processes_outlives_the_job(machine: Machine, tmp_path: Path, hang: str) -> None:
    document = on_gpus(num_processes=2, stub={"hang": hang, "rank": 1})
    job = start(tmp_path, document, "--deadline", "6", env=machine.environment())
    wait_for_phase(job, "window")
    assert len(ranks_of(tmp_path)) == 2
    ended = job.end()
    assert ended.code == ExitCode.MEASUREMENT_FAILED
    check_timed_out(ended.failure, 6)
    wait_until(lambda: not ranks_of(tmp_path), 1.0)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_what_is_no_time_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    ended = run(tmp_path, stub(), "--deadline", text)
    assert ended.code == ExitCode.USAGE
    assert ended.stderr.splitlines()[-1].endswith(
        f"error: argument --deadline: '{text}' is not a number of seconds above 0"
    )
    assert list(ended.output.iterdir()) == []
