"""A study on a cluster: submit, follow, bring home, until every cycle has its result. The cluster does the rest.

Whoever dies, the client or a node, nothing is lost: the Jobs go on, what they measured is published before their pods
end, and running again takes all of it up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from images.contract.job import Interrupted, JobError
from images.contract.report import JobReport
from images.contract.scheduling import AdaptiveCycles
from images.contract.study import StudyRecord
from runner.cluster.api import Api, Object
from runner.cluster.home import Home
from runner.cluster.images import study_images
from runner.cluster.manifests import cluster_jobs
from runner.cluster.observed import (
    JobEnd,
    TaskEnd,
    Trouble,
    failure_without_a_word,
    is_over,
    job_end,
    quota_trouble,
    running_task,
    task_ends,
    trouble_of,
)
from runner.cluster.sources import source_of
from runner.cluster.submitted import Submitted, clear, end, job_of, selector, submit, submitted
from runner.cluster.watching import Mirror
from runner.interrupt import Stop
from runner.launchers import EngineAway, LaunchFailed, LaunchImpossible
from runner.layout import Attempt, Layout, slug
from runner.outcome import Outcome
from runner.schedule import StudyBusy, Summary
from runner.studies.cycles import CycleGoal
from runner.studies.plan import Cell
from runner.studies.record import claim
from runner.studies.scan import scan
from runner.studies.study import Job, Study
from runner.view.progress import Progress

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 600.0
_FATAL_AFTER_S = 600.0
_GOING_S = 60.0
_QUIET_S = 10.0
_SETTLE_S = 2.0
_LOG_LINES = 50


def run_on_cluster(
    study: Study, layout: Layout, api: Api, progress: Progress, stop: Stop, *, allow_tag: bool, extend: bool
) -> Summary:
    """Run what the study has no results of yet.

    Raises:
        OutputUnusable, StudyBusy, NotThisStudy: as of a study on this host.
        ConfigInvalid: something that a cluster needs to know is not said.
        LaunchFailed: the cluster, or the place of the results, cannot be used.
    """
    images = study_images(study, allow_tag=allow_tag)
    layout.prepare()
    with layout.lock(study.name) as held:
        if not held:
            raise StudyBusy(f"another runner follows study '{study.name}' in {layout.output}.", "Wait for it.")
        with layout.alone():
            record = claim(layout, study, extend, on_gpus=study.launcher.gpus != "none")
        for attempt in layout.attempts().get(slug(study.name), []):
            attempt.remove()  # half brought home by a runner that was killed; it is still where it was
        reader = next(iter(images.values())).reference
        with source_of(study, api, reader) as source:
            done = set(scan(layout.output, study).results)
            follower = Follower(study, layout, api, progress, stop, Home(study, layout, source, done))
            return _run_cycles(study, record, layout, follower, allow_tag)


def _run_cycles(
    study: Study, record: StudyRecord | None, layout: Layout, follower: Follower, allow_tag: bool
) -> Summary:
    goal = CycleGoal(study, record.cycles if record and isinstance(record.cycles, AdaptiveCycles) else None)
    wanted = goal.wanted(scan(layout.output, study))
    follower.begin(wanted)
    tried: set[int] = set()
    while new := [cycle for cycle in wanted if cycle not in tried]:
        follower.run(new, allow_tag)
        published = scan(layout.output, study)
        tried.update(new)
        if follower.stopped:
            break
        if found := goal.look(published, tried, ()):
            follower.progress.note(found)
        wanted = goal.wanted(published, tried, ())
        if tried.issuperset(wanted):
            goal.close()
        if record is not None and goal.adaptive is not None:
            record.model_copy(update={"cycles": goal.adaptive}).save(layout.output)
        follower.progress.grow(len(study.experiments) * len(wanted))
    return follower.summary(wanted, goal.adaptive)


class Follower:
    """Submits Jobs and follows their pods.

    Attributes:
        stopped: nothing more is to be submitted.
    """

    def __init__(self, study: Study, layout: Layout, api: Api, progress: Progress, stop: Stop, home: Home) -> None:
        self._study, self._layout, self._api, self._home = study, layout, api, home
        self.progress, self._stop = progress, stop
        self._jobs: dict[str, Submitted] = {}
        self._outcomes: dict[Cell, Outcome] = {}
        self._tries: Counter[Cell] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._running: set[tuple[str, str]] = set()
        self._said: set[tuple[str, str]] = set()
        self._fatal_since: dict[str, float] = {}
        self._events: dict[str, list[Object]] = {}
        self._events_asked: dict[str, float] = {}
        self._over_since: dict[str, float] = {}
        self._last_end: dict[Cell, tuple[TaskEnd, Object]] = {}
        self._problem: JobError | None = None
        self._drained = False
        self._gone: list[Object] = []
        self._mine: set[str] = set()

    @property
    def stopped(self) -> bool:
        return self._stop.drain or self._problem is not None

    def begin(self, wanted: Sequence[int]) -> None:
        n_wanted, n_done = self._count(wanted)
        self.progress.begin(n_wanted, n_done, slots=2)

    def summary(self, wanted: Sequence[int], adaptive: AdaptiveCycles | None) -> Summary:
        n_wanted, n_done = self._count(wanted)
        problem = self._problem
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
        self._jobs = {one.name: one for one in self._there()}
        known = {cell for job in self._jobs.values() for cell in job.cells}
        missing = cluster_jobs(
            self._study,
            cycles,
            study_images(self._study, allow_tag=allow_tag),
            on_cpu=self._study.launcher.gpus == "none",
            done=self._home.done | known,
        )
        if self._jobs:
            self.progress.note(f"{len(self._jobs)} Jobs of this study are in the cluster already; they are followed")
        for job in missing:
            if self._stop.drain:
                break
            made = submit(self._api, job)
            self._jobs[made.name] = made
        self._mine |= self._jobs.keys()
        if missing:
            self.progress.note(f"{len(missing)} Jobs submitted to the namespace {self._api.namespace}")
        self._follow()

    def _there(self) -> list[Submitted]:
        """This study's Jobs, once those that were removed before are gone.

        Raises:
            LaunchImpossible: one is of another version of the study.
        """
        give_up_s = time.monotonic() + _GOING_S
        found, _ = self._api.find("Job", selector(self._study))
        while any("deletionTimestamp" in job["metadata"] for job in found) and time.monotonic() < give_up_s:
            time.sleep(_LOOK_EVERY_S)
            found, _ = self._api.find("Job", selector(self._study))
        known = {one.config_hash for one in self._study.experiments}
        there = [one for job in found if (one := submitted(job)) is not None]
        strange = next((job.name for job in there if not {cell[0] for cell in job.cells} <= known), None)
        if strange is not None:
            raise LaunchImpossible(
                f"the Job {strange} is of another version of study '{self._study.name}'.",
                "End it with that version's `runner stop`, or choose another name.",
            )
        return there

    def _follow(self) -> None:
        changed, heard_s = threading.Event(), time.monotonic()
        chosen = selector(self._study)
        with (
            Mirror(self._api, "Job", chosen, changed, _PATIENCE_S) as jobs,
            Mirror(self._api, "Pod", chosen, changed, _PATIENCE_S) as pods,
        ):
            while self._jobs:
                changed.wait(_LOOK_EVERY_S)
                changed.clear()
                self._gone += pods.take_gone()
                all_pods, all_jobs = pods.objects(), jobs.objects()
                try:
                    for pod in (*self._gone, *all_pods.values()):
                        self._look(pod)
                    self._gone.clear()
                    self._settle(all_jobs, all_pods)
                    self._obey(all_pods)
                    heard_s = time.monotonic()
                except EngineAway:
                    if time.monotonic() - heard_s > _PATIENCE_S:
                        raise
        clear(self._api, self._study, self._mine)

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
        self._tell(name, trouble_of(pod))

    def _ended(self, job: Job, ended: TaskEnd, pod: Object) -> None:
        cell = (job.config_hash, job.cycle)
        self._last_end[cell] = (ended, pod)
        report = ended.report
        if report is None or report.outcome == "interrupted":
            return  # its Job decides whether it is tried again
        if report.outcome in ("result", "earlier"):
            self._keep(self._home.bring_result(job))
        else:
            self._keep(self._home.bring_failure(job, report) or self._unpublished(job, report, ended, pod))

    def _unpublished(self, job: Job, report: JobReport, ended: TaskEnd, pod: Object) -> Outcome:
        """A failure that only the pod tells of."""
        tail = self._api.log_tail(pod["metadata"]["name"], ended.container, _LOG_LINES)
        cause = ("JobFailed", report.exit_code or ended.exit_code, report.message, report.advice)
        return self._home.write_failure(job, cause, tail, self._tries[job.config_hash, job.cycle])

    def _keep(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._outcomes[outcome.job.config_hash, outcome.job.cycle] = outcome
            self.progress.ended(outcome.job, outcome, None)

    def _tell(self, name: str, trouble: Trouble | None) -> None:
        """Once for each kind; what does not go away ends the study."""
        if trouble is None:
            self._fatal_since.pop(name, None)
            return
        if (name, trouble.code) not in self._said:
            self._said.add((name, trouble.code))
            self.progress.note(str(trouble))
        if trouble.fatal:
            since_s = self._fatal_since.setdefault(name, time.monotonic())
            if time.monotonic() - since_s >= _FATAL_AFTER_S:
                self._fail(LaunchImpossible(trouble.message, trouble.advice))

    def _settle(self, jobs: Mapping[str, Object], pods: Mapping[str, Object]) -> None:
        """Take Jobs that are over off the list, and say why cycles of theirs have no result."""
        now_s = time.monotonic()
        for job in list(self._jobs.values()):
            found = jobs.get(job.name)
            own = [pod for pod in pods.values() if job_of(pod) == job.name]
            ended = None if found is None else job_end(found)
            if found is not None and ended is None:
                if not own:
                    self._tell(job.name, quota_trouble(job.name, self._quiet_events(job.name)))
                continue
            if any(not is_over(pod) for pod in own):
                continue  # also of a Job that was removed: they may finish
            if now_s - self._over_since.setdefault(job.name, now_s) < _SETTLE_S:
                continue  # what its last pod said may still be on its way
            for cell in job.cells:
                self._keep(self._home.bring_result(self._job(cell)))
                if not self._drained and cell not in self._home.done | self._outcomes.keys():
                    last, pod = self._last_end.get(cell, (None, own[-1] if own else None))
                    cause = failure_without_a_word(last, pod, ended or JobEnd(True, "", "somebody removed it"))
                    tail = (
                        self._api.log_tail(pod["metadata"]["name"], last.container, _LOG_LINES) if last and pod else []
                    )
                    self._keep(self._home.write_failure(self._job(cell), cause, tail, self._tries[cell]))
            del self._jobs[job.name]

    def _quiet_events(self, name: str) -> list[Object]:
        """Asked for now and then only."""
        now_s = time.monotonic()
        asked_s = self._events_asked.get(name)
        if asked_s is None or now_s - asked_s >= _QUIET_S:
            self._events_asked[name] = now_s
            self._events[name] = self._api.events_of(name)
        return self._events[name]

    def _obey(self, pods: Mapping[str, Object]) -> None:
        """What was asked for meanwhile: to start nothing more, or to end what runs."""
        if self._stop.now:
            self._drained = True
            end(self._api, self._jobs.values(), pods, running_too=True)
            self._jobs = {}
        elif self.stopped and not self._drained:
            self._drained = True
            self.progress.note(
                "running pods may finish, nothing starts; Ctrl-C again, or `runner stop --now`, ends them"
            )
            end(self._api, self._jobs.values(), pods, running_too=False)

    def _fail(self, problem: LaunchFailed) -> None:
        self._problem = self._problem or problem

    def _job(self, cell: Cell) -> Job:
        experiment = next(one for one in self._study.experiments if one.config_hash == cell[0])
        return Job(self._study.name, experiment, cell[1])
