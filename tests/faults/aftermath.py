"""What may not be after a study whose runners and jobs were killed: too few results, too many, or leftovers."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from images.contract.result import ExperimentResult
from tests.docker_engine import containers_of, engine_problem
from tests.runner.command import leftovers, results


@dataclass(frozen=True)
class Aftermath:
    n_results: int
    problems: list[str]


def problems_of(output: Path, study: str, n_experiments: int, n_cycles: int, leases: Path) -> Aftermath:
    found = results(output)
    cells = Counter((one.measurement_config_hash, one.cycle) for one in found)
    hashes = {one.measurement_config_hash for one in found}
    problems = [f"{cell} has {count} results" for cell, count in cells.items() if count > 1]
    if (len(hashes), len(cells)) != (n_experiments, n_experiments * n_cycles):
        problems.append(f"{len(hashes)} experiments and {len(cells)} cycles have results")
    if len({one.experiment_id for one in found}) != len(found):
        problems.append("an experiment id is there twice")
    problems += overlaps(found) + split_blocks(found)
    problems += [f"left behind: {path}" for path in leftovers(output)]
    problems += [f"left in a result: {path}" for path in output.glob("*/.*") if path.parent.name != ".attempts"]
    problems += [f"a lease is left: {path.name}" for path in leases.glob("*") if path.name.startswith("GPU-")]
    problems += [f"a process is left: {pid}" for pid in processes_in(output)]
    if engine_problem() is None:
        problems += [f"a container is left: {name}" for name in containers_of(study)]
    return Aftermath(len(found), problems)


def overlaps(found: list[ExperimentResult]) -> list[str]:
    """GPUs that two results were measured on at the same time, by their own time stamps and UUIDs."""
    by_gpu: dict[str, list[ExperimentResult]] = defaultdict(list)
    for one in found:
        for uuid in gpus_of(one):
            by_gpu[uuid].append(one)
    problems = []
    for uuid, on_it in by_gpu.items():
        on_it.sort(key=lambda one: one.start_time)
        for before, after in pairwise(on_it):
            if after.start_time < before.end_time:
                problems.append(f"{uuid} was used by {before.experiment_id} and {after.experiment_id} at the same time")
    return problems


def split_blocks(found: list[ExperimentResult]) -> list[str]:
    """Cycles whose results are not all of one block and one GPU set."""
    blocks: dict[int | None, set[tuple[str | None, tuple[str, ...]]]] = defaultdict(set)
    for one in found:
        blocks[one.cycle].add((one.block, gpus_of(one)))
    return [f"cycle {cycle} is split: {sorted(map(str, sets))}" for cycle, sets in blocks.items() if len(sets) > 1]


def gpus_of(one: ExperimentResult) -> tuple[str, ...]:
    return tuple((one.environment_snapshot and one.environment_snapshot.gpu_uuids) or ())


def processes_in(output: Path) -> list[int]:
    """Processes that work below `output`; its runners are not among them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith(f"{output}/.attempts") for part in process.info["cmdline"] or []):
            found.append(process.pid)
    return found
