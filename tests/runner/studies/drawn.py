"""Studies whose results are drawn instead of measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runner.studies.adaptive import interval
from runner.studies.cycles import CycleGoal
from runner.studies.plan import Cell
from runner.studies.scan import Published
from runner.studies.settings import Adaptive
from runner.studies.study import Experiment, Study
from tests.runner.sample_studies import experiment

TRUE_MEAN = 3.0


class Drawn(Published):
    """Results whose values are drawn instead of measured, as they are asked for."""

    def __init__(self, draw: np.random.Generator, cv: float, lost: Sequence[Cell] = ()) -> None:
        super().__init__()
        self._draw, self._cv, self._lost = draw, cv, set(lost)
        self._values: dict[Cell, float] = {}

    def measure(self, experiments: Sequence[Experiment], cycles: Sequence[int]) -> None:
        for one in experiments:
            for cycle in cycles:
                cell = (one.config_hash, cycle)
                if cell not in self._values and cell not in self._lost:
                    self.results[cell] = Path()
                    self._values[cell] = TRUE_MEAN * (1.0 + self._cv * float(self._draw.standard_normal()))

    def value(self, experiment: Experiment, cycle: int, metric: str) -> float | None:
        return self._values.get((experiment.config_hash, cycle))


def run(study: Study, published: Drawn, goal: CycleGoal | None = None) -> CycleGoal:
    """As the scheduler does, without jobs."""
    goal = goal or CycleGoal(study)
    tried: set[int] = set()
    wanted = goal.wanted(published)
    while new := [cycle for cycle in wanted if cycle not in tried]:
        published.measure(study.experiments, new)
        tried.update(new)
        goal.look(published, tried, ())
        wanted = goal.wanted(published, tried)
    goal.close()
    return goal


@dataclass(frozen=True)
class Simulated:
    """
    Attributes:
        coverage: part of all intervals that hold the true mean (1).
        n_unequal: studies whose experiments do not have the same number of complete blocks.
        mean_n: blocks per study.
    """

    coverage: float
    n_unequal: int
    mean_n: float


def simulate(rule: Adaptive, cv: float, n_studies: int) -> Simulated:
    """Studies of three experiments with normal noise, through the scheduler's own decisions."""
    study = Study("s", (experiment("a"), experiment("b"), experiment("c")), rule)
    covered, sizes, n_unequal = [], [], 0
    for seed in range(n_studies):
        published = Drawn(np.random.default_rng([seed, int(cv * 1000)]), cv)
        found = run(study, published).adaptive
        assert found is not None
        cycles = range(1, rule.max + 1)
        per_experiment = [
            [value for cycle in cycles if (value := published.value(one, cycle, rule.metric)) is not None]
            for one in study.experiments
        ]
        n_unequal += {len(values) for values in per_experiment} != {found.n}
        sizes.append(found.n or 0)
        for estimate, values in zip(found.pilot, per_experiment, strict=True):
            lower, upper = interval(estimate, values, rule.min)
            covered.append(lower <= TRUE_MEAN <= upper)
    return Simulated(float(np.mean(covered)), n_unequal, float(np.mean(sizes)))
