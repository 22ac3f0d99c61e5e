"""What a container measured is not lost, and nothing of it stays, whatever happens around it."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import runner.launchers.docker as docker_launcher
from images.contract.config import ExperimentConfig
from images.contract.options.stub import StubOptions
from runner.host import open_host
from runner.interrupt import Stop
from runner.launchers import LaunchFailed
from runner.launchers.docker import LABEL_ATTEMPT, LABEL_STUDY
from runner.layout import Layout
from runner.schedule import Summary, run_study
from runner.studies.settings import Timeouts
from runner.studies.study import Experiment, Study
from runner.view.progress import Progress
from tests.docker_engine import containers_of, docker_command
from tests.runner.command import leftovers, results
from tests.runner.engine_proxy import EngineProxy

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]


@pytest.fixture
def study() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def proxy() -> Iterator[EngineProxy]:
    made = EngineProxy()
    yield made
    made.die()


def test_a_result_survives_an_engine_that_dies_and_the_next_runner_clears_up(
    tmp_path: Path, stub_image: str, study: str, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_launcher, "_PATIENCE_S", 1)
    monkeypatch.setenv("DOCKER_HOST", proxy.address)
    threading.Timer(2.0, proxy.die).start()

    summary = _run(_study(study, cycles=2, window_s=3.0, job_s=8.0), tmp_path)

    assert isinstance(summary.problem, LaunchFailed)
    assert "could not be ended" in summary.problem.message
    monkeypatch.delenv("DOCKER_HOST")
    assert len(containers_of(study)) == 1, "nobody could remove it, and nothing was started beside it"
    assert results(tmp_path) == []
    _run(_study(f"{study}-next"), tmp_path)
    assert containers_of(study) == []
    assert leftovers(tmp_path) == []
    assert {one.study for one in results(tmp_path)} == {study, f"{study}-next"}


def test_a_container_that_appears_after_its_runner_died_is_gone_at_the_studys_end(
    tmp_path: Path, stub_image: str, study: str
) -> None:
    """The engine was still making it when the runner was killed and the next one had already cleared up."""
    late = f"{tmp_path}/.attempts/{study}-c001-a1-0123abcd"
    labels = [f"--label={LABEL_ATTEMPT}={late}", f"--label={LABEL_STUDY}={study}"]
    threading.Timer(2.0, docker_command, ["create", *labels, stub_image]).start()
    others = docker_command("create", labels[0].replace(str(tmp_path), "/elsewhere"), labels[1], stub_image).strip()
    try:
        summary = _run(_study(study, window_s=3.0), tmp_path)
        left = containers_of(study)
    finally:
        docker_command("rm", others)

    assert (summary.problem, summary.n_results) == (None, 1)
    assert len(left) == 1, "that of a study of this name in another directory stays"


def _study(name: str, cycles: int = 1, window_s: float = 0.1, job_s: float = 60.0) -> Study:
    config = ExperimentConfig(backend="stub", stub=StubOptions(window_s=window_s))
    experiment = Experiment("stub", config, config.measurement_config_hash())
    return Study(name, (experiment,), cycles, timeouts=Timeouts(job_s=job_s))


def _run(study: Study, output: Path) -> Summary:
    with Path(os.devnull).open("w") as nowhere:
        return run_study(study, Layout(output), open_host(study), Progress(Console(file=nowhere)), Stop())
