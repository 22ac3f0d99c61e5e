"""What a container measured is not lost, and nothing of it stays, whatever happens around it."""

from __future__ import annotations

import os
import socket
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
from rich.console import Console

import runner.launchers.docker as docker_launcher
from images.contract.config import ExperimentConfig, StubOptions
from images.contract.job import HF_TOKEN_FILE, JobContext
from runner.launchers import Identity, LaunchFailed, Slot
from runner.launchers.docker import DockerLauncher
from runner.layout import Attempt, Layout
from runner.outcome import Outcome
from runner.progress import Progress
from runner.schedule import Run, run_jobs
from runner.study import Job
from tests.docker_engine import containers_of, docker_command
from tests.runner.command import leftovers, results

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]


@pytest.fixture
def study() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


class EngineProxy:
    """Stands between a client and the real engine, and can be taken away as an engine that dies is."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def die(self) -> None:
        for end in (self._server, *self._open):
            with closing(end):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            self._open += [client, engine]
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


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
    job = Job(study, ExperimentConfig(backend="stub", stub=StubOptions(window_s=3.0)), "0" * 16, 1)
    layout, launcher = Layout(tmp_path), DockerLauncher()
    identity = launcher.check(job.config)
    threading.Timer(2.0, proxy.die).start()

    with pytest.raises(LaunchFailed, match="could not be ended"):
        _run([job, job], launcher, identity, layout, timeout_s=8.0)

    monkeypatch.delenv("DOCKER_HOST")
    assert len(containers_of(study)) == 1, "nobody could remove it, and nothing was started beside it"
    assert results(tmp_path) == []
    other = Job(f"{study}-next", ExperimentConfig(backend="stub"), "1" * 16, 1)
    _run([other], launcher := DockerLauncher(), launcher.check(other.config), layout)
    assert containers_of(study) == []
    assert leftovers(tmp_path) == []
    assert {one.study for one in results(tmp_path)} == {study, other.study}


def test_cycles_run_the_image_that_was_checked_though_its_tag_moves(
    tmp_path: Path, stub_image: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = docker.from_env()
    tag = f"joulehouse-test-{uuid.uuid4().hex[:8]}"
    checked = client.images.get(stub_image)
    checked.tag(tag)
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: tag)
    launcher = DockerLauncher()
    identity = launcher.check(ExperimentConfig(backend="stub"))
    docker_command("build", "-q", "-t", tag, "-", given=f"FROM {stub_image}\nLABEL moved=yes\n")
    attempt = _attempt(tmp_path, study)
    running = launcher.start(study, ExperimentConfig(backend="stub"), attempt, Slot())
    try:
        container = client.containers.get(f"joulehouse-{attempt.folder.name}")
        assert container.image.id == identity.image_id == checked.id != client.images.get(tag).id
    finally:
        running.kill()
        running.collect()
        running.remove()
        client.images.remove(tag, force=True)


def test_the_hub_token_is_a_private_file_and_nowhere_else_to_be_read(
    tmp_path: Path, stub_image: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stub never reads a model, so its image stands in for one that does."""
    secret = f"hf_{uuid.uuid4().hex}"
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: stub_image)
    attempt = _attempt(tmp_path, study)
    launcher, config = DockerLauncher(models=tmp_path / "models"), ExperimentConfig(model="a/b")
    launcher.check(config)

    running = launcher.start(study, config, attempt, Slot())
    try:
        name = f"joulehouse-{attempt.folder.name}"
        inspected = docker_command("inspect", name)
        read = docker_command("exec", name, "cat", HF_TOKEN_FILE)
        mode = stat.S_IMODE(attempt.token.stat().st_mode)
    finally:
        running.kill()
        running.collect()
        running.remove()

    assert (read, mode) == (secret, 0o600)
    assert secret not in inspected
    assert not attempt.token.exists()


def test_no_token_stays_behind_a_container_that_could_not_be_made(
    tmp_path: Path, stub_image: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: stub_image)
    attempt = _attempt(tmp_path, study)
    launcher = DockerLauncher(memory="1k", models=tmp_path / "models")  # less than the engine allows
    launcher.check(ExperimentConfig(model="a/b"))

    with pytest.raises(LaunchFailed, match="Docker refused"):
        launcher.start(study, ExperimentConfig(model="a/b"), attempt, Slot())

    assert not attempt.token.exists()
    assert containers_of(study) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root's containers run as another user")
def test_a_model_that_the_containers_user_cannot_read_is_told_before_the_start(tmp_path: Path, stub_image: str) -> None:
    weights = tmp_path / "model" / "weights"
    weights.parent.mkdir(mode=0o755)
    weights.touch(mode=0o600)
    with pytest.raises(LaunchFailed, match=r"weights is not readable .*chmod -R a\+rX"):
        DockerLauncher().check(ExperimentConfig(backend="stub", model=str(weights.parent)))


def test_a_model_folder_of_links_brings_what_they_lead_to(tmp_path: Path) -> None:
    """As the snapshots of a hub's cache are made."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").touch()
    (snapshot / "config.json").symlink_to("../../blobs/1")
    config = ExperimentConfig(model=str(snapshot))
    mounts = docker_launcher._mounts(config, Attempt(tmp_path / "attempt"))
    assert {mount["Target"]: mount["ReadOnly"] for mount in mounts} == {
        "/results": False,
        str(snapshot): True,
        str(blobs / "1"): True,
    }


def _attempt(output: Path, study: str) -> Attempt:
    attempt = Layout(output).new_attempt(study, 1, 1)
    attempt.prepare(ExperimentConfig(backend="stub", stub=StubOptions(hang="interruptible")), JobContext())
    return attempt


def _run(
    jobs: list[Job], launcher: DockerLauncher, identity: Identity, layout: Layout, timeout_s: float = 60.0
) -> list[Outcome]:
    with Path(os.devnull).open("w") as nowhere:
        progress = Progress(Console(file=nowhere))
        return list(run_jobs(jobs, Run(launcher, identity, layout, Slot(), timeout_s, progress, threading.Event())))
