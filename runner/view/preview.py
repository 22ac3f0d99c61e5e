"""What `runner run` would do here, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from images.contract.scheduling import AdaptiveCycles
from images.contract.study import StudyRecord
from runner.layout import Layout
from runner.studies.cycles import CycleGoal
from runner.studies.plan import Unit, explain_capacity, plan_units
from runner.studies.record import NotThisStudy, check
from runner.studies.scan import Published, scan
from runner.studies.settings import Adaptive
from runner.studies.study import Study

_SHOWN = 12


def describe_plan(study: Study, n_gpus: int, output: Path, *, everything: bool = False) -> Iterator[str]:
    """Lines: the study, its experiments, how many GPUs they can use and why, and the units in their order.

    Args:
        n_gpus: that the study may use here; 0 is the CPU.
        everything: however many lines that is.
    """
    record, problem = _record(Layout(output), study, n_gpus > 0)
    goal = CycleGoal(study, record.cycles if record and isinstance(record.cycles, AdaptiveCycles) else None)
    published = scan(output, study) if output.is_dir() else Published()
    cycles = goal.wanted(published)
    units = plan_units(study, cycles, done=published.results, on_cpu=n_gpus == 0)
    n_left = sum(len(unit.jobs) for unit in units)
    n_jobs = len(study.experiments) * len(cycles)
    n_experiments = len(study.experiments)
    yield f"study {study.name}: {_cycles(study)} of {n_experiments} experiments, {n_jobs} jobs, {n_left} to run"
    yield f"  launcher {study.launcher.name}, placement {study.placement}, order {study.order} (seed {study.seed})"
    yield f"  results in {output}"
    if problem is not None:
        yield f"  would be refused: {problem}"
    width = max(len(one.name) for one in study.experiments)
    shown = None if everything else _SHOWN
    for one in study.experiments[:shown]:
        what = f"{one.config_hash[:8]}  {one.config.backend}  {one.config.model}  {_gpus(one.n_gpus, n_gpus)}"
        yield f"  {one.name:<{width}}  {what}"
    if not everything and n_experiments > _SHOWN:
        yield f"  ... and {n_experiments - _SHOWN} more (--all)"
    yield from explain_capacity(study, n_gpus)
    for unit in units[:shown]:
        yield _unit(unit, study)
    if not everything and len(units) > _SHOWN:
        yield f"  ... and {len(units) - _SHOWN} more (--all)"


def _record(layout: Layout, study: Study, on_gpus: bool) -> tuple[StudyRecord | None, NotThisStudy | None]:
    """What the directory knows of the study, and why it would be refused, if so."""
    try:
        return check(layout, study, False, on_gpus)[1], None
    except NotThisStudy as error:
        return None, error


def _unit(unit: Unit, study: Study) -> str:
    if study.placement == "any":
        return f"  {unit.jobs[0].label}"
    if study.order == "sequential":
        return f"  one after another: {', '.join(job.label for job in unit.jobs)}"
    return f"  block c{unit.cycle:03d}: {', '.join(job.experiment.name for job in unit.jobs)}"


def _gpus(needed: int, here: int) -> str:
    return "CPU" if here == 0 else f"{needed} GPU{'s' if needed > 1 else ''}"


def _cycles(study: Study) -> str:
    if isinstance(study.cycles, Adaptive):
        rule = study.cycles
        return f"{rule.min} to {rule.max} cycles (for {rule.metric} +- {rule.half_width:.1%})"
    return f"{study.cycles} cycles"
