"""What became of a job: its published directory, or a failure that says why there is none."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.job import ExitCode, JobContext
from runner.launchers import Ended, LaunchFailed, LaunchImpossible
from runner.layout import Attempt, Layout
from runner.studies.study import Job

Cause: TypeAlias = tuple[str, int, str, str]
"""Error class, exit code, message, advice."""
_SIGNALLED = range(129, 160)
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One try's end.

    Attributes:
        directory: where it stands in the output; None of a try that is not kept: it says nothing.
        failure: None if there is a result.
        impossible: no job of this launcher can be started.
    """

    job: Job
    directory: Path | None
    failure: JobFailure | None
    impossible: bool = False

    @property
    def exit_code(self) -> int:
        return 0 if self.failure is None else self.failure.exit_code


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why the runner ended the job: a timeout."""

    error_class: str
    message: str
    advice: str


def timed_out(after_s: float) -> GivenUp:
    return GivenUp(
        "TimedOut", f"no result after {after_s:g} s; the job was ended.", "Raise the timeout, or look at the log."
    )


def stalled(after_s: float, phase: str) -> GivenUp:
    message = f"nothing new for {after_s:g} s in phase {phase}; the job was ended."
    return GivenUp("Stalled", message, "Look at the log for a hang; raise the stall timeout if it was at work.")


def conclude(
    job: Job, context: JobContext, attempt: Attempt, ended: Ended, layout: Layout, given_up: GivenUp | None
) -> Outcome:
    """Publish what the job left, or write down why it left nothing.

    A whole result counts whatever the exit code: it was complete before anything else went wrong. A job that was
    killed from outside, and left nothing, is not kept: that says nothing about its experiment.
    """
    left = attempt.finished_directory()
    if left is not None and (left / files.RESULT_FILE).is_file():
        return Outcome(job, publish_result(attempt, left, layout), None)
    failure = _failure(job, context, left, ended, given_up)
    if failure.exit_code == ExitCode.INTERRUPTED:
        return Outcome(job, None, failure)
    if left is not None:
        files.write_atomic(left / files.FAILURE_FILE, failure.model_dump_json(indent=1))
        return Outcome(job, layout.publish(left), failure)
    return Outcome(job, publish_failure(failure, attempt, layout), failure)


def unstarted(job: Job, context: JobContext, attempt: Attempt, error: LaunchFailed, layout: Layout) -> Outcome:
    """Publish the failure of a job that could not be started."""
    cause = (type(error).__name__, int(error.exit_code), error.message, error.advice)
    failure = written_down(job, context, cause, [], None)
    return Outcome(job, publish_failure(failure, attempt, layout), failure, isinstance(error, LaunchImpossible))


def keep_failure(outcome: Outcome, layout: Layout) -> Outcome:
    """Publish a failure that was not worth keeping for itself: it has come too often."""
    assert outcome.failure is not None
    return replace(outcome, directory=outcome.failure.save(layout.output).parent)


def publish_failure(failure: JobFailure, attempt: Attempt, layout: Layout) -> Path:
    """As one new directory of the output."""
    return layout.publish(failure.save(attempt.folder).parent)


def publish_result(attempt: Attempt, directory: Path, layout: Layout) -> Path:
    """With those who ran beside it, whom only the runner saw, written into it first.

    A result that cannot be read is published as it is: ingest will say what is wrong with it.
    """
    for unfinished in directory.glob(".*"):  # of a runner that was killed here
        unfinished.unlink(missing_ok=True)
    neighbours = attempt.load_neighbours()
    file = directory / files.RESULT_FILE
    if neighbours is not None and file.exists():
        with suppress(files.UnreadableResult):
            document = files.read_json(file)
            document["scheduling"] = {**(document.get("scheduling") or {}), "neighbours": neighbours}
            files.write_atomic(file, json.dumps(document, indent=1, ensure_ascii=False), synced=True)
    return layout.publish(directory)


def _failure(job: Job, context: JobContext, left: Path | None, ended: Ended, given_up: GivenUp | None) -> JobFailure:
    own = _own_account(left)
    cause = _cause(ended, given_up)
    if own is not None and given_up is None:
        cause = (own.error_class, own.exit_code, own.message, own.advice)
    log_tail = ended.log_tail or (own.log_tail if own is not None else [])
    return written_down(job, context, cause, log_tail, own.experiment_id if own is not None else None)


def written_down(
    job: Job,
    context: JobContext,
    cause: Cause,
    log_tail: list[str],
    experiment_id: str | None,
    ended: datetime | None = None,
) -> JobFailure:
    """The failure of a job that could not say it itself.

    Args:
        ended: when; None is now.
    """
    now = ended or datetime.now(UTC)
    error_class, exit_code, message, advice = cause
    return JobFailure(
        experiment_id=experiment_id or files.new_experiment_id(now),
        backend=job.config.backend,
        measurement_config_hash=job.config_hash,
        config=job.config.model_dump(mode="json"),
        study=job.study,
        experiment=context.experiment,
        cycle=job.cycle,
        attempt=context.attempt,
        error_class=error_class,
        exit_code=exit_code,
        message=message,
        advice=advice,
        log_tail=log_tail,
        time=now,
    )


def _own_account(left: Path | None) -> JobFailure | None:
    """failure.json as the job wrote it; None if it did not, or not readably."""
    if left is None:
        return None
    try:
        return JobFailure.from_json(left)
    except ValueError:
        return None


def _cause(ended: Ended, given_up: GivenUp | None) -> Cause:
    """Class, exit code, message and advice for a job that could not say it itself."""
    code = ended.exit_code
    if ended.oom_killed:
        advice = "Lower batch_size or the workload's token limits, or raise the memory limit."
        return "OutOfMemory", int(ExitCode.OUT_OF_MEMORY), "the job was killed for using too much memory.", advice
    if given_up is not None:
        return given_up.error_class, int(ExitCode.MEASUREMENT_FAILED), given_up.message, given_up.advice
    if code - 128 in _FROM_OUTSIDE:
        message = f"the job was killed from outside (signal {code - 128})."
        return "Killed", int(ExitCode.INTERRUPTED), message, "Run it again; if it was memory, lower batch_size."
    if code in _SIGNALLED:
        message = f"the job crashed (signal {code - 128}, {signal.strsignal(code - 128)})."
        return "Crashed", int(ExitCode.BUG), message, "Look at the log below."
    known = {int(exit_code) for exit_code in ExitCode} - {0}
    message = f"the job ended with exit code {code} and left neither a result nor a failure.json."
    return "Unexplained", code if code in known else int(ExitCode.BUG), message, "Look at the log below."
