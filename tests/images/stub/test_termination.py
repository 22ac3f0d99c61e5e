"""SIGTERM at every kind of moment."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from images.contract.job import ExitCode
from images.contract.result import ExperimentResult
from tests.images.stub.jobs import Job, start, stub


def wait_for_phase(job: Job, phase: str) -> None:
    """Until the job says it is in `phase`, or has ended."""
    deadline = time.monotonic() + 20
    progress = job.output / "progress.json"
    while time.monotonic() < deadline and job.process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if f'"phase": "{phase}' in progress.read_text():
                return
        time.sleep(0.005)
    if job.process.poll() is not None:
        return
    job.process.kill()
    pytest.fail(f"the job never reached {phase}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["load", "window"])
def test_a_job_that_can_be_interrupted_ends_at_once(tmp_path: Path, number: signal.Signals, when: str) -> None:
    job = start(tmp_path, stub(hang="interruptible", when=when))
    wait_for_phase(job, when)
    sent = time.monotonic()
    job.process.send_signal(number)
    ended = job.end()
    assert time.monotonic() - sent < 4.5
    assert ended.code == ExitCode.INTERRUPTED
    assert ended.failure.error_class == "Interrupted"
    assert "Traceback" not in ended.stderr


def test_a_call_that_never_returns_is_ended_after_five_seconds(tmp_path: Path) -> None:
    job = start(tmp_path, stub(hang="uninterruptible"))
    wait_for_phase(job, "window")
    time.sleep(0.3)  # into the hang itself
    sent = time.monotonic()
    job.process.send_signal(signal.SIGTERM)
    ended = job.end()
    assert 4.5 < time.monotonic() - sent < 15.0
    assert ended.code == ExitCode.INTERRUPTED
    assert ended.failure.error_class == "Interrupted"
    assert "did not return" in ended.failure.message
    assert "Traceback" not in ended.stderr


def test_a_second_signal_does_not_disturb_the_ending(tmp_path: Path) -> None:
    job = start(tmp_path, stub(hang="interruptible"))
    wait_for_phase(job, "window")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        job.process.send_signal(number)
    ended = job.end()
    assert ended.code == ExitCode.INTERRUPTED
    assert ended.failure.exit_code == ExitCode.INTERRUPTED
    assert "Traceback" not in ended.stderr


def test_a_signal_at_any_moment_leaves_a_result_or_a_failure_and_never_a_half(tmp_path: Path) -> None:
    moments = random.Random(1)

    def one(number: int) -> int:
        folder = tmp_path / str(number)
        folder.mkdir()
        job = start(folder, stub())
        if number % 3:
            wait_for_phase(job, "")  # most of a job's time is Python's start
        time.sleep(moments.uniform(0.0, 0.2))
        job.process.send_signal(signal.SIGTERM)
        ended = job.end()
        assert "Traceback" not in ended.stderr
        if ended.code == ExitCode.OK:
            assert ExperimentResult.from_json(ended.directory).output_tokens
        elif ended.code == -signal.SIGTERM:  # before there was a handler
            assert list(ended.output.iterdir()) == []
        else:
            assert ended.code == ExitCode.INTERRUPTED
            assert ended.failure.error_class == "Interrupted"
        return ended.code

    with ThreadPoolExecutor(3) as pool:
        codes = set(pool.map(one, range(30)))
    assert ExitCode.INTERRUPTED in codes
