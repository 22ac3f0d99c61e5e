"""Blocks over GPUs when something cannot be ended, cannot be started, or has a bug."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from images.contract.config import ExperimentConfig
from images.contract.job import ExitCode, Interrupted
from runner.gpu.leases import lease_folder
from runner.gpu.slots import Owner, Slots, dead_leases
from runner.host import Host
from runner.interrupt import Stop
from runner.launchers import Ended, Identity, Launcher, LaunchFailed, LaunchImpossible, Running, Slot
from runner.launchers.local import LocalLauncher
from runner.layout import Attempt, Layout
from runner.schedule import Summary, run_study
from runner.studies.settings import CoolDown, Retries, Timeouts
from runner.studies.study import Study
from runner.view.progress import Progress
from tests.faults.aftermath import gpus_of, overlaps, processes_in
from tests.gpu_node.node import Node
from tests.runner.command import failures, leftovers, results
from tests.runner.sample_studies import study


class Stuck:
    """A job in the kernel's hands: it neither ends nor can be ended."""

    def __init__(self, inner: Running) -> None:
        self._inner = inner

    def poll(self) -> Ended | None:
        return None

    def kill(self) -> None:
        raise LaunchFailed("the process cannot be ended; it hangs in the kernel.", "Check the GPU and its driver.")

    def collect(self) -> None:
        self._inner.collect()

    def remove(self) -> None:
        self.kill()


class LocalButStuckOn(LocalLauncher):
    """Real processes; those on one GPU are stuck."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid

    def start(self, name: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        running = super().start(name, config, attempt, slot)
        return Stuck(running) if self._uuid in slot.gpu_uuids else running


class Refusing(LocalLauncher):
    """Starts nothing."""

    def __init__(self, error: LaunchFailed | RuntimeError) -> None:
        self._error = error

    def start(self, name: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        raise self._error


class OnTwoGpus:
    """Runs studies on the first two GPUs of a simulated node."""

    def __init__(self, node: Node, output: Path) -> None:
        self.uuids = [gpu.uuid for gpu in node.gpus[:2]]
        self.output = output

    def run(self, wanted: Study, launcher: Launcher, stop: Stop | None = None, extend: bool = False) -> Summary:
        host = Host(launcher, {"stub": Identity(None)}, self.uuids, lease_folder(), lambda _name: launcher)
        with Path(os.devnull).open("w") as nowhere:
            progress = Progress(Console(file=nowhere))
            try:
                return run_study(wanted, Layout(self.output), host, progress, stop or Stop(), extend=extend)
            finally:
                progress.stop()


@pytest.fixture
def gpus(gpu_node: Node, gpu_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnTwoGpus:
    for name, value in gpu_node.environment(gpu_library).items():
        monkeypatch.setenv(name, value)
    return OnTwoGpus(gpu_node, tmp_path / "out")


def test_a_job_that_cannot_be_ended_keeps_its_gpu_and_the_others_go_on_without_it(gpus: OnTwoGpus) -> None:
    stuck = LocalButStuckOn(gpus.uuids[0])
    wanted = study("a", "b", cycles=2, timeouts=Timeouts(job_s=4.0))

    summary = gpus.run(wanted, stuck)

    assert summary.problem is not None
    assert "hangs in the kernel" in str(summary.problem)
    assert summary.n_results == 3, "all but the one that may still run"
    assert {gpus_of(one) for one in results(gpus.output)} == {(gpus.uuids[1],)}
    assert [record.uuid for record in dead_leases(lease_folder())] == [gpus.uuids[0]], "the next runner has to know"

    again = gpus.run(wanted, LocalLauncher())

    assert (again.problem, again.n_results) == (None, 4)
    assert len({(one.measurement_config_hash, one.cycle) for one in results(gpus.output)}) == 4
    assert overlaps(results(gpus.output)) == []
    assert (processes_in(gpus.output), leftovers(gpus.output)) == ([], [])


def test_a_launcher_that_can_start_nothing_ends_the_study_with_one_failure_per_gpu(gpus: OnTwoGpus) -> None:
    summary = gpus.run(study("a", cycles=9), Refusing(LaunchImpossible("no GPUs in containers.", "Install it.")))

    assert [outcome.exit_code for outcome in summary.outcomes] == [ExitCode.LAUNCHER] * len(summary.outcomes)
    assert len(failures(gpus.output)) <= 2
    assert leftovers(gpus.output) == []


def test_a_refusal_that_may_go_away_is_tried_again_and_the_breaker_ends_it(gpus: OnTwoGpus) -> None:
    retries = Retries(limit=1, backoff_s=0.0, stop_after=4)

    summary = gpus.run(study("a", cycles=9, retries=retries), Refusing(LaunchFailed("no room.", "Make some.")))

    assert "4 tries in a row failed" in str(summary.problem)
    assert 4 <= len(failures(gpus.output)) <= 5, "the other GPU may have been in the middle of a try"


class Failing(LocalLauncher):
    """Real jobs of another kind where `kinds` says so, by experiment and GPU."""

    def __init__(self, kinds: dict[tuple[str, str], str]) -> None:
        self._kinds = kinds

    def start(self, name: str, config: ExperimentConfig, attempt: Attempt, slot: Slot) -> Running:
        assert config.stub is not None
        kind = self._kinds.get((config.stub.extra["name"], slot.gpu_uuids[0]))
        if kind is not None:
            options = config.stub.model_copy(update={"fail": kind})
            attempt.config.write_text(config.model_copy(update={"stub": options}).model_dump_json())
        return super().start(name, config, attempt, slot)


def test_an_experiment_that_no_gpu_can_run_costs_no_gpu(gpus: OnTwoGpus) -> None:
    bad = Failing({("bad", uuid): "gpu_unusable" for uuid in gpus.uuids})

    summary = gpus.run(study("bad", "good", cycles=3, retries=Retries(limit=0, stop_after=None)), bad)

    assert summary.problem is None
    assert summary.n_results == 3, "all of the good one"
    assert {one.exit_code for one in failures(gpus.output)} == {ExitCode.GPU_UNUSABLE}


def test_a_gpu_that_no_job_can_use_is_set_aside_and_its_work_done_elsewhere(gpus: OnTwoGpus) -> None:
    broken = Failing({(name, gpus.uuids[0]): "gpu_unusable" for name in ("a", "b")})

    summary = gpus.run(study("a", "b", cycles=3, retries=Retries(limit=0, stop_after=None)), broken)

    assert (summary.problem, summary.n_results) == (None, 6)
    assert {gpus_of(one) for one in results(gpus.output)} == {(gpus.uuids[1],)}


def test_experiments_that_are_too_large_do_not_end_a_sweep(gpus: OnTwoGpus) -> None:
    large = [f"large{number}" for number in range(12)]
    launcher = Failing({(name, uuid): "out_of_memory" for name in large for uuid in gpus.uuids})

    summary = gpus.run(study("small", *large, "other", cycles=2), launcher)

    assert (summary.problem, summary.n_results) == (None, 4)
    assert len(failures(gpus.output)) <= 2 * 12, "none was tried again"


def test_a_gpu_that_somebody_else_uses_is_left_to_them(gpus: OnTwoGpus, gpu_node: Node) -> None:
    gpu_node.gpus[0].processes = [(os.getpid(), 2**30)]

    summary = gpus.run(study("a", cycles=3), LocalLauncher())

    assert summary.n_results == 3
    assert {gpus_of(one) for one in results(gpus.output)} == {(gpus.uuids[1],)}


def test_a_result_says_that_its_gpu_was_not_as_it_should_be(gpus: OnTwoGpus, gpu_node: Node) -> None:
    for gpu in gpu_node.gpus:
        gpu.temperature(base_c=70.0)
    rules = CoolDown(max_temperature_c=50.0, temperature_timeout_s=0.5)

    gpus.run(study("a", cycles=1, cool_down=rules), LocalLauncher())

    (result,) = results(gpus.output)
    assert any(text.startswith("not_cooled_down: ") and "70 degrees" in text for text in result.measurement_warnings)


def test_who_asks_to_stop_while_a_gpu_cools_starts_no_job(gpus: OnTwoGpus, gpu_node: Node) -> None:
    for gpu in gpu_node.gpus:
        gpu.temperature(base_c=70.0)
    stop = Stop()
    threading.Timer(1.0, stop.ask).start()
    rules = CoolDown(max_temperature_c=50.0, temperature_timeout_s=60.0)

    summary = gpus.run(study("a", cycles=1, cool_down=rules), LocalLauncher(), stop)

    assert isinstance(summary.problem, Interrupted)
    assert results(gpus.output) == []


def test_a_lease_folder_that_hangs_costs_no_running_job(gpus: OnTwoGpus) -> None:
    """As when a runner is stopped with Ctrl-Z while it is alone in it."""
    held = FileLock(lease_folder() / ".lock", thread_local=False)
    threading.Timer(1.5, held.acquire).start()
    threading.Timer(4.0, held.release).start()

    summary = gpus.run(study("a", cycles=2, retries=Retries(limit=0)), LocalLauncher())

    assert (summary.problem, summary.n_results) == (None, 2)


def test_a_begun_block_does_not_wait_for_its_gpu_for_ever(gpus: OnTwoGpus) -> None:
    wanted = study("a", "b", cycles=1, from_file=True)
    only_a = replace(wanted, experiments=wanted.experiments[:1])
    assert gpus.run(only_a, LocalLauncher()).n_results == 1
    (first,) = results(gpus.output)
    other = Slots(gpus_of(first), lease_folder(), Owner(output=gpus.output, study="other", launcher="local"))

    with other.lease(1) or nullcontext() as lease:
        assert lease is not None
        host_pool = gpus.run(replace(wanted, timeouts=Timeouts(gpus_s=2.0)), LocalLauncher(), extend=True)

    assert host_pool.n_results == 2
    assert len({one.block for one in results(gpus.output)}) == 2


def test_a_bug_in_one_block_ends_the_others_blocks_after_their_running_job(gpus: OnTwoGpus) -> None:
    stop = Stop()
    with pytest.raises(RuntimeError, match="nobody foresaw"):
        gpus.run(study("a", "b", cycles=9), Refusing(RuntimeError("nobody foresaw this")), stop)
    assert stop.drain
