"""What a results directory already has of a study: the whole state of a study is what is on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from images.contract.files import FAILURE_FILE, RESULT_FILE, UnreadableResult, parse_directory_name, read_json
from runner.studies.plan import Cell
from runner.studies.study import Experiment, Study

_SIMULATED = {"simulated_device"}


@dataclass(slots=True)
class Published:
    """Directories of a study by configuration hash and cycle."""

    results: dict[Cell, Path] = field(default_factory=dict)
    failures: Counter[Cell] = field(default_factory=Counter)

    def has(self, experiments: Iterable[Experiment], cycle: int) -> bool:
        return all((experiment.config_hash, cycle) in self.results for experiment in experiments)

    def gpu_set(self, experiments: Iterable[Experiment], cycle: int) -> tuple[str, ...] | None:
        """Where the block's first result was measured; None if it has none, or was measured on the CPU."""
        for experiment in experiments:
            path = self.results.get((experiment.config_hash, cycle))
            uuids = None if path is None else _gpu_uuids(path)
            if uuids:
                return tuple(uuids)
        return None

    def value(self, experiment: Experiment, cycle: int, metric: str) -> float | None:
        """A figure of a cycle's result; None if there is no result, no such figure, or the result is invalid."""
        path = self.results.get((experiment.config_hash, cycle))
        if path is None:
            return None
        try:
            data = read_json(path / RESULT_FILE)
        except UnreadableResult:
            return None
        # Simulated devices make every result invalid; a study on them is as good as its devices.
        if set(data.get("invalid_reasons") or ()) - _SIMULATED:
            return None
        value = data.get(metric)
        return float(value) if isinstance(value, int | float) else None


def scan(output: Path, study: Study) -> Published:
    """Results and failures of the study's experiments.

    A directory that belongs to a study file is read by its names alone. Elsewhere, and where two
    configurations share the hash digits of their names, the files say whose they are.
    """
    short: dict[str, list[Experiment]] = {}
    for experiment in study.experiments:
        short.setdefault(experiment.config_hash[:8], []).append(experiment)
    found = Published()
    with os.scandir(output) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        parsed = parse_directory_name(name)
        if parsed is None or not (candidates := short.get(parsed.hash8)):
            continue
        one = candidates[0] if study.from_file and len(candidates) == 1 else _owner(output / name, study, candidates)
        if one is None:
            continue
        if parsed.failed:
            found.failures[one.config_hash, parsed.cycle] += 1
        else:
            found.results.setdefault((one.config_hash, parsed.cycle), output / name)
    return found


def gpu_sets(study: Study, published: Published, cycles: Sequence[int]) -> dict[tuple[int, int], tuple[str, ...]]:
    """By cycle and number of GPUs, the set that a begun block's results were measured on."""
    groups: dict[int, list[Experiment]] = {}
    for experiment in study.experiments:
        groups.setdefault(experiment.n_gpus, []).append(experiment)
    begun = {}
    for n_gpus, experiments in groups.items():
        for cycle in cycles:
            if not published.has(experiments, cycle) and (uuids := published.gpu_set(experiments, cycle)):
                begun[cycle, n_gpus] = uuids
    return begun


def hashes_with_results(output: Path) -> set[str]:
    """First 8 digits of the hashes of all configurations with a result in `output`."""
    with os.scandir(output) as entries:
        parsed = [parse_directory_name(entry.name) for entry in entries]
    return {name.hash8 for name in parsed if name is not None and not name.failed}


def has_results(output: Path) -> str | None:
    """Name of some finished directory in `output`; None if there is none."""
    with os.scandir(output) as entries:
        return next((entry.name for entry in entries if parse_directory_name(entry.name) is not None), None)


def _owner(directory: Path, study: Study, candidates: Sequence[Experiment]) -> Experiment | None:
    try:
        file = directory / RESULT_FILE
        data = read_json(file if file.exists() else directory / FAILURE_FILE)
    except UnreadableResult:
        return None
    if data.get("study") != study.name:
        return None
    config_hash = data.get("measurement_config_hash")
    return next((one for one in candidates if one.config_hash == config_hash), None)


def _gpu_uuids(directory: Path) -> list[str] | None:
    try:
        environment = read_json(directory / RESULT_FILE).get("environment_snapshot") or {}
    except UnreadableResult:
        return None
    return environment.get("gpu_uuids")
