"""A study over eight simulated GPUs: blocks, leases, neighbours, and GPUs that fail."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from images.contract.job import ExitCode
from images.contract.result import ExperimentResult
from tests.faults.aftermath import gpus_of, overlaps, processes_in, split_blocks
from tests.images.stub.simulated import Machine
from tests.runner.command import RUNNER, Ran, leftovers, results, runner
from tests.runner.sample_studies import written

LOOKED_AT_LEAST_EVERY = timedelta(seconds=1.2)


@pytest.fixture
def machine(gpu_library: Path, tmp_path: Path) -> Machine:
    return Machine(tmp_path, gpu_library)


def run(machine: Machine, study: Path, output: Path, *arguments: str, visible: str | None = None) -> Ran:
    environment = machine.environment() | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    return runner("run", study, "--output", output, *arguments, env=environment)


def start(machine: Machine, study: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [*RUNNER, "run", str(study), "--output", str(output), *arguments]
    environment = machine.environment()
    with said_by(output).open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)


def wait_for_results_on(gpus: int, output: Path, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not output.exists() or len({gpus_of(one) for one in results(output)}) < gpus:
        assert time.monotonic() < deadline, said_by(output).read_text()
        time.sleep(0.2)


def said_by(output: Path) -> Path:
    """Where goes what a runner that was started prints."""
    return output.with_name(f"{output.name}.log")


def test_blocks_run_side_by_side_each_whole_on_one_gpu_and_know_their_neighbours(
    machine: Machine, tmp_path: Path
) -> None:
    study = written(tmp_path, "a", "b", "c", cycles=3, stub={"window_s": 1.0})

    ran = run(machine, study, tmp_path / "out")

    assert ran.code == 0, ran.stderr
    found = results(tmp_path / "out")
    assert len(found) == 9
    assert split_blocks(found) == []
    assert overlaps(found) == []
    assert len({gpus_of(one) for one in found}) == 3, "every cycle has a GPU of its own"
    for cycle in (1, 2, 3):
        block = [one for one in found if one.cycle == cycle]
        assert {one.experiment for one in block} == {"a", "b", "c"}
        by_time = sorted(block, key=lambda one: one.start_time)
        assert [one.scheduling and one.scheduling.position for one in by_time] == [1, 2, 3]
    assert any(one.start_time < other.end_time and other.start_time < one.end_time
               for one in found for other in found if one.cycle != other.cycle), "blocks overlap in time"  # fmt: skip
    for one in found:
        assert one.scheduling is not None
        assert one.scheduling.neighbours, "three blocks ran side by side"
        assert all(set(near.gpu_uuids).isdisjoint(gpus_of(one)) for near in one.scheduling.neighbours)
        assert {near.cycle for near in one.scheduling.neighbours} <= {1, 2, 3} - {one.cycle}
    assert leftovers(tmp_path / "out") == []


def test_any_placement_fills_every_gpu_and_its_results_say_that_gpus_are_confounded(
    machine: Machine, tmp_path: Path
) -> None:
    study = written(tmp_path, "a", "b", "c", cycles=2, placement="any", stub={"window_s": 1.5})

    assert run(machine, study, tmp_path / "out").code == 0

    found = results(tmp_path / "out")
    assert len({gpus_of(one) for one in found}) == 6
    for one in found:
        assert (one.block, one.scheduling and one.scheduling.placement) == (None, "any")
        assert any(text.startswith("gpu_confounded: ") for text in one.measurement_warnings)


def test_experiments_get_as_many_gpus_as_they_need_and_none_is_used_twice(machine: Machine, tmp_path: Path) -> None:
    sizes = {"one": 1, "two": 2, "five": 5}
    experiments = [{"name": name, "gpus_per_process": size} for name, size in sizes.items()]
    study = written(tmp_path, cycles=2, experiments=experiments, stub={"window_s": 1.0})

    assert run(machine, study, tmp_path / "out").code == 0

    found = results(tmp_path / "out")
    assert len(found) == 6
    assert all(len(gpus_of(one)) == sizes[str(one.experiment)] for one in found)
    assert overlaps(found) == []


def test_two_runners_on_the_same_gpus_never_use_one_at_the_same_time(machine: Machine, tmp_path: Path) -> None:
    # The second starts when the first has used each of the GPUs: whichever it gets, it gets from the first.
    studies = {name: written(tmp_path / name, "a", name=name, cycles=16, stub={"window_s": 1.5}) for name in ("x", "y")}
    runners = {"x": start(machine, studies["x"], tmp_path / "x" / "out")}
    wait_for_results_on(8, tmp_path / "x" / "out", within_s=90)
    runners["y"] = start(machine, studies["y"], tmp_path / "y" / "out")

    for name, process in runners.items():
        assert process.wait(timeout=180) == 0, said_by(tmp_path / name / "out").read_text()

    found = [one for name in studies for one in results(tmp_path / name / "out")]
    assert len(found) == 32
    assert overlaps(found) == []
    used = {name: {gpus_of(one) for one in found if one.study == name} for name in studies}
    assert used["y"] <= used["x"], "both used the same GPUs"
    seen = {(one.study, near.study) for one in found if one.scheduling for near in one.scheduling.neighbours or ()}
    together = [
        (one, other)
        for one in found
        for other in found
        if (one.study, other.study) == ("x", "y")
        and min(one.end_time, other.end_time) - max(one.start_time, other.start_time) > LOOKED_AT_LEAST_EVERY
    ]
    assert not together or seen & {("x", "y"), ("y", "x")}, "a runner sees the other's jobs, too"


@pytest.mark.parametrize("option", [["--max-parallel", "1"], ["--exclusive"]])
def test_one_at_a_time_is_one_at_a_time(machine: Machine, tmp_path: Path, option: list[str]) -> None:
    study = written(tmp_path, "a", cycles=3, stub={"window_s": 0.3})

    assert run(machine, study, tmp_path / "out", *option).code == 0

    found = sorted(results(tmp_path / "out"), key=lambda one: one.start_time)
    assert all(before.end_time <= after.start_time for before, after in pairwise(found))
    assert all(one.scheduling and one.scheduling.neighbours == [] for one in found)


def test_an_exclusive_study_waits_until_nobody_else_is_on_the_host(machine: Machine, tmp_path: Path) -> None:
    other = start(machine, written(tmp_path / "x", "a", name="x", stub={"window_s": 4.0}), tmp_path / "x" / "out")
    _wait_until(lambda: processes_in(tmp_path / "x" / "out") != [])

    ran = run(machine, written(tmp_path, "b"), tmp_path / "out", "--exclusive")

    assert other.wait(timeout=30) == 0
    assert ran.code == 0, ran.stderr
    assert "waiting until no other runner is on this host (exclusive)" in ran.stderr
    (alone,), (before,) = results(tmp_path / "out"), results(tmp_path / "x" / "out")
    assert alone.start_time > before.end_time


def test_a_begun_block_goes_on_where_its_results_are(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(machine, written(tmp_path, "a"), out, visible="5").code == 0

    ran = run(machine, written(tmp_path, "a", "b"), out, "--extend")

    assert ran.code == 0, ran.stderr
    assert {gpus_of(one) for one in results(out)} == {(machine.node.gpus[5].uuid,)}
    assert split_blocks(results(out)) == []


def test_a_block_whose_gpu_is_not_to_be_had_goes_on_as_another_one(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(machine, written(tmp_path, "a"), out, visible="5").code == 0

    ran = run(machine, written(tmp_path, "a", "b"), out, "--extend", visible="2")

    assert ran.code == 0, ran.stderr
    assert "as another block" in ran.stderr
    assert len({one.block for one in results(out)}) == 2


def test_a_gpu_that_fails_is_set_aside_and_its_block_goes_on_elsewhere(machine: Machine, tmp_path: Path) -> None:
    bad = machine.node.gpus[0]
    study = written(tmp_path, "a", "b", cycles=3, stub={"window_s": 1.0})
    bad.fault("gpu_lost", from_s=machine.node.clock.now_s() + 4.0)

    ran = run(machine, study, tmp_path / "out", visible="0,1")

    assert ran.code == 0, ran.stderr
    assert f"{bad.uuid} is set aside until the next run" in ran.stderr
    found = results(tmp_path / "out")
    assert len({(one.experiment, one.cycle) for one in found}) == 6
    assert gpus_of(max(found, key=lambda one: one.start_time)) == (machine.node.gpus[1].uuid,)


def test_an_unexpected_power_limit_refuses_before_anything_runs(machine: Machine, tmp_path: Path) -> None:
    study = written(tmp_path, "a", launcher={"power_limit_w": 400.0})

    ran = run(machine, study, tmp_path / "out")

    assert ran.code == ExitCode.GPU_UNUSABLE
    assert "expects a power limit of 400 W" in ran.last_line
    assert f"{machine.node.gpus[0].uuid} has 700 W" in ran.last_line
    assert results(tmp_path / "out") == []


def test_more_gpus_than_the_host_has_is_one_line(machine: Machine, tmp_path: Path) -> None:
    study = written(tmp_path, experiments=[{"name": "wide", "gpus_per_process": 9}])
    ran = run(machine, study, tmp_path / "out")
    assert ran.code == ExitCode.GPU_UNUSABLE
    assert ran.is_one_clear_line(), ran.stderr
    assert "experiment 'wide': num_processes x gpus_per_process needs 9 GPUs, and 8 can be used here" in ran.stderr


def test_the_job_of_a_dead_runner_is_ended_before_its_gpu_is_used_by_another_study(
    machine: Machine, tmp_path: Path
) -> None:
    """The studies have nothing in common but the host."""
    dead = start(
        machine, written(tmp_path / "x", "a", name="x", stub={"hang": "interruptible"}), tmp_path / "x" / "out",
    )  # fmt: skip
    _wait_until(lambda: processes_in(tmp_path / "x" / "out") != [])
    dead.kill()
    dead.wait()
    (orphan,) = processes_in(tmp_path / "x" / "out")

    ran = run(machine, written(tmp_path, "b"), tmp_path / "out", visible="0")

    assert ran.code == 0, ran.stderr
    assert f"was leased by a runner that died (pid {dead.pid}, study x)" in ran.stderr
    assert "ended a job that the killed runner of study x had left" in ran.stderr
    assert orphan not in processes_in(tmp_path / "x" / "out")
    (result,) = results(tmp_path / "out")
    assert "foreign_process" not in result.invalid_reasons


def test_a_living_runners_gpus_are_left_alone_and_waited_for(machine: Machine, tmp_path: Path) -> None:
    study = written(tmp_path / "x", "a", name="x", stub={"window_s": 4.0}, launcher={"gpus": "auto"})
    living = start(machine, study, tmp_path / "x" / "out")
    _wait_until(lambda: processes_in(tmp_path / "x" / "out") != [])

    ran = run(machine, written(tmp_path, "b"), tmp_path / "out", visible="0")

    assert living.wait(timeout=30) == 0
    assert ran.code == 0, ran.stderr
    both: list[ExperimentResult] = [*results(tmp_path / "out"), *results(tmp_path / "x" / "out")]
    assert len({gpus_of(one) for one in both}) == 1
    assert overlaps(both) == []


def _wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
