"""`runner run` with containers: the same results, isolation, identity, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import docker
import pytest

import runner.launchers.docker as docker_launcher
from images.contract import files
from images.contract.config import ExperimentConfig
from images.contract.job import CONTRACT_VERSION, LABEL_CONTRACT, ExitCode
from images.contract.process import load_processes
from runner.launchers import LaunchFailed
from runner.launchers.docker import DockerLauncher
from tests.docker_engine import containers_of
from tests.runner.command import RUNNER, failures, leftovers, results
from tests.runner.command import runner as run_command

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]
STUB = ["run", "--backend", "stub", "--launcher", "docker"]


@pytest.fixture
def study() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


def test_cycles_run_in_containers_and_carry_the_images_identity(tmp_path: Path, stub_image: str, study: str) -> None:
    ran = run_command(*STUB, "--output", tmp_path, "--cycles", "2", "--study", study)

    assert ran.code == 0, ran.stderr
    found = results(tmp_path)
    assert [one.cycle for one in found] == [1, 2]
    image = docker.from_env().images.get(stub_image)
    environment = found[0].environment_snapshot
    assert environment is not None
    assert environment.launcher == "docker"
    assert (environment.image_name, environment.image_id) == (stub_image, image.id)
    assert environment.image_repo_digest is None, "never pushed"
    assert environment.git_revision == image.labels["org.opencontainers.image.revision"]
    assert image.labels[LABEL_CONTRACT] == CONTRACT_VERSION
    assert containers_of(study) == []
    assert leftovers(tmp_path) == []


def test_results_belong_to_the_calling_user(tmp_path: Path, stub_image: str, study: str) -> None:
    assert run_command(*STUB, "--output", tmp_path, "--cycles", "1", "--study", study).code == 0

    owners = {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.rglob("*")}
    assert owners == {(os.getuid(), os.getgid())}


def test_a_container_is_confined(tmp_path: Path, stub_image: str, study: str) -> None:
    process = _started(tmp_path, study, "--set", "stub.hang=interruptible")
    name = _container(study)

    (seen,) = json.loads(subprocess.run(["docker", "inspect", name], capture_output=True, check=True).stdout)

    _stop_now(process)
    assert process.wait(timeout=30) == ExitCode.INTERRUPTED
    host = seen["HostConfig"]
    assert (host["ReadonlyRootfs"], host["NetworkMode"], host["CapDrop"]) == (True, "none", ["ALL"])
    assert (host["Privileged"], host["AutoRemove"], host["Init"]) == (False, False, True)
    assert seen["Config"]["User"] == f"{os.getuid() or 12345}:0"
    assert [mount["Destination"] for mount in seen["Mounts"]] == ["/results"]


def test_a_timeout_kills_the_container_itself(tmp_path: Path, stub_image: str, study: str) -> None:
    arguments = ["--cycles", "1", "--retries", "0", "--timeout", "3", "--set", "stub.hang=uninterruptible"]
    ran = run_command(*STUB, "--output", tmp_path, "--study", study, *arguments)

    assert ran.code == ExitCode.MEASUREMENT_FAILED
    assert [one.error_class for one in failures(tmp_path)] == ["TimedOut"]
    assert containers_of(study) == []
    assert leftovers(tmp_path) == []


def test_a_second_sigterm_leaves_no_container(tmp_path: Path, stub_image: str, study: str) -> None:
    process = _started(tmp_path, study, "--set", "stub.hang=uninterruptible")
    _container(study)

    _stop_now(process)

    assert process.wait(timeout=30) == ExitCode.INTERRUPTED
    assert containers_of(study) == []
    assert leftovers(tmp_path) == []
    assert failures(tmp_path) == [], "that it was interrupted says nothing about the experiment"


def test_the_next_runner_removes_the_container_of_a_killed_one(tmp_path: Path, stub_image: str, study: str) -> None:
    process = _started(tmp_path, study, "--set", "stub.hang=interruptible")
    _container(study)
    process.kill()
    process.wait()

    ran = run_command(*STUB, "--output", tmp_path, "--study", f"{study}-another", "--cycles", "1")

    assert ran.code == 0, ran.stderr
    assert containers_of(study) == []
    assert len(results(tmp_path)) == 1
    assert leftovers(tmp_path) == []


def test_a_container_killed_from_outside_is_tried_again(tmp_path: Path, stub_image: str, study: str) -> None:
    process = _started(tmp_path, study, "--set", "stub.window_s=4", "--cycles", "1", "--retries", "0")
    subprocess.run(["docker", "kill", _container(study)], check=True, capture_output=True)

    assert process.wait(timeout=60) == 0
    assert [(one.cycle, one.attempt) for one in results(tmp_path)] == [(1, 2)]
    assert failures(tmp_path) == []
    assert containers_of(study) == []


def test_a_batch_too_big_for_the_containers_memory_is_told_so(tmp_path: Path, pytorch_image: str, study: str) -> None:
    # Eager attention holds batch x heads x length x length floats: 4.3 GB in one layer.
    settings = {"workload.source": "synthetic", "workload.max_input_tokens": 2048, "batch_size": 64}
    settings |= {"pytorch.attn_implementation": "eager"}
    options = [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]
    arguments = ["--cycles", "1", "--memory", "1500m", "--study", study, *options]
    ran = run_command("run", "--backend", "pytorch", "--output", tmp_path, *arguments)

    assert ran.code == ExitCode.OUT_OF_MEMORY, ran.stderr
    (failure,) = failures(tmp_path)
    assert "too much memory" in failure.message
    assert containers_of(study) == []


def test_what_a_surviving_process_measured_is_kept_and_belongs_to_the_caller(
    tmp_path: Path, stub_image: str, study: str
) -> None:
    settings = {"num_processes": "2", "stub.fail": "killed", "stub.rank": "1"}
    options = [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]
    ran = run_command(*STUB, "--output", tmp_path, "--study", study, "--cycles", "1", "--retries", "0", *options)

    assert ran.code == ExitCode.INCOMPLETE_PROCESSES, ran.stderr
    (failure,) = failures(tmp_path)
    folder = tmp_path / files.RAW_FOLDER / failure.experiment_id
    assert [one.record.raw.process_index for one in load_processes(folder)] == [0]
    assert {path.stat().st_uid for path in folder.iterdir()} == {os.getuid()}
    assert leftovers(tmp_path) == []
    assert containers_of(study) == []


def test_an_engine_that_is_down_is_one_line(tmp_path: Path) -> None:
    ran = run_command(*STUB, "--output", tmp_path, env={"DOCKER_HOST": "tcp://127.0.0.1:9"})

    assert ran.code == ExitCode.LAUNCHER
    assert "no Docker engine answers" in ran.stderr
    assert "--launcher local" in ran.stderr
    assert ran.is_one_clear_line(), ran.stderr


def test_an_image_that_is_not_built_is_told_with_the_command_that_builds_it(
    docker_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: "joulehouse-none:latest")
    with pytest.raises(LaunchFailed, match=r"joulehouse-none:latest is not built\. Run `make image BACKEND=stub`"):
        DockerLauncher().check(ExperimentConfig(backend="stub"))


def test_an_image_of_another_contract_is_refused(stub_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"joulehouse-test-{uuid.uuid4().hex[:8]}"
    dockerfile = f"FROM {stub_image}\nLABEL {LABEL_CONTRACT}=0\n"
    subprocess.run(
        ["docker", "build", "-q", "-t", name, "-"], input=dockerfile.encode(), check=True, capture_output=True
    )
    monkeypatch.setattr(docker_launcher, "image_name", lambda _backend: name)
    try:
        with pytest.raises(LaunchFailed, match=f"built for contract 0; this runner speaks {CONTRACT_VERSION}"):
            DockerLauncher().check(ExperimentConfig(backend="stub"))
    finally:
        docker.from_env().images.remove(name, force=True)


def test_a_gpu_that_docker_cannot_give_leaves_no_container(tmp_path: Path, stub_image: str, study: str) -> None:
    arguments = [*STUB, "--output", str(tmp_path), "--study", study, "--retries", "0", "--cycles", "1"]
    code = (
        "import runner.cli as c, runner.host as h; h.allocated_gpus = lambda: ['GPU-none']; "
        "import runner.dispatch as d; d.Settler.settle = lambda *rest: []; "
        f"import sys; sys.argv = ['runner', *{arguments!r}]; c.main()"
    )
    done = subprocess.run([RUNNER[0], "-c", code], capture_output=True, text=True, timeout=60)

    assert done.returncode == ExitCode.LAUNCHER
    # With simulated GPUs the engine knows --gpus, and it is the hook that refuses.
    assert "NVIDIA Container Toolkit" in done.stderr or "Docker refused: " in done.stderr
    assert {one.exit_code for one in failures(tmp_path)} == {125}
    assert containers_of(study) == []
    assert leftovers(tmp_path) == []


def _started(output: Path, study: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [*RUNNER, *STUB, "--output", str(output), "--study", study, *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _stop_now(process: subprocess.Popen[bytes]) -> None:
    """The first signal lets the job finish, the second ends it."""
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)


def _container(study: str) -> str:
    """Name of the study's container once its job has reached the window."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for name in containers_of(study):
            log = subprocess.run(["docker", "logs", name], capture_output=True, text=True)
            if "phase: window" in log.stderr + log.stdout:
                return name
        time.sleep(0.1)
    raise AssertionError("no container of the study reached its window")
