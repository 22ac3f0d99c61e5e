"""Jobs of a study on a cluster: submitted where they are missing, followed to their ends, taken home."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from images.contract.job import Interrupted, JobError
from images.contract.report import JobReport
from images.contract.scheduling import AdaptiveCycles
from runner.cluster.api import Api, Object
from runner.cluster.found import counted, jobs_there
from runner.cluster.home import Damaged, Home
from runner.cluster.images import study_images
from runner.cluster.manifests import ClusterJob, cluster_jobs, settings_digest
from runner.cluster.observed import (
    JobEnd,
    TaskEnd,
    failure_without_a_word,
    is_over,
    job_end,
    running_task,
    task_ends,
)
from runner.cluster.sources import ReaderWaits
from runner.cluster.submitted import (
    Submitted,
    clear,
    clear_left,
    end,
    job_of,
    launch_of,
    selector,
    submit,
)
from runner.cluster.troubles import Troubles
from runner.cluster.watching import Mirror
from runner.interrupt import Stop
from runner.launchers import EngineAway
from runner.layout import Attempt, Layout
from runner.outcome import Outcome
from runner.schedule import Summary
from runner.studies.plan import Cell
from runner.studies.study import Job, Study
from runner.view.progress import Progress

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 600.0
_SETTLE_S = 2.0
_LOG_LINES = 50
_LEFT_S = 3600.0
"""Another client that has just made a Job's inputs makes the Job within moments."""

_Answer = TypeVar("_Answer")


class Follower:
    """Submits Jobs and follows their pods.

    Attributes:
        stopped: nothing more is to be submitted.
    """

    def __init__(self, study: Study, layout: Layout, api: Api, progress: Progress, stop: Stop, home: Home) -> None:
        self._study, self._layout, self._api, self._home = study, layout, api, home
        self.progress, self._stop = progress, stop
        self._troubles = Troubles(api, progress)
        self._jobs: dict[str, Submitted] = {}
        self._mine: set[str] = set()
        self._outcomes: dict[Cell, Outcome] = {}
        self._tries: Counter[Cell] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._running: set[tuple[str, str]] = set()
        self._over_since: dict[str, float] = {}
        self._last_end: dict[Cell, tuple[TaskEnd, Object]] = {}
        self._pending: deque[ClusterJob] = deque()
        self._damaged: set[Cell] = set()
        self._gone: list[Object] = []
        self._waits_for: set[str] = set()
        self._drained = False

    @property
    def stopped(self) -> bool:
        return self._stop.drain or self._troubles.problem is not None

    def begin(self, wanted: Sequence[int]) -> None:
        n_wanted, n_done = self._count(wanted)
        self.progress.begin(n_wanted, n_done, slots=2)

    def summary(self, wanted: Sequence[int], adaptive: AdaptiveCycles | None) -> Summary:
        n_wanted, n_done = self._count(wanted)
        problem: JobError | None = self._troubles.problem
        if problem is None and self._stop.drain and n_done < n_wanted:
            problem = Interrupted("interrupted before all was done.", "Finished cycles are kept; run again to go on.")
        return Summary(n_wanted, n_done, list(self._outcomes.values()), problem, adaptive)

    def _count(self, wanted: Sequence[int]) -> tuple[int, int]:
        cells = {(one.config_hash, cycle) for one in self._study.experiments for cycle in wanted}
        return len(cells), len(cells & self._home.done)

    def run(self, cycles: Sequence[int], allow_tag: bool) -> None:
        """Submit what is missing of these cycles, and follow it with what is there already.

        Raises:
            LaunchFailed: the cluster cannot be used; what runs there goes on.
        """
        images = study_images(self._study, allow_tag=allow_tag)
        self._jobs = {
            one.name: one
            for one in jobs_there(
                self._api, self._study, settings_digest(self._study, images), self._stop, self.progress.note
            )
        }
        if self._jobs:
            self.progress.note(f"{counted(len(self._jobs), 'Job')} of this study in the cluster already; followed")
        known = {cell for job in self._jobs.values() for cell in job.cells}
        self._bring_published(
            [
                (one.config_hash, cycle)
                for cycle in cycles
                for one in self._study.experiments
                if (one.config_hash, cycle) not in known
            ]
        )
        missing = cluster_jobs(
            self._study,
            cycles,
            images,
            on_cpu=self._study.launcher.gpus == "none",
            done=self._home.done | known | self._damaged,
        )
        self._pending = deque(missing)
        self._mine |= self._jobs.keys() | {job.name for job in missing}
        self._submit()
        self._follow()

    def _bring_published(self, cells: Sequence[Cell]) -> None:
        """What was measured before and never came home needs no pod, which would wait for a GPU to say so."""
        if not self._home.early:
            return
        n_before = len(self._home.done)
        for cell in cells:
            self._patiently(partial(self._bring, self._job(cell)))
        if n_brought := len(self._home.done) - n_before:
            self.progress.note(f"{counted(n_brought, 'cycle')} measured and published before, brought home")

    def _bring(self, job: Job) -> bool:
        """Whether it has a result, here or, damaged, in the cluster, where it has to be mended first."""
        cell = (job.config_hash, job.cycle)
        if cell in self._damaged:
            return True
        try:
            self._keep(self._home.bring_result(job))
        except Damaged as error:
            self._damaged.add(cell)
            cause = ("Damaged", int(error.exit_code), error.message, error.advice)
            self._keep(self._home.write_failure(job, cause, [], self._tries[cell], None))
        return cell in self._home.done | self._damaged

    def _submit(self) -> None:
        """As many as the study allows beside those that are there; the others when these are over."""
        most = self._study.launcher.max_parallel
        n_submitted = 0
        while self._pending and not self.stopped:
            n_running = sum(job.parallelism for job in self._jobs.values())
            if most is not None and self._jobs and n_running + self._pending[0].parallelism > most:
                break
            made = self._patiently(partial(submit, self._api, self._pending[0]))
            if made is not None:
                self._pending.popleft()
                self._jobs[made.name] = made
                n_submitted += 1
        if n_submitted:
            waiting = f"; {counted(len(self._pending), 'Job')} wait for launcher.max_parallel" if self._pending else ""
            self.progress.note(
                f"{counted(n_submitted, 'Job')} submitted to the namespace {self._api.namespace}{waiting}"
            )

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer | None:
        """Its answer, from a cluster that may be away for a while; None if somebody wants an end meanwhile."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while not self._stop.drain:
            try:
                return ask()
            except EngineAway as error:
                if time.monotonic() > give_up_s:
                    raise
                self._wait_for(error)
                time.sleep(_LOOK_EVERY_S)
        return None

    def _wait_for(self, error: EngineAway) -> None:
        if error.message not in self._waits_for:
            self._waits_for.add(error.message)
            self.progress.note(error.message)

    def _follow(self) -> None:
        changed, heard_s = threading.Event(), time.monotonic()
        chosen = selector(self._study)
        with (
            Mirror(self._api, "Job", chosen, changed, _PATIENCE_S) as jobs,
            Mirror(self._api, "Pod", chosen, changed, _PATIENCE_S) as pods,
        ):
            while self._jobs or (self._pending and not self.stopped):
                changed.wait(_LOOK_EVERY_S)
                changed.clear()
                self._gone += pods.take_gone()
                all_jobs, all_pods = jobs.objects(), pods.objects()
                try:
                    self._take_in(all_jobs, all_pods)
                    heard_s = time.monotonic()
                except ReaderWaits as error:
                    heard_s = time.monotonic()
                    self._wait_for(error)
                except EngineAway as error:
                    if time.monotonic() - heard_s > _PATIENCE_S:
                        raise
                    self._wait_for(error)
                self._submit()
                try:
                    self._obey(all_pods)
                except EngineAway:
                    if self._stop.now:
                        raise  # nobody waits for a cluster that is away to be told to end
        clear(self._api, self._study, self._mine)
        clear_left(self._api, self._study, older_than_s=_LEFT_S)

    def _take_in(self, jobs: Mapping[str, Object], pods: Mapping[str, Object]) -> None:
        """Everything that is new."""
        every = (*self._gone, *pods.values())
        for pod in every:
            if job_of(pod) in self._jobs:
                self._troubles.look_at_pod(pod)
        for pod in every:
            self._look(pod)
        self._gone.clear()
        self._settle(jobs, pods)

    def _look(self, pod: Object) -> None:
        """Everything that is new about one pod."""
        name = pod["metadata"]["name"]
        job = self._jobs.get(job_of(pod) or "")
        if job is None:
            return
        for ended in task_ends(pod):
            cell = job.cell_of(pod, ended.container)
            if cell is not None and (name, ended.container) not in self._seen:
                self._ended(self._job(cell), ended, pod)
                self._seen.add((name, ended.container))  # not before it is home
        now = running_task(pod)
        if now is not None and (name, now) not in self._running:
            self._running.add((name, now))
            cell = job.cell_of(pod, now)
            if cell is not None:
                self._tries[cell] += 1
                where = (pod["spec"].get("nodeName") or name,)
                self.progress.started(self._job(cell), Attempt(self._layout.output), where, self._tries[cell])

    def _ended(self, job: Job, ended: TaskEnd, pod: Object) -> None:
        self._last_end[job.config_hash, job.cycle] = (ended, pod)
        report, own = ended.report, (launch_of(pod), pod["metadata"]["name"])
        if report is None:
            # It was killed, and its Job decides whether it is tried again; or the cluster has cut its last word.
            if not self._bring(job):
                self._keep(self._home.bring_failure(job, None, *own))
        elif report.outcome in ("result", "earlier"):
            self._bring(job)
        elif report.outcome == "failure":
            published = self._home.bring_failure(job, report.directory, *own)
            self._keep(published or self._unpublished(job, report, ended, pod))

    def _unpublished(self, job: Job, report: JobReport, ended: TaskEnd, pod: Object) -> Outcome:
        """A failure that only the pod tells of."""
        cause = ("JobFailed", report.exit_code or ended.exit_code, report.message, report.advice)
        tries = self._tries[job.config_hash, job.cycle]
        return self._home.write_failure(job, cause, self._log_of(pod, ended), tries, ended.finished)

    def _keep(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._outcomes[outcome.job.config_hash, outcome.job.cycle] = outcome
            self.progress.ended(outcome.job, outcome, None)

    def _settle(self, jobs: Mapping[str, Object], pods: Mapping[str, Object]) -> None:
        """Take Jobs that are over off the list, and say why cycles of theirs have no result."""
        now_s = time.monotonic()
        for job in list(self._jobs.values()):
            found = jobs.get(job.name)
            own = [pod for pod in pods.values() if job_of(pod) == job.name]
            ended = None if found is None else job_end(found)
            if found is not None and ended is None:
                self._troubles.look_at_job(found, own)
                continue
            if any(not is_over(pod) for pod in own):
                continue  # also of a Job that was removed: they may finish
            if now_s - self._over_since.setdefault(job.name, now_s) < _SETTLE_S:
                continue  # what its last pod said may still be on its way
            for cell in job.cells:
                brought = self._bring(self._job(cell))
                if not brought and not self._drained and cell not in self._outcomes:
                    self._keep(self._silent(cell, job, own, ended or JobEnd(True, "", "somebody removed it")))
            del self._jobs[job.name]

    def _silent(self, cell: Cell, job: Submitted, pods: Sequence[Object], job_ended: JobEnd) -> Outcome:
        """The failure of a cycle that nobody has said anything about."""
        last, pod = self._last_end.get(cell, (None, pods[-1] if pods else None))
        cause = failure_without_a_word(last, pod, job_ended)
        before = [self._outcomes[other].failure for other in job.cells if other in self._outcomes]
        ended_it = next((failure for failure in before if failure is not None), None)
        if last is None and ended_it is not None:
            why = f"not begun, because '{ended_it.experiment}' before it failed: {ended_it.message}"
            cause = ("NotBegun", ended_it.exit_code, why, ended_it.advice)
        tail = [] if last is None or pod is None else self._log_of(pod, last)
        ended = None if last is None else last.finished
        return self._home.write_failure(self._job(cell), cause, tail, self._tries[cell], ended)

    def _log_of(self, pod: Object, ended: TaskEnd) -> list[str]:
        return self._api.log_tail(pod["metadata"]["name"], ended.container, _LOG_LINES)

    def _obey(self, pods: Mapping[str, Object]) -> None:
        """What was asked for meanwhile: to start nothing more, or to end what runs."""
        if self._stop.now:
            self._drained = True
            end(self._api, self._jobs.values(), pods, running_too=True)
            self._jobs = {}
        elif self.stopped and not self._drained:
            self._drained = True
            self.progress.note(
                "running pods may finish, a block with all of its experiments; no other starts. Ctrl-C again, or "
                "`runner stop --now`, ends them"
            )
            end(self._api, self._jobs.values(), pods, running_too=False)

    def _job(self, cell: Cell) -> Job:
        experiment = next(one for one in self._study.experiments if one.config_hash == cell[0])
        return Job(self._study.name, experiment, cell[1])
