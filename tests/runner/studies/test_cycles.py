"""Adaptive cycles: Stein's interval covers what it should, and every experiment of a study gets the same blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runner.studies.adaptive import interval, second_stage
from runner.studies.cycles import CycleGoal
from runner.studies.plan import Cell
from runner.studies.scan import Published
from runner.studies.settings import Adaptive
from runner.studies.study import Experiment, Study
from tests.runner.sample_studies import experiment

STUDIES = 2000
RULE = Adaptive(min=5, max=60, half_width=0.02)


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
                    self._values[cell] = 3.0 * (1.0 + self._cv * float(self._draw.standard_normal()))

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
    return goal


@pytest.mark.parametrize("cv", [0.01, 0.02, 0.03])
def test_steins_interval_covers_95_percent_and_all_experiments_have_as_many_blocks(cv: float) -> None:
    study = Study("s", (experiment("a"), experiment("b"), experiment("c")), RULE)
    covered = []
    for seed in range(STUDIES):
        published = Drawn(np.random.default_rng([seed, int(cv * 1000)]), cv)
        found = run(study, published).adaptive
        assert found is not None
        assert found.n is not None
        assert found.outcome in ("reached", "not_reached")
        per_experiment = [
            [published.value(one, cycle, RULE.metric) for cycle in range(1, RULE.max + 1)] for one in study.experiments
        ]
        for estimate, maybe in zip(found.pilot, per_experiment, strict=True):
            values = [value for value in maybe if value is not None]
            assert len(values) == found.n
            lower, upper = interval(estimate, values, RULE.min)
            covered.append(lower <= 3.0 <= upper)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_n_is_the_largest_that_an_experiment_needs_by_the_formula() -> None:
    steady, noisy = experiment("steady"), experiment("noisy")
    found = second_stage(RULE, {steady: [10.0, 10.0, 10.0, 10.0, 10.1], noisy: [10.0, 10.4, 9.6, 10.2, 9.8]})
    s = math.sqrt(0.1)
    assert [estimate.n_required for estimate in found.pilot] == [1, math.ceil((2.7764451 * s / (0.02 * 10.0)) ** 2)]
    assert (found.n, found.outcome) == (20, "running")


def test_what_would_take_more_than_max_says_that_the_target_is_not_reached() -> None:
    study = Study("s", (experiment("a"),), Adaptive(min=5, max=7, half_width=0.001))
    published = Drawn(np.random.default_rng(1), 0.05)
    found = run(study, published).adaptive
    assert found is not None
    assert (found.n, found.outcome, len(published.results)) == (7, "not_reached", 7)


def test_a_block_that_cannot_be_completed_is_replaced_and_the_pilot_takes_complete_ones_only() -> None:
    a, b = experiment("a"), experiment("b")
    published = Drawn(np.random.default_rng(2), 0.0, lost=[(b.config_hash, 2)])
    found = run(Study("s", (a, b), Adaptive(min=5, max=9)), published).adaptive
    assert found is not None
    assert (found.n, found.outcome) == (5, "reached")
    assert sorted(cycle for _, cycle in published.results if _ == b.config_hash) == [1, 3, 4, 5, 6]


def test_a_metric_that_nothing_measures_ends_at_the_pilot_and_says_so() -> None:
    study = Study("s", (experiment("a"),), RULE)

    class Unmeasured(Drawn):
        def value(self, experiment: Experiment, cycle: int, metric: str) -> float | None:
            return None

    published = Unmeasured(np.random.default_rng(3), 0.01)
    found = run(study, published).adaptive
    assert found is not None
    assert (found.n, found.outcome, len(published.results)) == (5, "not_measured", 5)


def test_a_resumed_study_keeps_the_number_that_its_pilot_gave() -> None:
    study = Study("s", (experiment("a"),), RULE)
    first = run(study, published := Drawn(np.random.default_rng(4), 0.03)).adaptive
    assert first is not None
    published._values.clear()
    published.results.clear()
    again = run(study, published, CycleGoal(study, first)).adaptive
    assert again is not None
    assert (again.n, again.pilot) == (first.n, first.pilot)
