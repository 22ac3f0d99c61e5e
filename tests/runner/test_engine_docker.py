"""The Docker engine goes away and comes back, refuses, or loses a container: each is told from the others."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

import runner.launchers.docker as docker_launcher
from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.contract.options.stub import StubOptions
from runner.launchers import Ended, EngineAway, LaunchFailed, LaunchImpossible, Running, Slot
from runner.launchers.docker import DockerJob, DockerLauncher
from runner.layout import Attempt, Layout
from tests.docker_engine import containers_of, docker_command
from tests.runner.engine_proxy import EngineProxy

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]
HANGING = ExperimentConfig(backend="stub", stub=StubOptions(hang="interruptible"))


@pytest.fixture
def study() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    for left in containers_of(name):
        docker_command("rm", "-f", left)


@pytest.fixture
def proxy(study: str) -> Iterator[EngineProxy]:
    """Gone before the study's containers are cleared away."""
    made = EngineProxy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", made.address)
        yield made
    made.die()


def _checked(memory: str | None = None) -> DockerLauncher:
    launcher = DockerLauncher(memory=memory)
    launcher.check(HANGING)
    return launcher


def started(launcher: DockerLauncher, study: str, output: Path) -> tuple[Running, Attempt]:
    attempt = Layout(output).new_attempt(study, 1, 1)
    attempt.prepare(HANGING, JobContext(gpu_uuids=[]))
    return launcher.start(study, HANGING, attempt, Slot()), attempt


def test_a_job_starts_once_and_ends_though_the_engine_is_away_for_a_while(
    tmp_path: Path, stub_image: str, study: str, proxy: EngineProxy
) -> None:
    launcher = _checked()
    proxy.die()
    threading.Timer(3.0, proxy.come_back).start()
    running, attempt = started(launcher, study, tmp_path)
    assert containers_of(study) == [f"joulehouse-{attempt.folder.name}"]

    proxy.die()
    assert running.poll() is None
    threading.Timer(3.0, proxy.come_back).start()
    running.kill()
    ended = wait_for(running.poll)
    assert ended.exit_code in (16, 143), "ended by us, and not by the engine"
    running.collect()
    running.remove()
    assert containers_of(study) == []


def test_a_runner_that_looks_for_images_and_orphans_waits_for_an_engine_that_is_away_for_a_while(
    tmp_path: Path, stub_image: str, study: str, proxy: EngineProxy
) -> None:
    launcher = _checked()
    running, attempt = started(launcher, study, tmp_path)
    proxy.die()
    threading.Timer(2.0, proxy.come_back).start()
    assert [one for one, _ in launcher.find(tmp_path)] == [attempt]
    proxy.die()
    threading.Timer(2.0, proxy.come_back).start()
    assert launcher.check(HANGING).image_id
    running.kill()
    running.collect()
    running.remove()


def test_a_start_whose_answer_got_lost_does_not_start_a_second_container(
    tmp_path: Path, stub_image: str, study: str, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does what it was asked, and goes away before it can say so."""
    container = docker.models.containers.Container
    begin = container.start

    def start_and_lose_the_answer(self: object) -> None:
        monkeypatch.setattr(container, "start", begin)
        begin(self)
        proxy.die()
        threading.Timer(1.0, proxy.come_back).start()
        begin(self)

    monkeypatch.setattr(container, "start", start_and_lose_the_answer)
    running, _ = started(_checked(), study, tmp_path)
    assert len(containers_of(study)) == 1
    running.kill()
    running.collect()
    running.remove()


def test_an_engine_that_stays_away_may_be_tried_again(
    tmp_path: Path, stub_image: str, study: str, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_launcher, "_PATIENCE_S", 1)
    monkeypatch.setattr(docker_launcher, "_LOST_S", 2)
    launcher = _checked()
    running, attempt = started(launcher, study, tmp_path)
    proxy.die()

    with pytest.raises(EngineAway, match="could not be ended"):
        running.kill()
    with pytest.raises(EngineAway, match="has not answered for 2 s"):
        wait_for(running.poll)
    with pytest.raises(EngineAway):
        started(launcher, study, tmp_path)
    with pytest.raises(EngineAway):
        launcher.check(HANGING)
    with pytest.raises(EngineAway):
        launcher.find(attempt.folder)
    with pytest.raises(EngineAway, match="no Docker engine answers"):
        DockerLauncher()


def test_an_engine_that_was_away_is_forgotten_once_it_is_back(
    tmp_path: Path, stub_image: str, study: str, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_launcher, "_LOST_S", 3)
    running, _ = started(_checked(), study, tmp_path)
    time.sleep(0.5)
    proxy.die()
    time.sleep(1.5)
    proxy.come_back()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert running.poll() is None, "it runs, and nobody is silent"
        time.sleep(0.1)
    running.kill()
    assert wait_for(running.poll).exit_code in (16, 143)
    running.collect()
    running.remove()


def test_what_cannot_go_away_is_told_from_another_refusal(
    tmp_path: Path, stub_image: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = _checked(memory="1k")  # less than the engine allows
    with pytest.raises(LaunchFailed, match="Docker refused") as caught:
        started(launcher, study, tmp_path)
    assert type(caught.value) is LaunchFailed
    assert containers_of(study) == []

    launcher = DockerLauncher()
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: "joulehouse-none:latest")
    with pytest.raises(LaunchImpossible, match="is not built"):
        launcher.check(HANGING)
    launcher._images["stub"] = f"sha256:{'0' * 64}"
    with pytest.raises(LaunchImpossible, match="the image is gone"):
        started(launcher, study, tmp_path)


def test_a_container_of_which_the_engine_knows_no_end_counts_as_killed(
    tmp_path: Path, stub_image: str, study: str
) -> None:
    """As after a host went down: only the engine itself says 255."""
    labels = {docker_launcher.LABEL_STUDY: study}
    container = docker.from_env().containers.run(
        stub_image, entrypoint=["sh", "-c", "exit 255"], labels=labels, detach=True
    )
    ended = wait_for(DockerJob(container, Attempt(tmp_path)).watch().poll)
    assert ended.exit_code == 137
    assert "it, or the host, went down" in ended.log_tail[-1]


def wait_for(poll: Callable[[], Ended | None]) -> Ended:
    deadline = time.monotonic() + 30
    while (ended := poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ended
