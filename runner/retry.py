"""What is done about a failure, by the class of its exit code."""

from __future__ import annotations

from enum import Enum, auto

from images.contract.job import ExitCode
from runner.outcome import Outcome
from runner.studies.settings import Retries

MOST_KILLS = 10
"""Kills from outside do not count as failures; but what is killed this often is not killed by chance."""


class Response(Enum):
    """What to do after a failed try.

    Attributes:
        AGAIN: try the cycle again.
        GIVE_UP: leave this cycle.
        SET_EXPERIMENT_ASIDE: leave all of its cycles, because each would fail in the same way.
        SET_GPUS_ASIDE: try again, on other GPUs.
        STOP: leave the study, because every job would fail in the same way.
    """

    AGAIN = auto()
    GIVE_UP = auto()
    SET_EXPERIMENT_ASIDE = auto()
    SET_GPUS_ASIDE = auto()
    STOP = auto()


_DETERMINED = {
    ExitCode.USAGE,
    ExitCode.CONFIG_INVALID,
    ExitCode.MODEL_UNAVAILABLE,  # models are downloaded before any job starts
    ExitCode.OUT_OF_MEMORY,
}


def is_kill(outcome: Outcome) -> bool:
    """Whether somebody outside ended the job: that says nothing about the experiment."""
    return outcome.exit_code == ExitCode.INTERRUPTED


def is_determined(outcome: Outcome) -> bool:
    """Whether the experiment's other cycles would end in the same way."""
    return outcome.exit_code in _DETERMINED


def respond(outcome: Outcome, retries: Retries, tries: int, kills: int, *, undisturbed: bool = True) -> Response:
    """
    Args:
        outcome: a failure.
        tries: at this cycle that failed on their own, this one included.
        kills: at this cycle from outside, this one included.
        undisturbed: the GPUs were the job's own: nobody else's memory was in use on them.
    """
    assert outcome.failure is not None
    if is_kill(outcome):
        return Response.AGAIN if kills < MOST_KILLS else Response.GIVE_UP
    if is_determined(outcome) and (undisturbed or outcome.exit_code != ExitCode.OUT_OF_MEMORY):
        return Response.SET_EXPERIMENT_ASIDE
    if outcome.impossible:
        return Response.STOP
    if tries <= retries.limit:
        return Response.AGAIN
    return Response.SET_GPUS_ASIDE if outcome.exit_code == ExitCode.GPU_UNUSABLE else Response.GIVE_UP


def pause_s(retries: Retries, tries: int) -> float:
    """Seconds before the next try: doubled each time, up to the longest."""
    return min(retries.backoff_s * 2.0 ** max(tries - 1, 0), retries.max_backoff_s)


class Breaker:
    """Ends a study in which every try fails. Not a lock in itself: its caller holds one."""

    def __init__(self, stop_after: int | None) -> None:
        self._stop_after = stop_after
        self._in_a_row = 0

    def note(self, outcome: Outcome) -> bool:
        """Whether the study should end now.

        Kills from outside say nothing, and an experiment that cannot work is set aside and costs no more tries.
        """
        is_chance = is_kill(outcome) and outcome.directory is None
        if not is_chance and not is_determined(outcome):
            self._in_a_row = 0 if outcome.failure is None else self._in_a_row + 1
        return self._stop_after is not None and self._in_a_row >= self._stop_after
