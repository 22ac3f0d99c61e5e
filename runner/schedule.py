"""A whole study, from what is on disk to what it still needs, until every cycle has its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from images.contract.job import ExitCode, Interrupted, JobError
from images.contract.scheduling import AdaptiveCycles
from images.contract.study import StudyRecord
from runner.dispatch import Dispatcher
from runner.execute import Run
from runner.gpu.gpus import every_gpu
from runner.gpu.leases import LeaseRecord
from runner.gpu.neighbours import Neighbourhood
from runner.gpu.settle import check_power_limits
from runner.gpu.slots import Owner, Slots, forget_dead
from runner.host import Host
from runner.interrupt import Stop
from runner.layout import Layout, slug
from runner.outcome import Outcome
from runner.recovery import end_orphans, recover
from runner.studies.cycles import CycleGoal
from runner.studies.plan import Unit, most_at_once, plan_units
from runner.studies.record import claim
from runner.studies.scan import Published, gpu_sets, scan
from runner.studies.study import Study
from runner.view.progress import Progress

_PATIENCE_S = 3.0
"""Another study's runner may be clearing up what this one's had left."""


class StudyBusy(JobError):
    exit_code = ExitCode.USAGE


@dataclass(slots=True)
class Summary:
    """What a call of the runner did.

    Attributes:
        n_results: cycles of the study that have a result now, of `n_wanted`.
        outcomes: each job's last try in this call.
        problem: what ended the study before all was done.
        adaptive: the rule and what it found.
    """

    n_wanted: int
    n_results: int
    outcomes: list[Outcome]
    problem: JobError | OSError | None = None
    adaptive: AdaptiveCycles | None = None


def run_study(
    study: Study,
    layout: Layout,
    host: Host,
    progress: Progress,
    stop: Stop,
    *,
    extend: bool = False,
    before_jobs: Callable[[], None] = lambda: None,
) -> Summary:
    """Run what the study has no results of yet.

    Args:
        extend: allow the study to have grown since it ran.
        before_jobs: called once everything is checked, such as to download models.

    Returns:
        What was done; its `problem` is what ended the study early: `GpuUnusable`, `LaunchFailed`, `OnlyFailures`,
        `OutputFull`, `Interrupted`, or an OSError of the output (what was measured stays for the next run).

    Raises:
        OutputUnusable: the output cannot be written.
        StudyBusy: another runner works on this study.
        NotThisStudy: the output belongs to another one.
        GpuUnusable: a GPU's power limit is not the expected one.
        LaunchFailed: what an earlier runner left cannot be ended.
        OSError: the disk is full, or fails.
    """
    check_power_limits(host.gpu_uuids, study.launcher.power_limit_w)
    layout.prepare()
    before = layout.runner(study.name)
    with layout.lock(study.name, patience_s=_PATIENCE_S) as held:
        if not held:
            holder = layout.runner(study.name)
            raise StudyBusy(
                f"another runner{f' (pid {holder.pid})' if holder else ''} works on study '{study.name}' in "
                f"{layout.output}.",
                "Wait for it, follow it with `runner status`, end it with `runner stop`, or use another name.",
            )
        with layout.alone():
            record = claim(layout, study, extend, on_gpus=bool(host.gpu_uuids))
        if before is not None and not before.alive:
            progress.note(f"an earlier runner (pid {before.pid}) was killed; what it left is cleared up")
        recover(layout, host.launchers, study.name, host.launcher.name, progress.note)
        if host.gpu_uuids:
            forget_dead(host.leases, lambda record: is_cleared(record, layout))
        before_jobs()
        summary = _run_cycles(study, record, layout, host, progress, stop)
        if summary.problem is None:
            end_orphans(host.launcher, slug(study.name), layout)
        return summary


def _run_cycles(
    study: Study, record: StudyRecord | None, layout: Layout, host: Host, progress: Progress, stop: Stop
) -> Summary:
    """Run the cycles that are wanted, look what came out, and do so again until no further one is wanted."""
    goal = CycleGoal(study, record.cycles if record and isinstance(record.cycles, AdaptiveCycles) else None)
    published = scan(layout.output, study)
    wanted = goal.wanted(published)
    dispatcher = _dispatcher(study, layout, host, progress, stop, published)
    progress.begin(_size(study, wanted), _count(study, wanted, published), dispatcher.at_once)
    tried: set[int] = set()
    while new := [cycle for cycle in wanted if cycle not in tried]:
        units = _units(study, new, published, host)
        dispatcher.run_units(units, _done_in_block(study, published, host), goal.adaptive)
        published = scan(layout.output, study)
        tried.update(new)
        if stop.drain:
            break
        if found := goal.look(published, tried, dispatcher.set_aside):
            progress.note(found)
        wanted = goal.wanted(published, tried, dispatcher.set_aside)
        if tried.issuperset(wanted):
            goal.close()
        _keep(goal.adaptive, record, layout)
        progress.grow(_size(study, wanted))
    problem = dispatcher.problem
    n_results = _count(study, wanted, published)
    if problem is None and stop.drain and n_results < _size(study, wanted) and not dispatcher.hopeless:
        problem = Interrupted("interrupted before all was done.", "Finished cycles are kept; run again to go on.")
    return Summary(_size(study, wanted), n_results, dispatcher.outcomes, problem, goal.adaptive)


def _dispatcher(
    study: Study, layout: Layout, host: Host, progress: Progress, stop: Stop, published: Published
) -> Dispatcher:
    leases = host.leases if host.gpu_uuids else None
    run = Run(study, host.launcher, host.identities, layout, progress, stop, Neighbourhood(leases, layout.output))
    slots = None
    whole_host = every_gpu() if study.launcher.exclusive else ()
    if host.gpu_uuids or whole_host:
        owner = Owner(output=layout.output, study=study.name, launcher=host.launcher.name)
        slots = Slots(host.gpu_uuids, host.leases, owner, exclusive=whole_host)
    return Dispatcher(run, slots, most_at_once(study, len(host.gpu_uuids)), host.launchers, published.failures)


def is_cleared(record: LeaseRecord, layout: Layout) -> bool:
    """Whether a dead runner's job is known to have ended: its attempt in this output is gone."""
    return record.output == layout.output and (record.attempt is None or not record.attempt.exists())


def _units(study: Study, cycles: Sequence[int], published: Published, host: Host) -> list[Unit]:
    on_cpu = not host.gpu_uuids
    begun = {} if on_cpu or study.placement == "any" else gpu_sets(study, published, cycles)
    return plan_units(study, cycles, done=published.results, gpu_sets=begun, on_cpu=on_cpu)


def _done_in_block(study: Study, published: Published, host: Host) -> Counter[tuple[int, int]]:
    """Results that there are, by cycle and number of GPUs."""
    gpus = {one.config_hash: one.n_gpus if host.gpu_uuids else 0 for one in study.experiments}
    return Counter((cycle, gpus[config_hash]) for config_hash, cycle in published.results)


def _size(study: Study, cycles: Collection[int]) -> int:
    return len(study.experiments) * len(cycles)


def _count(study: Study, cycles: Collection[int], published: Published) -> int:
    return sum((one.config_hash, cycle) in published.results for one in study.experiments for cycle in cycles)


def _keep(adaptive: AdaptiveCycles | None, record: StudyRecord | None, layout: Layout) -> None:
    if record is not None and adaptive is not None:
        record.model_copy(update={"cycles": adaptive}).save(layout.output)
