"""A container is given the image that was checked, what its job reads, and nothing else."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import docker
import pytest

import runner.launchers.docker as docker_launcher
from images.contract.config import ExperimentConfig, parse_config
from images.contract.job import ENGINES_MOUNT, ENV_ENGINE_CACHE, JobContext
from images.contract.options.stub import StubOptions
from runner.launchers import LaunchFailed, Slot
from runner.launchers.docker import DockerLauncher
from runner.launchers.host_files import HostFile, environment, seen_of_the_host
from runner.layout import Attempt, Layout
from tests.docker_engine import containers_of, docker_command

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]


@pytest.fixture
def study() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


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


def test_the_hub_token_is_in_no_container(
    tmp_path: Path, stub_image: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stub never reads a model, so its image stands in for one that does."""
    secret = f"hf_{uuid.uuid4().hex}"
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: stub_image)
    (tmp_path / "hf" / "hub" / "models--a--b" / "snapshots").mkdir(parents=True)
    (tmp_path / "hf" / "token").write_text(secret)
    attempt = _attempt(tmp_path, study)
    launcher, config = DockerLauncher(models=tmp_path / "hf" / "hub"), ExperimentConfig(model="a/b")
    launcher.check(config)

    running = launcher.start(study, config, attempt, Slot())
    try:
        name = f"joulehouse-{attempt.folder.name}"
        inspected = docker_command("inspect", name)
        told = docker_command("exec", name, "env")
        found = docker_command("exec", name, "sh", "-c", f"grep -rls {secret} /models /results /run /tmp || true")
    finally:
        running.kill()
        running.collect()
        running.remove()

    assert secret not in inspected + told
    assert "HF_HUB_OFFLINE=1" in told.splitlines()
    assert '"NetworkMode": "none"' in inspected
    assert found == ""


def test_nothing_stays_behind_a_container_that_could_not_be_made(tmp_path: Path, stub_image: str, study: str) -> None:
    attempt = _attempt(tmp_path, study)
    launcher = DockerLauncher(memory="1k")  # less than the engine allows
    launcher.check(ExperimentConfig(backend="stub"))

    with pytest.raises(LaunchFailed, match="Docker refused"):
        launcher.start(study, ExperimentConfig(backend="stub"), attempt, Slot())

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
    seen = seen_of_the_host(config, tmp_path / "attempt", tmp_path / "hub", uid=12345)
    assert {one.target: one.read_only for one in seen} == {
        "/results": False,
        str(snapshot): True,
        str(blobs / "1"): True,
    }


def test_only_a_job_that_builds_an_engine_may_write_into_the_folder_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = tmp_path / "engines"
    monkeypatch.setenv(ENV_ENGINE_CACHE, str(engines))
    for options, expected in (({"engine": "tensorrt"}, [HostFile(ENGINES_MOUNT, engines, read_only=False)]), ({}, [])):
        config = parse_config({"backend": "trt", "trt": options})
        seen = seen_of_the_host(config, tmp_path / "attempt", tmp_path / "hub", uid=12345)
        assert seen[1:] == expected
        assert (environment(config).get(ENV_ENGINE_CACHE) == ENGINES_MOUNT) == bool(expected)
    assert engines.stat().st_uid == 12345 or os.getuid() != 0


def _attempt(output: Path, study: str) -> Attempt:
    attempt = Layout(output).new_attempt(study, 1, 1)
    attempt.prepare(ExperimentConfig(backend="stub", stub=StubOptions(hang="interruptible")), JobContext())
    return attempt
