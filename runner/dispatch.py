"""Blocks over free GPU sets: each in a thread of its own, which runs its jobs one after another, with retries."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

from images.contract.job import ExitCode, GpuUnusable, JobError
from images.contract.scheduling import AdaptiveCycles
from runner.execute import JobNotEnded, Place, Run, Trial, run_job
from runner.gpu.settle import Settler, check_power_limits
from runner.gpu.slots import Lease, Slots
from runner.launchers import Launcher, LaunchFailed
from runner.outcome import Outcome, keep_failure
from runner.placing import Placing
from runner.recovery import end
from runner.retry import Breaker, Response, is_kill, pause_s, respond
from runner.studies.plan import Cell, Unit
from runner.studies.study import Job

_LOOK_EVERY_S = 1.0


class OnlyFailures(JobError):
    """The circuit breaker: try after try failed."""

    def __init__(self, outcome: Outcome, in_a_row: int) -> None:
        assert outcome.failure is not None
        super().__init__(
            f"{in_a_row} tries in a row failed, the last with: {outcome.failure.message}",
            "Correct that and run again; retries.stop_after sets the number.",
        )
        self.exit_code = ExitCode(outcome.exit_code)


class Dispatcher:
    """Runs units; what came of them is in its attributes.

    Args:
        slots: the GPUs to lease; None on the CPU.
        at_once: most units at the same time.
        launchers: a launcher by its name, for what dead runners left on a GPU.
        failed_before: tries at each cell that earlier runs of the study have published.

    Attributes:
        outcomes: each job's last try.
        problem: what ended the study, or keeps it from being complete.
        set_aside: configurations that fail in every cycle, by hash.
        hopeless: no job can be started at all.
    """

    def __init__(
        self,
        run: Run,
        slots: Slots | None,
        at_once: int,
        launchers: Callable[[str], Launcher],
        failed_before: Counter[Cell],
    ) -> None:
        self._run, self.at_once, self._launchers = run, at_once, launchers
        self._placing = Placing(slots, run.study.timeouts.gpus_s, run.progress)
        self._tries = Counter(failed_before)
        self._done_in_block: Counter[tuple[int, int]] = Counter()
        self._unusable: dict[str, tuple[str, ...]] = {}
        self._adaptive: AdaptiveCycles | None = None
        self._lock = threading.Lock()
        self._settler = Settler(run.study.cool_down)
        self._breaker = Breaker(run.study.retries.stop_after)
        self._returned: list[Unit] = []
        self._said_why = self._said_end = False
        self.outcomes: list[Outcome] = []
        self.problem: JobError | OSError | None = None
        self.set_aside: dict[str, Outcome] = {}
        self.hopeless = False

    def run_units(
        self, units: Sequence[Unit], done_in_block: Counter[tuple[int, int]], adaptive: AdaptiveCycles | None = None
    ) -> None:
        """Run all jobs of all units; ends early when asked to, and after what every further job would meet.

        Args:
            done_in_block: results that there are already, by cycle and number of GPUs.
            adaptive: the rule that asked for these cycles.
        """
        self._adaptive, self._done_in_block = adaptive, Counter(done_in_block)
        pending = list(units)
        active: set[Future[None]] = set()
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="slot") as pool, self._draining_after_a_bug():
            while pending or active:
                pending = [] if self._run.stop.drain else self._start(pending, active, pool)
                self._say_that_it_ends(active)
                self._say_why_nothing_runs(pending, active)
                if active:
                    done, active = wait(active, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
                    for one in done:
                        one.result()  # a bug in a thread is a bug here
                elif pending:
                    time.sleep(_LOOK_EVERY_S)
                with self._lock:
                    pending += self._returned
                    self._returned = []

    @contextmanager
    def _draining_after_a_bug(self) -> Iterator[None]:
        """The pool waits for its threads, which would otherwise go on with their blocks."""
        came_through = False
        try:
            yield
            came_through = True
        finally:
            self._run.stop.drain = self._run.stop.drain or not came_through

    def _start(self, pending: list[Unit], active: set[Future[None]], pool: ThreadPoolExecutor) -> list[Unit]:
        """Start what has a place, first come first served; returns what has none yet."""
        waiting: list[Unit] = []
        refused: set[tuple[int, tuple[str, ...] | None]] = set()
        for planned in pending:
            unit = self._placing.still_possible(planned)
            kind = (unit.n_gpus, unit.only)
            if len(active) >= self.at_once or kind in refused:
                waiting.append(unit)
                continue
            try:
                self._placing.require_possible(unit)
            except GpuUnusable as error:
                self._report(error)
                continue
            if (place := self._placing.find(unit)) is None:
                refused.add(kind)
                waiting.append(self._placing.after_refusal(unit))
            else:
                active.add(pool.submit(self._work, unit, place))
        return waiting

    def _work(self, unit: Unit, place: Place) -> None:
        """Run a unit's jobs; what has to run on other GPUs is given back."""
        with self._placing.held(place):
            left = unit.jobs
            try:
                if place.lease is not None:
                    self._end_orphans(place.lease)
                while left and not self._run.stop.drain:
                    job, *rest = left
                    if job.config_hash not in self.set_aside and not self._settled(job, place):
                        break
                    left = tuple(rest)
            except JobNotEnded as error:
                # It may still leave a result, so it is not run again before a later runner has ended it.
                left = left[1:]
                self._leave_alone(place, error)
            except LaunchFailed as error:
                self._leave_alone(place, error)
            except (JobError, OSError) as error:
                self._fail(error)
            if left:
                self._give_back(replace(unit, jobs=left, only=None))

    def _settled(self, job: Job, place: Place) -> bool:
        """Try a job until it is done or given up; False if it has to be tried on other GPUs."""
        retries, stop = self._run.study.retries, self._run.stop
        tries = kills = 0
        while not stop.drain:
            try:
                problems = self._prepare(place)
            except GpuUnusable as error:
                self._placing.set_aside(place, str(error))
                return False
            if stop.drain:
                return True
            outcome = self._tried(job, place, problems)
            if outcome.failure is None or (stop.now and is_kill(outcome)):
                self._ended(outcome, None)
                return True
            tries, kills = (tries, kills + 1) if is_kill(outcome) else (tries + 1, kills)
            response = respond(outcome, retries, tries, kills, undisturbed=not problems)
            again_s = pause_s(retries, tries + kills) if response is Response.AGAIN else None
            if response is Response.GIVE_UP and outcome.directory is None:
                outcome = keep_failure(outcome, self._run.layout)
            self._ended(outcome, again_s)
            if response is Response.SET_GPUS_ASIDE and place.lease is not None:
                return self._blame(outcome, place)
            if response is not Response.AGAIN:
                self._give_up(outcome, response)
                return True
            _pause(again_s or 0.0, stop_asked=lambda: stop.drain)
        return True

    def _prepare(self, place: Place) -> list[str]:
        """Wait for the GPUs; what is still in the way stands in the result.

        Raises:
            GpuUnusable: a GPU is lost, or its power limit is not the study's.
        """
        study, progress = self._run.study, self._run.progress
        check_power_limits(place.gpu_uuids, study.launcher.power_limit_w)
        problems = self._settler.settle(place.gpu_uuids, self._run.stop, progress.waiting)
        for problem in [] if self._run.stop.drain else problems:
            progress.note(f"measured all the same: {problem}")
        return problems

    def _tried(self, job: Job, place: Place, problems: list[str]) -> Outcome:
        """
        Raises:
            JobNotEnded: also one that could not be removed; its outcome is noted if there is one.
        """
        cell, block = (job.config_hash, job.cycle), (job.cycle, len(place.gpu_uuids))
        self._tries[cell] += 1
        placed = job if self._run.study.placement == "any" else replace(job, position=self._done_in_block[block] + 1)
        trial = Trial(placed, place, self._tries[cell], problems, self._adaptive)
        try:
            outcome = run_job(trial, self._run)
            self._done_in_block[block] += outcome.failure is None
            return outcome
        except JobNotEnded as error:
            if error.outcome is not None:
                self._ended(error.outcome, None)
            raise

    def _ended(self, outcome: Outcome, again_s: float | None) -> None:
        with self._lock:
            if again_s is None:
                self.outcomes.append(outcome)
            tripped = self._breaker.note(outcome)
        self._run.progress.ended(outcome.job, outcome, again_s)
        if tripped:
            self._fail(OnlyFailures(outcome, self._run.study.retries.stop_after or 0))

    def _give_up(self, outcome: Outcome, response: Response) -> None:
        if response is Response.SET_EXPERIMENT_ASIDE:
            with self._lock:
                self.set_aside[outcome.job.config_hash] = outcome
            self._run.progress.note(
                f"the other cycles of {outcome.job.experiment.name} would fail in the same way and are not run"
            )
        elif response is Response.STOP:
            self._run.progress.note("every other job would fail in the same way and is not run")
            self.hopeless = True
            self._run.stop.drain = True

    def _blame(self, outcome: Outcome, place: Place) -> bool:
        """The GPUs, which are set aside; or the experiment, if it could not use others either."""
        config_hash = outcome.job.config_hash
        if config_hash not in self._unusable:
            self._unusable[config_hash] = place.gpu_uuids
            assert outcome.failure is not None
            self._placing.set_aside(place, outcome.failure.message)
            return False
        self._placing.forgive(self._unusable.pop(config_hash), f"{outcome.job.label} fails on other GPUs, too")
        self._give_up(outcome, Response.SET_EXPERIMENT_ASIDE)
        return True

    def _leave_alone(self, place: Place, error: LaunchFailed) -> None:
        """What cannot be ended still holds its GPUs; without GPUs nothing may start beside it."""
        if place.lease is None:
            self._fail(error)
        else:
            self._report(error)
            self._placing.set_aside(place, str(error))
            place.lease.leave()  # the next runner has to know what still runs there

    def _end_orphans(self, lease: Lease) -> None:
        """End what dead runners left on these GPUs, also those of other studies.

        Raises:
            LaunchFailed: it cannot be ended; the GPUs are not ours to use.
        """
        for died in sorted({(record.pid, record.study) for record in lease.left_by}, key=str):
            self._run.progress.note(
                f"{', '.join(lease.uuids)}: was leased by a runner that died (pid {died[0]}, study {died[1]})"
            )
        for record in lease.left_by:
            if record.attempt is None:
                continue
            for _, orphan in self._launchers(record.launcher).find(record.attempt):
                end(orphan)
                self._run.progress.note(f"ended a job that the killed runner of study {record.study} had left")

    def _give_back(self, unit: Unit) -> None:
        with self._lock:
            self._returned.append(unit)

    def _fail(self, problem: JobError | OSError) -> None:
        """End the study for a reason: running jobs finish, nothing starts."""
        self._report(problem)
        self._run.stop.drain = True

    def _report(self, problem: JobError | OSError) -> None:
        """Something that keeps the study from being complete; the rest goes on."""
        with self._lock:
            self.problem = self.problem or problem

    def _say_that_it_ends(self, active: set[Future[None]]) -> None:
        """Once, to whoever asked for it; with a word for those who cannot wait."""
        if self._run.stop.drain and active and self.problem is None and not self._said_end:
            self._said_end = True
            jobs = "the running job" if len(active) == 1 else f"{len(active)} running jobs"
            self._run.progress.note(f"finishing {jobs}; Ctrl-C again, or `runner stop --now`, ends them now")

    def _say_why_nothing_runs(self, pending: Sequence[Unit], active: set[Future[None]]) -> None:
        if not active:
            wanted = pending[0].only if pending else None
            which = f" ({', '.join(wanted)})" if wanted else ""
            text = f"waiting for GPUs that other runners have leased{which}"
            if self._run.study.launcher.exclusive:
                text = "waiting until no other runner is on this host (exclusive)"
            self._run.progress.waiting(text if pending else None)
            self._said_why = bool(pending)
        elif self._said_why:
            self._run.progress.waiting(None)
            self._said_why = False


def _pause(seconds: float, stop_asked: Callable[[], bool]) -> None:
    until_s = time.monotonic() + seconds
    while not stop_asked() and (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(left_s, _LOOK_EVERY_S))
