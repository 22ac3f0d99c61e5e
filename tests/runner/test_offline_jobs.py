"""A hub model that was downloaded on the host is all that a job needs: no network, no token, nothing to write."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import runner.launchers.local as local_launcher
from images.contract.config import ExperimentConfig, parse_config
from images.contract.job import JobContext
from images.contract.options.stub import StubOptions
from images.contract.result import ExperimentResult
from images.models.tiny_llama import make_model, make_tokenizer
from runner.hub.hub_cache import repository_folder
from runner.hub.models import prefetch
from runner.launchers import Ended, LaunchImpossible, Running, Slot
from runner.launchers.docker import DockerLauncher
from runner.launchers.local import LocalLauncher
from runner.layout import Attempt, Layout
from tests.docker_engine import docker_command
from tests.runner.hub.hub import serve

MODEL = "company/tiny-llama"
COMMIT = "a" * 40
SECRET = f"hf_{uuid.uuid4().hex}"
CONFIG = {
    "model": MODEL,
    "workload": {"n_prompts": 3, "max_output_tokens": 4},
    "measurement": {"warmup": {"window": 2, "max_rounds": 2}},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A gated model, downloaded by a user whose files nobody else may read and who has a token, also in a file."""
    folder, home = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("hf")
    make_model(42, None).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    before = os.umask(0o077)
    with serve() as hub, pytest.MonkeyPatch.context() as patch:
        hub.add_folder(MODEL, folder).token = SECRET
        for name, value in {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": SECRET}.items():
            patch.setenv(name, value)
        (home / "token").write_text(SECRET)
        try:
            prefetch([parse_config(CONFIG)], print, cache=home / "hub", reserve_bytes=0)
        finally:
            os.umask(before)
        asked = len(hub.requests)
        yield home / "hub"
        assert len(hub.requests) == asked, "the hub still answers, and no job may ask it"


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_a_container_reads_its_model_without_network_or_token(
    tmp_path: Path, pytorch_image: str, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = _attempt(tmp_path)
    launcher = DockerLauncher(models=cache)
    launcher.check(parse_config(CONFIG))

    running = launcher.start("test-offline", parse_config(CONFIG), attempt, Slot())
    try:
        ended = _wait(running)
        inspected = docker_command("inspect", f"joulehouse-{attempt.folder.name}")
        (seen,) = json.loads(inspected)
        logs = docker_command("logs", f"joulehouse-{attempt.folder.name}")
    finally:
        running.kill()
        running.collect()
        running.remove()

    _is_whole_result(attempt, ended)
    assert seen["HostConfig"]["NetworkMode"] == "none"
    models = {mount["Destination"]: mount["RW"] for mount in seen["Mounts"] if mount["Destination"] != "/results"}
    folder = f"/models/{repository_folder(cache, MODEL).name}"
    assert models == {f"{folder}/{part}": False for part in ("refs", "blobs", "snapshots")}
    assert SECRET not in inspected + logs + "".join(ended.log_tail) + capfd.readouterr().err
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.skipif(os.getuid() != 0, reason="only root's containers run as another user")
def test_a_model_of_another_user_is_not_opened_to_the_container(
    tmp_path: Path, pytorch_image: str, cache: Path
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(cache, theirs, symlinks=True)
    for path in theirs.rglob("*"):
        os.chown(path, 4321, 4321, follow_symlinks=False)
    attempt = _attempt(tmp_path)
    launcher = DockerLauncher(models=theirs)
    launcher.check(parse_config(CONFIG))
    with pytest.raises(LaunchImpossible, match=r"is not readable by the container's user .*chmod -R a\+rX"):
        launcher.start("test-offline", parse_config(CONFIG), attempt, Slot())


@pytest.mark.torch
@pytest.mark.xdist_group("torch jobs")
def test_a_local_job_reads_its_model_without_asking_the_hub(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_launcher, "hub_cache", lambda: cache)
    attempt = _attempt(tmp_path)
    running = LocalLauncher().start("test-offline", parse_config(CONFIG), attempt, Slot())
    try:
        ended = _wait(running)
    finally:
        running.remove()
    _is_whole_result(attempt, ended)


def test_a_local_job_is_given_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    config = ExperimentConfig(backend="stub", stub=StubOptions(hang="interruptible"))
    attempt = _attempt(tmp_path, config)
    running = LocalLauncher().start("test-offline", config, attempt, Slot())
    try:
        environment = _environment(running._pid)  # type: ignore[attr-defined]
    finally:
        running.kill()
        running.remove()
    assert b"HF_HUB_OFFLINE=1" in environment
    assert SECRET.encode() not in environment


def _environment(pid: int) -> bytes:
    """What a process was given; for a moment, while it becomes its program, it shows none."""
    deadline = time.monotonic() + 30
    while not (found := Path(f"/proc/{pid}/environ").read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def _attempt(output: Path, config: ExperimentConfig | None = None) -> Attempt:
    attempt = Layout(output).new_attempt("test-offline", 1, 1)
    attempt.prepare(config or parse_config(CONFIG), JobContext(gpu_uuids=[]))
    return attempt


def _wait(running: Running) -> Ended:
    deadline = time.monotonic() + 120
    while (ended := running.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return ended


def _is_whole_result(attempt: Attempt, ended: Ended) -> None:
    assert ended.exit_code == 0, ended.log_tail
    directory = attempt.finished_directory()
    assert directory is not None
    environment = ExperimentResult.from_json(directory).environment_snapshot
    assert environment is not None
    assert environment.model_commit == COMMIT
