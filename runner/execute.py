"""One try at one job, from its private folder to its published directory."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from images.contract.job import ExitCode, JobContext, JobError
from images.contract.progress import JobProgress
from images.contract.scheduling import AdaptiveCycles, Scheduling, block_name
from runner.gpu.gpus import list_processes
from runner.gpu.neighbours import Neighbourhood
from runner.gpu.slots import Lease
from runner.interrupt import Stop
from runner.launchers import Ended, Identity, Launcher, LaunchFailed, Running, Slot
from runner.layout import Attempt, Layout
from runner.outcome import GivenUp, Outcome, conclude, stalled, timed_out, unstarted
from runner.studies.study import Job, Study
from runner.view.progress import Progress

_POLL_S = 0.1
_LOOK_EVERY_S = 1.0
_AFTER_KILL_S = 10.0
_WORKING = ("warm_up", "window")
_ROOM_BYTES = 64 * 2**20


class OutputFull(JobError):
    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Run:
    """What all jobs of one call of the runner share.

    Attributes:
        identities: what code runs, by backend.
    """

    study: Study
    launcher: Launcher
    identities: Mapping[str, Identity]
    layout: Layout
    progress: Progress
    stop: Stop
    neighbourhood: Neighbourhood


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs run; no GPUs is the CPU."""

    gpu_uuids: tuple[str, ...] = ()
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One try.

    Attributes:
        number: of this try at the cycle, from 1.
        problems: what the place is not as it should be in: `code: what was seen`.
        adaptive: the rule that asked for this cycle.
    """

    job: Job
    place: Place
    number: int
    problems: Sequence[str]
    adaptive: AdaptiveCycles | None


def run_job(trial: Trial, run: Run) -> Outcome:
    """Try a job once.

    The attempt's folder goes last and only if the job is gone: the next runner finds the job by it.

    Raises:
        JobNotEnded: nothing may start in its place.
        OutputFull: there is hardly room for a result; nothing was started.
        OSError: the output cannot be written; what was measured stays in its attempt folder for the next run.
    """
    job, place = trial.job, trial.place
    require_room(run.layout)
    attempt = run.layout.new_attempt(job.study, job.cycle, trial.number)
    if place.lease is not None:
        place.lease.occupy(job.experiment.name, job.cycle, attempt.folder)
    context = _context(trial, run)
    attempt.prepare(job.config, context)
    run.neighbourhood.enter(attempt, job, place.gpu_uuids)
    run.progress.started(job, attempt, place.gpu_uuids, trial.number)
    try:
        return _run_attempt(job, context, attempt, Slot(place.gpu_uuids), run)
    finally:
        run.neighbourhood.leave(attempt)
        if place.lease is not None and not attempt.folder.exists():
            place.lease.occupy(job.experiment.name, job.cycle, None)


def _run_attempt(job: Job, context: JobContext, attempt: Attempt, slot: Slot, run: Run) -> Outcome:
    try:
        running = run.launcher.start(job.study, job.config, attempt, slot)
    except LaunchFailed as error:
        outcome = unstarted(job, context, attempt, error, run.layout)
        run.neighbourhood.leave(attempt)
        with suppress(LaunchFailed):
            if not run.launcher.find(attempt.folder):
                attempt.remove()
        return outcome
    try:
        ended, given_up = _wait(running, attempt, run)
        run.neighbourhood.leave(attempt)  # before anything else looks at what is in the folder
        running.collect()
        if ended.exit_code == ExitCode.MEASUREMENT_FAILED and attempt.finished_directory() is None:
            require_room(run.layout)  # that it could say nothing itself has one usual reason
        outcome = conclude(job, context, attempt, ended, run.layout, given_up)
        for folder in run.layout.publish_raw(attempt):
            run.progress.note(f"what single processes measured is kept in {folder}")
    except LaunchFailed as error:
        raise JobNotEnded(None, error) from None  # nothing may be taken from it
    except BaseException as error:
        _abandon(running, error)
        raise
    try:
        running.remove()
    except LaunchFailed as error:
        raise JobNotEnded(outcome, error) from None
    attempt.remove()
    return outcome


class JobNotEnded(LaunchFailed):
    """The job, or what remains of it, could not be ended or removed.

    Attributes:
        outcome: it is published; None of a job that may still run.
    """

    def __init__(self, outcome: Outcome | None, error: LaunchFailed) -> None:
        super().__init__(error.message, error.advice)
        self.outcome = outcome


def _abandon(running: Running, because: BaseException) -> None:
    """End a job whose result cannot be published now; its attempt stays for the next runner.

    Raises:
        JobNotEnded: its place is not free.
    """
    try:
        running.kill()
        running.remove()
    except LaunchFailed as error:
        raise JobNotEnded(None, error) from because
    with suppress(OSError):
        running.collect()


def _wait(running: Running, attempt: Attempt, run: Run) -> tuple[Ended, GivenUp | None]:
    """How the job ended, and why the runner ended it, if so.

    Raises:
        LaunchFailed: it can neither be watched nor ended.
    """
    timeouts = run.study.timeouts
    began_s = heard_s = looked_s = time.monotonic()
    heard: tuple[str, int | None] = ("start", None)
    given_up = None
    while (ended := running.poll()) is None:
        now_s = time.monotonic()
        if now_s - looked_s >= _LOOK_EVERY_S:
            looked_s = now_s
            run.neighbourhood.look()
            latest = JobProgress.load(attempt.progress)
            if latest is not None and ((said := (latest.phase, latest.output_tokens)) != heard or _cannot_tell(latest)):
                heard, heard_s = said, now_s
        if now_s - began_s >= timeouts.job_s:
            given_up = timed_out(timeouts.job_s)
        elif now_s - heard_s >= timeouts.stall_s:
            given_up = stalled(timeouts.stall_s, heard[0])
        if given_up is not None or run.stop.now:
            return _end(running, run), given_up
        time.sleep(_POLL_S)
    return ended, None


def _cannot_tell(latest: JobProgress) -> bool:
    """Whether it works with an engine that does not say what it has delivered: silence is no sign of a hang."""
    return latest.phase in _WORKING and latest.output_tokens is None


def _end(running: Running, run: Run) -> Ended:
    run.progress.note("ending a running job")
    running.kill()
    give_up_s = time.monotonic() + _AFTER_KILL_S
    while (ended := running.poll()) is None and time.monotonic() < give_up_s:
        time.sleep(_POLL_S)
    return ended or Ended(int(ExitCode.INTERRUPTED))


def _context(trial: Trial, run: Run) -> JobContext:
    job, place, adaptive = trial.job, trial.place, trial.adaptive
    identity, study = run.identities[job.config.backend], run.study
    return JobContext(
        study=job.study,
        experiment=job.experiment.name if study.from_file else None,
        cycle=job.cycle,
        block=block_name(job.cycle, place.gpu_uuids) if study.placement == "block" else None,
        scheduling=Scheduling(
            placement=study.placement,
            order=study.order,
            seed=study.seed,
            position=job.position,
            adaptive=None if adaptive is None else _own_part(adaptive, job),
        ),
        attempt=trial.number,
        remarks=[
            f"{problem} when the job started. Free or cool it, or let cool_down wait longer."
            for problem in trial.problems
            if not problem.startswith("foreign_process")  # the harness says that itself
        ],
        measurement_config_hash=job.config_hash,
        image_name=identity.image_name,
        image_id=identity.image_id,
        image_repo_digest=identity.image_repo_digest,
        git_revision=identity.git_revision,
        launcher=run.launcher.name,
        gpu_uuids=list(place.gpu_uuids),
        foreign_processes=list_processes(place.gpu_uuids),
        node=platform.node(),
    )


def _own_part(adaptive: AdaptiveCycles, job: Job) -> AdaptiveCycles:
    own = [estimate for estimate in adaptive.pilot if estimate.measurement_config_hash == job.config_hash]
    return adaptive.model_copy(update={"pilot": own})


def require_room(layout: Layout) -> None:
    """
    Raises:
        OutputFull: what a job would measure could not be stored.
    """
    there = next(path for path in (layout.output, *layout.output.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < _ROOM_BYTES:
        raise OutputFull(
            f"the disk of {layout.output} has {free / 2**20:.0f} MiB left, and no job starts below "
            f"{_ROOM_BYTES / 2**20:.0f}.",
            "Make room and run again; finished cycles are kept.",
        )
