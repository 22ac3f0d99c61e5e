"""What became of a job: its published directory, or a failure that says why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.job import ExitCode, JobContext
from runner.launchers import Ended, LaunchFailed
from runner.layout import Attempt, Layout
from runner.study import Job

Cause: TypeAlias = tuple[str, int, str, str]
"""Error class, exit code, message, advice."""
_SIGNALLED = range(129, 160)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job's end; exactly one directory stands in the output."""

    job: Job
    directory: Path
    failure: JobFailure | None

    @property
    def exit_code(self) -> int:
        return 0 if self.failure is None else self.failure.exit_code


def conclude(
    job: Job, context: JobContext, attempt: Attempt, ended: Ended, layout: Layout, timed_out_after_s: float | None
) -> Outcome:
    """Publish what the job left, or write down why it left nothing.

    A whole result counts whatever the exit code: it was complete before anything else went wrong.

    Args:
        timed_out_after_s: the timeout that ended the job; None if it ended by itself.
    """
    left = attempt.finished_directory()
    if left is not None and (left / files.RESULT_FILE).is_file():
        return Outcome(job, layout.publish(left), None)
    failure = _failure(job, context, left, ended, timed_out_after_s)
    if left is None:
        left = failure.save(attempt.folder).parent
    else:
        files.write_atomic(left / files.FAILURE_FILE, failure.model_dump_json(indent=1))
    return Outcome(job, layout.publish(left), failure)


def unstarted(job: Job, context: JobContext, attempt: Attempt, error: LaunchFailed, layout: Layout) -> Outcome:
    """Publish the failure of a job that could not be started."""
    cause = (type(error).__name__, int(error.exit_code), error.message, error.advice)
    failure = _written_down(job, context, cause, [], None)
    return Outcome(job, layout.publish(failure.save(attempt.folder).parent), failure)


def _failure(
    job: Job, context: JobContext, left: Path | None, ended: Ended, timed_out_after_s: float | None
) -> JobFailure:
    own = _own_account(left)
    cause = _cause(ended, timed_out_after_s)
    if own is not None and timed_out_after_s is None:
        cause = (own.error_class, own.exit_code, own.message, own.advice)
    log_tail = ended.log_tail or (own.log_tail if own is not None else [])
    return _written_down(job, context, cause, log_tail, own.experiment_id if own is not None else None)


def _written_down(
    job: Job, context: JobContext, cause: Cause, log_tail: list[str], experiment_id: str | None
) -> JobFailure:
    now = datetime.now(UTC)
    error_class, exit_code, message, advice = cause
    return JobFailure(
        experiment_id=experiment_id or files.new_experiment_id(now),
        backend=job.config.backend,
        measurement_config_hash=job.config_hash,
        config=job.config.model_dump(mode="json"),
        study=job.study,
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


def _cause(ended: Ended, timed_out_after_s: float | None) -> Cause:
    """Class, exit code, message and advice for a job that could not say it itself."""
    code = ended.exit_code
    if ended.oom_killed:
        advice = "Lower batch_size or the workload's token limits, or raise --memory."
        return "OutOfMemory", int(ExitCode.OUT_OF_MEMORY), "the container was killed for using too much memory.", advice
    if timed_out_after_s is not None:
        message = f"no result after {timed_out_after_s:g} s; the job was ended."
        return "TimedOut", int(ExitCode.MEASUREMENT_FAILED), message, "Raise --timeout, or look at the log for a hang."
    if code in _SIGNALLED:
        message = f"the job was killed from outside (signal {code - 128})."
        return "Killed", int(ExitCode.INTERRUPTED), message, "Run it again; if it was memory, lower batch_size."
    known = {int(exit_code) for exit_code in ExitCode} - {0}
    message = f"the job ended with exit code {code} and left neither a result nor a failure.json."
    return "Unexplained", code if code in known else int(ExitCode.BUG), message, "Look at the log below."


def read_phase(attempt: Attempt) -> str | None:
    """The phase that the job reported last; None before the first."""
    try:
        phase = json.loads(attempt.progress.read_text())["phase"]
    except (OSError, ValueError, KeyError):
        return None
    return str(phase)
