"""Blocks: what runs in which order on one GPU set, and how many GPUs a study can use."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from images.contract.job import GpuUnusable
from images.contract.scheduling import block_name
from runner.studies.plan import Unit, check_gpus, explain_capacity, most_at_once, plan_units
from runner.studies.settings import Adaptive, LauncherSettings
from runner.studies.study import Study
from tests.runner.sample_studies import experiment, study

LETTERS = "abcdefgh"


def names(units: list[Unit]) -> list[str]:
    return ["".join(job.experiment.name for job in unit.jobs) for unit in units]


def test_every_block_holds_every_experiment_once_in_an_order_of_the_seed() -> None:
    first = plan_units(study(*LETTERS), range(1, 9))
    assert [unit.cycle for unit in first] == list(range(1, 9))
    assert all(sorted(name) == list(LETTERS) for name in names(first))
    assert len(set(names(first))) > 1, "every block has an order of its own"
    assert [[job.position for job in unit.jobs] for unit in first] == [list(range(1, 9))] * 8
    assert names(plan_units(study(*LETTERS), range(1, 9))) == names(first)
    assert names(plan_units(study(*LETTERS, seed=43), range(1, 9))) != names(first)


def test_more_cycles_change_no_order_before_them() -> None:
    assert names(plan_units(study(*LETTERS), range(1, 9)))[:3] == names(plan_units(study(*LETTERS), range(1, 4)))


def test_what_is_done_is_left_out_and_the_rest_stays_on_its_gpus_in_its_place() -> None:
    whole = study("a", "b", "c", order="interleaved")
    a, b, c = (one.config_hash for one in whole.experiments)
    done = {(a, 1), (b, 1), (c, 1), (b, 2)}
    units = plan_units(whole, range(1, 4), done=done, gpu_sets={(2, 1): ("GPU-5",)})
    assert names(units) == ["ac", "abc"]
    assert [unit.only for unit in units] == [("GPU-5",), None]
    assert [job.position for job in units[0].jobs] == [1, 3]


def test_interleaved_keeps_the_written_order_and_sequential_goes_through_one_gpu_set() -> None:
    assert names(plan_units(study("a", "b", order="interleaved"), [1, 2])) == ["ab", "ab"]
    (unit,) = plan_units(study("a", "b", order="sequential"), [1, 2])
    assert [job.label for job in unit.jobs] == ["a c001", "a c002", "b c001", "b c002"]


def test_without_blocks_every_job_finds_its_own_gpus() -> None:
    units = plan_units(study("a", "b", "c", placement="any"), [1, 2])
    assert [len(unit.jobs) for unit in units] == [1] * 6
    assert sorted(names(units)[:3]) == sorted(names(units)[3:]) == ["a", "b", "c"]
    assert [unit.jobs[0].position for unit in units] == list(range(1, 7))


def mixed() -> Study:
    return Study("mixed", (experiment("one"), experiment("four", gpus=4), experiment("also"), experiment("two", 2)), 2)


def test_experiments_of_different_sizes_are_in_blocks_of_their_own_the_largest_first() -> None:
    units = plan_units(replace(mixed(), order="interleaved"), [1, 2])
    assert [(unit.n_gpus, unit.cycle) for unit in units] == [(4, 1), (4, 2), (2, 1), (2, 2), (1, 1), (1, 2)]
    assert names(units)[-1] == "onealso"
    on_cpu = plan_units(mixed(), [1, 2], on_cpu=True)
    assert [(unit.n_gpus, len(unit.jobs)) for unit in on_cpu] == [(0, 4), (0, 4)]


def test_a_blocks_name_is_its_cycle_and_its_gpus_in_any_order() -> None:
    assert block_name(3, ["GPU-a", "GPU-b"]) == block_name(3, ["GPU-b", "GPU-a"])
    assert len({block_name(3, ["GPU-a"]), block_name(4, ["GPU-a"]), block_name(3, ["GPU-b"])}) == 3
    assert block_name(12, []) == "c012-cpu"


def test_more_gpus_than_there_are_is_told_with_the_experiments_name() -> None:
    check_gpus(mixed(), 4)
    with pytest.raises(GpuUnusable, match="and 0 can be used here"):
        check_gpus(mixed(), 0)
    with pytest.raises(GpuUnusable, match=r"'four': .*needs 4 GPUs, and 3 can be used here"):
        check_gpus(mixed(), 3)


@pytest.mark.parametrize(
    ("change", "gpus", "at_once", "said"),
    [
        ({"cycles": 8}, 8, 8, "4 experiments x 8 cycles on 1 GPU each: 8 of 8 GPUs at the same time"),
        ({"cycles": 3}, 8, 8, "3 of 8 GPUs at the same time, because each of the 3 cycles is one block"),
        ({"cycles": 3, "placement": "any"}, 8, 8, "8 of 8 GPUs at the same time"),
        ({"cycles": 3, "placement": "any"}, 8, 8, "GPU confounded"),
        ({"cycles": 8, "launcher": LauncherSettings(max_parallel=2)}, 8, 2, "2 of 8 GPUs .* because max_parallel is 2"),
        ({"cycles": 8, "launcher": LauncherSettings(exclusive=True)}, 8, 1, "1 of 8 .* because the study is exclusive"),
        ({"cycles": 8, "order": "sequential"}, 8, 8, "1 of 8 GPUs .* goes through one GPU set"),
        ({"cycles": Adaptive(min=5, max=9)}, 4, 4, r"x 5 pilot cycles \(then up to 9\) on 1 GPU each: 4 of 4"),
        ({"cycles": 8}, 0, 1, "on the CPU: 1 at a time, because jobs on the CPU would disturb each other"),
    ],
)
def test_the_plan_says_how_many_gpus_it_can_use_and_why_not_more(
    change: dict[str, object], gpus: int, at_once: int, said: str
) -> None:
    changed = replace(study("a", "b", "c", "d"), **change)  # type: ignore[arg-type]
    assert most_at_once(changed, gpus) == at_once
    text = "\n".join(explain_capacity(changed, gpus))
    assert re.search(said, text), text


def test_a_backend_of_gpus_is_refused_where_there_are_none() -> None:
    of_gpus = Study("study", (experiment("a"), experiment("b", backend="trt", stub=None)), 3)
    with pytest.raises(GpuUnusable, match="'b': backend trt runs on NVIDIA GPUs only"):
        check_gpus(of_gpus, 0)
    check_gpus(of_gpus, 1)
