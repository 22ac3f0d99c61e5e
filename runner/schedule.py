"""Runs jobs, one after another, so that nothing is lost and nothing is left behind."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock, Timeout

from images.contract.job import ExitCode, JobContext, JobError
from runner.launchers import Ended, Identity, Launcher, Running, Slot
from runner.layout import Attempt, Layout
from runner.outcome import Outcome, conclude, read_phase
from runner.progress import Progress
from runner.study import Job

_POLL_S = 0.05


class StudyBusy(JobError):
    exit_code = ExitCode.USAGE


def run_jobs(
    jobs: Sequence[Job],
    launcher: Launcher,
    identity: Identity,
    layout: Layout,
    slot: Slot,
    timeout_s: float,
    progress: Progress,
) -> Iterator[Outcome]:
    """Yield each job's outcome as soon as it is published.

    Args:
        timeout_s: a job that runs longer is ended (s).

    Raises:
        LaunchFailed: a job could not be started; what ran before is published.
        StudyBusy: another runner works on this study.
        KeyboardInterrupt: after the running job was ended and its failure published.
    """
    if not jobs:
        return
    with _locked(layout, jobs[0].study):
        _clear_leftovers(jobs[0].study, launcher, layout)
        for number, job in enumerate(jobs, start=1):
            progress.started(job, number, len(jobs))
            outcome, interrupted = _run(job, launcher, identity, layout, slot, timeout_s, progress)
            progress.ended(outcome)
            yield outcome
            if interrupted:
                raise KeyboardInterrupt


def _run(
    job: Job,
    launcher: Launcher,
    identity: Identity,
    layout: Layout,
    slot: Slot,
    timeout_s: float,
    progress: Progress,
) -> tuple[Outcome, bool]:
    context = _context(job, launcher, identity)
    attempt = layout.new_attempt(job.study, job.cycle, context.attempt)
    try:
        attempt.config.write_text(job.config.model_dump_json())
        attempt.context.write_text(context.model_dump_json())
        running = _start(job, launcher, attempt, slot)
        ended, timed_out, interrupted = _wait(running, attempt, timeout_s, progress)
        outcome = conclude(job, context, attempt, ended, layout, timeout_s if timed_out else None)
    finally:
        attempt.remove()
    return outcome, interrupted


def _start(job: Job, launcher: Launcher, attempt: Attempt, slot: Slot) -> Running:
    try:
        return launcher.start(job.study, job.config, attempt, slot)
    except BaseException:
        # Interrupted half-way, the job may exist although nobody was handed it.
        for running in launcher.find(job.study, [attempt]):
            running.kill()
            running.remove()
        raise


def _wait(running: Running, attempt: Attempt, timeout_s: float, progress: Progress) -> tuple[Ended, bool, bool]:
    """How the job ended, whether by the timeout, and whether the user interrupted; it is gone after this."""
    deadline = time.monotonic() + timeout_s
    phase, timed_out, interrupted = None, False, False
    try:
        while (ended := running.poll()) is None:
            if time.monotonic() > deadline:
                timed_out = True
                break
            if (latest := read_phase(attempt)) not in (None, phase):
                phase = latest
                progress.phase(str(phase))
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        interrupted = True
    try:
        if ended is None:
            running.kill()
            ended = running.poll()
    finally:
        running.remove()
    return ended or Ended(exit_code=int(ExitCode.INTERRUPTED)), timed_out, interrupted


def _context(job: Job, launcher: Launcher, identity: Identity) -> JobContext:
    return JobContext(
        study=job.study,
        cycle=job.cycle,
        measurement_config_hash=job.config_hash,
        image_name=identity.image_name,
        image_id=identity.image_id,
        image_repo_digest=identity.image_repo_digest,
        git_revision=identity.git_revision,
        launcher=launcher.name,
        node=platform.node(),
    )


@contextmanager
def _locked(layout: Layout, study: str) -> Iterator[None]:
    lock = FileLock(layout.lock_file(study))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyBusy(
            f"another runner works on study '{study}' in {layout.output}.", "Wait for it, or use another --study."
        ) from None
    try:
        yield
    finally:
        lock.release()
        layout.lock_file(study).unlink(missing_ok=True)


def _clear_leftovers(study: str, launcher: Launcher, layout: Layout) -> None:
    """End what an earlier, killed runner of this study left running, and keep what it had finished."""
    attempts = layout.attempts(study)
    for running in launcher.find(study, attempts):
        running.kill()
        running.remove()
    for attempt in attempts:
        finished = attempt.finished_directory()
        if finished is not None:
            layout.publish(finished)
        attempt.remove()
