"""Adaptive cycles: Stein's interval covers what it should, and every experiment of a study gets the same blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runner.studies.adaptive import second_stage
from runner.studies.cycles import CycleGoal
from runner.studies.settings import Adaptive
from runner.studies.study import Experiment, Study
from tests.runner.sample_studies import experiment
from tests.runner.studies.drawn import Drawn, run, simulate

RULE = Adaptive(min=5, max=60, half_width=0.02)


@pytest.mark.parametrize("cv", [0.01, 0.02, 0.03])
def test_steins_interval_covers_95_percent_and_all_experiments_have_as_many_blocks(cv: float) -> None:
    found = simulate(RULE, cv, n_studies=2000)
    assert found.n_unequal == 0
    assert 0.93 <= found.coverage <= 0.97


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


def test_a_pilot_that_cannot_be_completed_is_not_running_for_ever() -> None:
    a = experiment("a")
    published = Drawn(np.random.default_rng(5), 0.01, lost=[(a.config_hash, cycle) for cycle in (2, 3)])
    found = run(Study("s", (a,), Adaptive(min=5, max=6)), published).adaptive
    assert found is not None
    assert (found.n, found.outcome) == (None, "not_reached")


def test_a_study_that_was_short_of_blocks_is_reached_when_a_later_run_completes_them() -> None:
    a = experiment("a")
    study = Study("s", (a,), Adaptive(min=5, max=6))
    published = Drawn(np.random.default_rng(7), 0.0)
    goal = run(study, published)
    assert goal.adaptive is not None
    short = goal.adaptive.model_copy(update={"outcome": "not_reached"})
    again = run(study, published, CycleGoal(study, short)).adaptive
    assert again is not None
    assert again.outcome == "reached"


def test_an_experiment_that_never_works_does_not_keep_the_others_from_their_number() -> None:
    a, b = experiment("a"), experiment("b")
    published = Drawn(np.random.default_rng(6), 0.0, lost=[(b.config_hash, cycle) for cycle in range(1, 31)])
    found = run(Study("s", (a, b), Adaptive(min=5, max=30)), published).adaptive
    assert found is not None
    assert (found.n, found.outcome, [one.experiment for one in found.pilot]) == (5, "reached", ["a"])
    assert len(published.results) == 5


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
