"""Runs jobs, one after another, so that nothing is lost and nothing is left behind."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from images.contract.job import ExitCode, JobContext, JobError
from runner.gpus import list_processes
from runner.launchers import Ended, Identity, Launcher, LaunchFailed, Running, Slot
from runner.layout import Attempt, Layout, take_back
from runner.outcome import Outcome, conclude, read_phase, unstarted
from runner.progress import Progress
from runner.study import Job

_POLL_S = 0.05
_AFTER_KILL_S = 10.0
_SAME_FOR_EVERY_CYCLE = {ExitCode.CONFIG_INVALID, ExitCode.MODEL_UNAVAILABLE, ExitCode.LAUNCHER}


class StudyBusy(JobError):
    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Run:
    """What all jobs of one call of the runner share.

    Attributes:
        timeout_s: a job that runs longer is ended (s).
        stop: asks the run to end: the running job is ended first.
    """

    launcher: Launcher
    identity: Identity
    layout: Layout
    slot: Slot
    timeout_s: float
    progress: Progress
    stop: threading.Event


def run_jobs(jobs: Sequence[Job], run: Run) -> Iterator[Outcome]:
    """Yield each job's outcome as soon as it is published.

    Ends early when asked to, and after a failure that every further cycle would repeat.

    Raises:
        StudyBusy: another runner works on this study.
        LaunchFailed: a job cannot be ended or removed; nothing starts beside it, and the next run goes on with it.
        OSError: the output cannot be written; what was measured stays in its attempt folder for the next run.
    """
    study = jobs[0].study
    with run.layout.lock(study) as held:
        if not held:
            raise StudyBusy(
                f"another runner works on study '{study}' in {run.layout.output}.",
                "Wait for it, or use another --study.",
            )
        _recover(run, study)
        for number, job in enumerate(jobs, start=1):
            if run.stop.is_set():
                return
            run.progress.started(job, number, len(jobs))
            outcome, problem = _run_one(job, run)
            run.progress.ended(outcome)
            yield outcome
            if problem is not None:
                raise problem
            if outcome.exit_code in _SAME_FOR_EVERY_CYCLE and number < len(jobs):
                run.progress.note("the other cycles would fail in the same way and are not run")
                return


def _run_one(job: Job, run: Run) -> tuple[Outcome, LaunchFailed | None]:
    """The outcome, and why the job could not be removed, if so.

    The attempt's folder goes last and only if the job is gone: the next runner finds the job by it.
    """
    context = _context(job, run)
    attempt = run.layout.new_attempt(job.study, job.cycle, context.attempt)
    attempt.prepare(job.config, context)
    try:
        running = run.launcher.start(job.study, job.config, attempt, run.slot)
    except LaunchFailed as error:
        outcome = unstarted(job, context, attempt, error, run.layout)
        with suppress(LaunchFailed):
            if not run.launcher.find([attempt]):
                attempt.remove()
        return outcome, None
    try:
        ended, timed_out = _wait(running, attempt, run)
        running.collect()
        outcome = conclude(job, context, attempt, ended, run.layout, run.timeout_s if timed_out else None)
        for folder in run.layout.publish_raw(attempt):
            run.progress.note(f"what single processes measured is kept in {folder}")
    except LaunchFailed:
        raise  # it may still run: nothing may be taken from it, and nothing may start beside it
    except BaseException:
        _abandon(running)
        raise
    try:
        running.remove()
    except LaunchFailed as error:
        return outcome, error
    attempt.remove()
    return outcome, None


def _abandon(running: Running) -> None:
    """End a job whose result cannot be published now; its attempt stays for the next runner."""
    with suppress(LaunchFailed, OSError):
        running.kill()
        running.collect()
        running.remove()


def _wait(running: Running, attempt: Attempt, run: Run) -> tuple[Ended, bool]:
    """How the job ended, and whether because of the timeout.

    Raises:
        LaunchFailed: it can neither be watched nor ended.
    """
    deadline = time.monotonic() + run.timeout_s
    phase = None
    while (ended := running.poll()) is None and not run.stop.is_set() and time.monotonic() < deadline:
        if (latest := read_phase(attempt)) not in (None, phase):
            phase = latest
            run.progress.phase(str(phase))
        time.sleep(_POLL_S)
    if ended is not None:
        return ended, False
    run.progress.note("ending the running job")
    timed_out = not run.stop.is_set()
    running.kill()
    give_up = time.monotonic() + _AFTER_KILL_S
    while (ended := running.poll()) is None and time.monotonic() < give_up:
        time.sleep(_POLL_S)
    return ended or Ended(int(ExitCode.INTERRUPTED)), timed_out


def _context(job: Job, run: Run) -> JobContext:
    return JobContext(
        study=job.study,
        cycle=job.cycle,
        measurement_config_hash=job.config_hash,
        image_name=run.identity.image_name,
        image_id=run.identity.image_id,
        image_repo_digest=run.identity.image_repo_digest,
        git_revision=run.identity.git_revision,
        launcher=run.launcher.name,
        gpu_uuids=list(run.slot.gpu_uuids),
        foreign_processes=list_processes(run.slot.gpu_uuids),
        node=platform.node(),
    )


def _recover(run: Run, own_study: str) -> None:
    """End what killed runners left running, keep what they had finished, and clear the rest away.

    A study whose lock is held has a living runner and is left alone, and so is an attempt of another
    launcher, which only that one can end.
    """
    for study in run.layout.attempts():
        if run.layout.is_of(study, own_study):
            _clear(study, run)
            continue
        with run.layout.lock(study) as held:
            if held:
                try:
                    _clear(study, run)
                except (LaunchFailed, OSError) as error:
                    run.progress.note(f"what study {study} left could not be cleared away: {error}")


def _clear(study: str, run: Run) -> None:
    attempts = run.layout.attempts().get(study, [])  # again, now that the study's lock is held
    ours = [attempt for attempt in attempts if attempt.launcher() in (run.launcher.name, None)]
    for running in run.launcher.find(ours):
        running.kill()
        running.collect()
        running.remove()
    for attempt in ours:
        take_back(attempt.folder)
        finished = attempt.finished_directory()
        if finished is not None:
            run.progress.note(
                f"published what an earlier runner of study {study} had finished: {run.layout.publish(finished).name}"
            )
        run.layout.publish_raw(attempt)
        attempt.remove()
