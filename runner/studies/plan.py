"""From a study to the jobs that are still to be run, in blocks, and how many GPUs they can use."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from images.contract.config import NEEDS_GPU
from images.contract.job import GpuUnusable
from runner.studies.study import Experiment, Job, Study

Cell = tuple[str, int]
"""Configuration hash and cycle: at most one result counts for each."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Jobs that run one after another on one GPU set: a block, or a single job where there are no blocks.

    Attributes:
        n_gpus: that every job needs; 0 is the CPU.
        only: the GPU set that the block's earlier results were measured on.
    """

    jobs: tuple[Job, ...]
    n_gpus: int
    only: tuple[str, ...] | None = None

    @property
    def cycle(self) -> int:
        return self.jobs[0].cycle


def plan_units(
    study: Study,
    cycles: Sequence[int],
    *,
    done: Collection[Cell] = (),
    gpu_sets: Mapping[tuple[int, int], tuple[str, ...]] | None = None,
    on_cpu: bool = False,
) -> list[Unit]:
    """What is still to be run of these cycles, in the order in which it should start.

    Experiments that need more GPUs come first: the small ones fill in what they leave.

    Args:
        done: is not run again.
        gpu_sets: by cycle and number of GPUs, where blocks were begun.
        on_cpu: no job needs a GPU.
    """
    groups = _groups(study, on_cpu)
    if study.placement == "any":
        units = [Unit((job,), 0 if on_cpu else job.experiment.n_gpus) for job in _in_order(study, cycles)]
        units.sort(key=lambda unit: unit.n_gpus, reverse=True)  # stable
    else:
        units = [
            Unit(jobs, n_gpus, _gpu_set(jobs, n_gpus, gpu_sets or {}))
            for n_gpus, experiments in groups
            for jobs in _blocks(study, experiments, n_gpus, cycles)
        ]
    left = (Unit(tuple(job for job in unit.jobs if _cell(job) not in done), unit.n_gpus, unit.only) for unit in units)
    return [unit for unit in left if unit.jobs]


def _gpu_set(
    jobs: Sequence[Job], n_gpus: int, begun: Mapping[tuple[int, int], tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Where any of the cycles was begun; in sequential order a unit has several."""
    return next((begun[job.cycle, n_gpus] for job in jobs if (job.cycle, n_gpus) in begun), None)


def check_gpus(study: Study, n_here: int) -> None:
    """
    Raises:
        GpuUnusable: an experiment needs more GPUs than there are here.
    """
    gpu_only = [one for one in study.experiments if one.config.backend in NEEDS_GPU]
    if gpu_only and not n_here:
        raise GpuUnusable(
            f"experiment '{gpu_only[0].name}': backend {gpu_only[0].config.backend} runs on NVIDIA GPUs only, and none "
            "can be used here.",
            "Use a machine with a GPU, widen CUDA_VISIBLE_DEVICES, or choose another backend.",
        )
    # Processes can share a CPU; a process of several GPUs is nothing without them.
    needs = {one: one.n_gpus if n_here else one.config.gpus_per_process for one in study.experiments}
    too_large = [one for one, needed in needs.items() if needed > max(n_here, 1)]
    if too_large:
        most = max(too_large, key=lambda experiment: experiment.n_gpus)
        others = f" (and {len(too_large) - 1} more experiments)" if len(too_large) > 1 else ""
        raise GpuUnusable(
            f"experiment '{most.name}'{others}: num_processes x gpus_per_process needs {most.n_gpus} GPUs, "
            f"and {n_here} can be used here.",
            "Lower them, or widen CUDA_VISIBLE_DEVICES or the allocation. On the CPU gpus_per_process has to be 1.",
        )


def explain_capacity(study: Study, n_here: int) -> list[str]:
    """How many GPUs the study can use at the same time, and why not more; a line per number of GPUs needed."""
    n_cycles = study.cycles if isinstance(study.cycles, int) else study.cycles.min
    lines = []
    for needs, experiments in _groups(study, on_cpu=n_here == 0):
        sets = _gpu_sets(study, needs, n_here)
        units = n_cycles if study.placement == "block" else n_cycles * len(experiments)
        units = 1 if study.order == "sequential" and study.placement == "block" else units
        at_once = min(sets, units)
        what = f"{len(experiments)} experiment{_s(len(experiments))} x {n_cycles} {_cycles_word(study, n_cycles)}"
        where = "on the CPU" if needs == 0 else f"on {needs} GPU{'s' if needs > 1 else ''} each"
        used = f"{at_once} at a time" if needs == 0 else f"{at_once * needs} of {n_here} GPUs at the same time"
        lines.append(f"{what} {where}: {used}{_why_not_more(study, at_once, sets, needs, n_here)}")
    if study.placement == "any" and n_here > 1:
        lines.append("placement any: GPU confounded - a difference between experiments may be one between boards")
    return lines


def _why_not_more(study: Study, at_once: int, sets: int, needs: int, n_here: int) -> str:
    if study.order == "sequential" and study.placement == "block":
        return ", because sequential order in blocks goes through one GPU set (order: shuffled uses more)"
    if at_once < sets and study.placement == "block":
        return f", because each of the {at_once} cycles is one block on one GPU set (more cycles would use more)"
    if at_once < sets:
        return ", because there are no more jobs"
    if study.launcher.exclusive:
        return ", because the study is exclusive"
    if study.launcher.max_parallel == sets and (needs == 0 or sets < n_here // needs):
        return f", because max_parallel is {sets}" if needs else ""
    if needs > 1 and n_here % needs:
        return f", because sets of {needs} leave {n_here % needs} over"
    return "" if needs else ", because jobs on the CPU would disturb each other (max_parallel allows it)"


def _gpu_sets(study: Study, needs: int, n_here: int) -> int:
    if study.launcher.exclusive:
        return 1
    there = n_here // needs if needs else study.launcher.max_parallel or 1
    return min(there, study.launcher.max_parallel or there)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _cycles_word(study: Study, n_cycles: int) -> str:
    return f"cycle{_s(n_cycles)}" if isinstance(study.cycles, int) else f"pilot cycles (then up to {study.cycles.max})"


def _groups(study: Study, on_cpu: bool) -> list[tuple[int, list[Experiment]]]:
    """Experiments by the number of GPUs they need, the largest first."""
    if on_cpu:
        return [(0, list(study.experiments))]
    ordered = sorted(study.experiments, key=lambda experiment: experiment.n_gpus, reverse=True)
    return [(n_gpus, list(same)) for n_gpus, same in groupby(ordered, key=lambda experiment: experiment.n_gpus)]


def _blocks(study: Study, experiments: list[Experiment], n_gpus: int, cycles: Sequence[int]) -> list[tuple[Job, ...]]:
    """A block per cycle; in sequential order all of them in a row, experiment by experiment, on one GPU set."""
    if study.order == "sequential":
        jobs = [
            Job(study.name, experiment, cycle, position)
            for position, experiment in enumerate(experiments, start=1)
            for cycle in cycles
        ]
        return [tuple(jobs)] if jobs else []
    return [
        tuple(
            Job(study.name, experiment, cycle, position)
            for position, experiment in enumerate(_shuffled(study, experiments, f"{n_gpus}/{cycle}"), start=1)
        )
        for cycle in cycles
    ]


def _in_order(study: Study, cycles: Sequence[int]) -> list[Job]:
    """All jobs of a study without blocks."""
    if study.order == "sequential":
        pairs = [(experiment, cycle) for experiment in study.experiments for cycle in cycles]
    else:
        pairs = [(one, cycle) for cycle in cycles for one in _shuffled(study, study.experiments, f"any/{cycle}")]
    return [Job(study.name, experiment, cycle, at) for at, (experiment, cycle) in enumerate(pairs, start=1)]


def _shuffled(study: Study, experiments: Sequence[Experiment], what: str) -> list[Experiment]:
    """In the seed's order for this part of the study: more cycles later change nothing before them."""
    mixed = list(experiments)
    if study.order == "shuffled":
        random.Random(f"{study.seed}/{what}").shuffle(mixed)
    return mixed


def _cell(job: Job) -> Cell:
    return job.config_hash, job.cycle


def most_at_once(study: Study, n_here: int) -> int:
    """The most jobs that can run at the same time on this many GPUs; 0 GPUs is the CPU."""
    return max(_gpu_sets(study, n_gpus, n_here) for n_gpus, _ in _groups(study, on_cpu=n_here == 0))
