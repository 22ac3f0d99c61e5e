"""What is tried again, what is not, and when a study gives up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from images.contract.failure import JobFailure
from images.contract.job import ExitCode
from runner.outcome import Outcome
from runner.retry import MOST_KILLS, Breaker, Response, pause_s, respond
from runner.studies.settings import Retries
from runner.studies.study import Job
from tests.runner.sample_studies import experiment

RETRIES = Retries(limit=2, backoff_s=5.0, max_backoff_s=30.0)


def failed(code: int, *, impossible: bool = False) -> Outcome:
    failure = JobFailure(
        experiment_id="e", error_class="X", exit_code=code, message="m", time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return Outcome(Job("s", experiment("a"), 1), Path(), failure, impossible)


SUCCESS = Outcome(Job("s", experiment("a"), 1), Path(), None)


@pytest.mark.parametrize(
    ("code", "tries", "expected"),
    [
        (ExitCode.MEASUREMENT_FAILED, 1, Response.AGAIN),
        (ExitCode.MEASUREMENT_FAILED, 2, Response.AGAIN),
        (ExitCode.MEASUREMENT_FAILED, 3, Response.GIVE_UP),
        (ExitCode.BUG, 1, Response.AGAIN),
        (ExitCode.INCOMPLETE_PROCESSES, 3, Response.GIVE_UP),
        (ExitCode.LAUNCHER, 1, Response.AGAIN),
        (ExitCode.GPU_UNUSABLE, 2, Response.AGAIN),
        (ExitCode.GPU_UNUSABLE, 3, Response.SET_GPUS_ASIDE),
        (ExitCode.CONFIG_INVALID, 1, Response.SET_EXPERIMENT_ASIDE),
        (ExitCode.OUT_OF_MEMORY, 1, Response.SET_EXPERIMENT_ASIDE),
        (ExitCode.MODEL_UNAVAILABLE, 1, Response.SET_EXPERIMENT_ASIDE),
    ],
)
def test_memory_and_configuration_are_never_tried_again_and_the_rest_is(
    code: ExitCode, tries: int, expected: Response
) -> None:
    assert respond(failed(code), RETRIES, tries, kills=0) is expected


def test_memory_that_ran_out_beside_somebody_else_says_nothing_about_the_experiment() -> None:
    out_of_memory = failed(ExitCode.OUT_OF_MEMORY)
    assert respond(out_of_memory, RETRIES, 1, 0, undisturbed=False) is Response.AGAIN
    assert respond(failed(ExitCode.CONFIG_INVALID), RETRIES, 1, 0, undisturbed=False) is Response.SET_EXPERIMENT_ASIDE


def test_a_launcher_that_can_start_nothing_ends_the_study() -> None:
    assert respond(failed(ExitCode.LAUNCHER, impossible=True), RETRIES, 1, 0) is Response.STOP


def test_kills_from_outside_do_not_count_as_tries_but_not_for_ever() -> None:
    killed = failed(ExitCode.INTERRUPTED)
    assert respond(killed, Retries(limit=0), tries=0, kills=MOST_KILLS - 1) is Response.AGAIN
    assert respond(killed, RETRIES, tries=0, kills=MOST_KILLS) is Response.GIVE_UP


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause_s(RETRIES, tries) for tries in (1, 2, 3, 4, 5)] == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_only_failures_in_a_row_break_the_circuit() -> None:
    breaker = Breaker(3)
    bad, too_large = failed(ExitCode.MEASUREMENT_FAILED), failed(ExitCode.OUT_OF_MEMORY)
    killed = replace(failed(ExitCode.INTERRUPTED), directory=None)
    row = (bad, bad, SUCCESS, bad, killed, too_large, bad, bad)
    assert [breaker.note(one) for one in row] == [False] * 7 + [True]
    assert not any(Breaker(None).note(bad) for _ in range(100))
