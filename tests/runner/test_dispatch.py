"""Blocks over GPUs when something cannot be ended, cannot be started, or has a bug."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from images.contract.config import ExperimentConfig
from images.contract.job import ExitCode
from runner.gpu.leases import lease_folder
from runner.gpu.slots import dead_leases
from runner.host import Host
from runner.interrupt import Stop
from runner.launchers import Ended, Identity, Launcher, LaunchFailed, LaunchImpossible, Running, Slot
from runner.launchers.local import LocalLauncher
from runner.layout import Attempt, Layout
from runner.schedule import Summary, run_study
from runner.studies.settings import Retries, Timeouts
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

    def run(self, wanted: Study, launcher: Launcher, stop: Stop | None = None) -> Summary:
        host = Host(launcher, {"stub": Identity(None)}, self.uuids, lease_folder(), lambda _name: launcher)
        with Path(os.devnull).open("w") as nowhere:
            progress = Progress(Console(file=nowhere))
            try:
                return run_study(wanted, Layout(self.output), host, progress, stop or Stop())
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


def test_a_bug_in_one_block_ends_the_others_blocks_after_their_running_job(gpus: OnTwoGpus) -> None:
    stop = Stop()
    with pytest.raises(RuntimeError, match="nobody foresaw"):
        gpus.run(study("a", "b", cycles=9), Refusing(RuntimeError("nobody foresaw this")), stop)
    assert stop.drain
