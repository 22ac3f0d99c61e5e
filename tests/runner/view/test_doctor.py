"""`runner doctor` sees what is really wrong with a host, and says what to do about it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
from rich.console import Console

from images.contract.config import ExperimentConfig
from images.contract.job import CONTRACT_VERSION, LABEL_CONTRACT, LABEL_REVISION
from runner.gpu.slots import Owner, Slots
from runner.launchers import checkout_revision
from runner.launchers import docker_checks as docker_side
from runner.launchers.docker_checks import Engine, engine_check
from runner.studies.settings import LauncherSettings
from runner.studies.study import Experiment, Study
from runner.view.checks import Check
from runner.view.doctor import (
    docker_checks,
    gpu_checks,
    lease_check,
    local_checks,
    model_checks,
    output_check,
    python_check,
    run_checks,
    show,
    token_check,
)
from tests.docker_engine import docker_command
from tests.gpu_node.node import Node

LEASE = """
import sys, time
from pathlib import Path
from runner.gpu.slots import Owner, Slots
lease = Slots(["GPU-aaaa"], Path(sys.argv[1]), Owner(Path("/data/results"), "a-study", "local")).lease(1)
lease.occupy("small", 1, None)
print("leased", flush=True)
time.sleep(60)
"""


def study(launcher: LauncherSettings | None = None, **config: object) -> Study:
    one = ExperimentConfig.model_validate({"backend": "stub", **config})
    experiment = Experiment("small", one, one.measurement_config_hash())
    return Study("a-study", (experiment,), 3, launcher=launcher or LauncherSettings())


def named(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def gpu_lines(of: Study | None = None, environment: dict[str, str] | None = None) -> dict[str, Check]:
    lines, _ = gpu_checks(of, environment or {})
    return {line.name: line for line in lines}


# --- Docker


@pytest.fixture
def engine(docker_engine: None) -> Engine:
    return Engine()


@pytest.fixture
def relabelled(stub_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Builds the image that the checks then find under every backend's name."""
    name = f"joulehouse-test-{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(docker_side, "image_name", lambda _backend: name)

    def build(labels: str) -> None:
        docker_command("build", "-q", "-t", name, "-", given=f"FROM {stub_image}\nLABEL {labels}\n")

    yield build
    subprocess.run(["docker", "rmi", "-f", name], capture_output=True)


def test_an_engine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    (check,) = docker_checks(["stub"], ["GPU-aaaa"])

    assert (check.name, check.state) == ("Docker", "problem")
    assert "no engine answers at tcp://127.0.0.1:9" in check.found
    assert "--launcher local" in check.next_step


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_who_may_not_use_the_engine_is_told_the_group(docker_engine: None) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else for a moment")
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(12345)
    os.seteuid(12345)
    try:
        check, _ = engine_check()
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    assert check.state == "problem"
    assert "group docker" in check.next_step


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_an_engine_with_an_image_of_this_checkout(engine: Engine, relabelled: Callable[[str], None]) -> None:
    relabelled(f"{LABEL_CONTRACT}={CONTRACT_VERSION} {LABEL_REVISION}={checkout_revision()}")
    checks = docker_checks(["stub"], [])

    assert [check.state for check in checks[:2]] == ["ok", "ok"]
    assert checks[0].found == f"engine {docker_command('version', '--format', '{{.Server.Version}}').strip()}"
    assert docker_command("info", "--format", "{{.DockerRootDir}}").strip() in named(checks, "Docker's disk").found


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_images_that_are_missing_or_of_another_time(engine: Engine, relabelled: Callable[[str], None]) -> None:
    missing, nothing = engine.image_check("stub", None)
    assert (missing.state, missing.found, nothing) == ("problem", "not built", None)

    relabelled(f"{LABEL_CONTRACT}=1")
    older, nothing = engine.image_check("stub", None)
    assert (older.state, nothing) == ("problem", None)
    assert older.found == f"built for contract 1; this runner speaks {CONTRACT_VERSION}"

    relabelled(f"{LABEL_CONTRACT}={CONTRACT_VERSION} {LABEL_REVISION}=abc")
    elsewhere, image_id = engine.image_check("stub", "def")
    assert elsewhere.state == "warning"
    assert elsewhere.found == "built from revision abc; this checkout is at def"
    assert image_id is not None
    assert {check.next_step for check in (missing, older, elsewhere)} == {"Run `make image BACKEND=stub`."}


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_whether_containers_get_gpus_is_tried(engine: Engine, stub_image: str, host_node: Node) -> None:
    image_id = docker_command("inspect", "--format", "{{.Id}}", stub_image).strip()
    refused = engine.gpu_check(image_id, ["GPU-none"])
    given = engine.gpu_check(image_id, [gpu.uuid for gpu in host_node.gpus[:2]])

    assert refused.state == "problem"
    assert "NVIDIA Container Toolkit" in refused.next_step
    assert (given.state, given.found) == ("ok", "a container was started with 2")
    assert docker_command("ps", "-aq", "--filter", "name=joulehouse-doctor-") == ""


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_gpus_without_an_image_to_try_them_with(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_side, "image_name", lambda _backend: "joulehouse-none:latest")
    checks = docker_checks([], ["GPU-aaaa"])

    images = [check for check in checks if check.name.startswith("image ")]
    assert {check.state for check in images} == {"problem"}, "not one backend can be run"
    assert named(checks, "GPUs in containers").state == "warning"


# --- GPUs


def test_a_healthy_node(gpu_node: Node) -> None:
    lines = gpu_lines(study(num_processes=8))

    assert {line.state for line in lines.values()} == {"ok"}
    assert lines["NVIDIA driver"].found == "999.00.01-simulated"
    assert lines["GPUs"].found.startswith("8 of 8 may be used: SIMULATED GPU 0")


def test_a_node_as_others_left_it(gpu_node: Node) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        gpu_node.gpus[1].processes = [(other.pid, 2**30)]
        gpu_node.gpus[2].mig = True
        gpu_node.gpus[3].persistence = False
        lines = gpu_lines()
        other.kill()

    assert (lines["processes on GPUs"].state, lines["MIG"].state) == ("warning", "problem")
    # Its name may still be that of the process which started it.
    assert lines["processes on GPUs"].found.endswith(f" (pid {other.pid}) on {gpu_node.gpus[1].uuid}")
    assert lines["MIG"].found == f"on: {gpu_node.gpus[2].uuid}"
    assert (lines["persistence mode"].state, lines["persistence mode"].found) == (
        "warning",
        f"off: {gpu_node.gpus[3].uuid}",
    )


def test_what_a_study_needs_of_the_gpus(gpu_node: Node) -> None:
    two = {"CUDA_VISIBLE_DEVICES": "3,1"}
    gpu_node.gpus[2].mig = True

    assert set(gpu_lines(study(), two)) == {"NVIDIA driver", "GPUs"}, "what the others are like is not looked at"
    assert gpu_lines(study(), two)["GPUs"].found.startswith("2 of 8 may be used")
    assert "needs 3 GPUs, and 2 can be used here" in gpu_lines(study(num_processes=3), two)["GPUs"].found
    limited = gpu_lines(study(LauncherSettings(power_limit_w=400.0)), two)["GPUs"]
    assert limited.state == "problem"
    assert "expects a power limit of 400 W" in limited.found
    on_cpu, uuids = gpu_checks(study(LauncherSettings(gpus="none")), {})
    assert ([line.state for line in on_cpu], uuids) == (["ok"], [])
    hidden = gpu_lines(None, {"CUDA_VISIBLE_DEVICES": ""})["GPUs"]
    assert (hidden.state, hidden.found) == ("warning", "0 of 8 may be used")


def test_a_driver_that_is_broken_is_not_one_that_is_missing(gpu_node: Node) -> None:
    gpu_node.init_error = pynvml.NVML_ERROR_UNKNOWN
    broken = gpu_lines()["GPUs"]
    assert (broken.state, "does not answer" in broken.found) == ("problem", True)

    gpu_node.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    missing = gpu_lines()["NVIDIA driver"]
    assert missing.state == "warning"
    assert "on the CPU" in missing.found


# --- the rest of the host


def test_leases_of_the_living_and_of_the_dead(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    assert (lease_check(folder).state, folder.exists()) == ("ok", False), "asking makes nothing"

    ours = Slots(["GPU-bbbb"], folder, Owner(tmp_path, None, "local")).lease(1)
    assert ours is not None
    with (
        ours,
        subprocess.Popen([sys.executable, "-c", LEASE, str(folder)], stdout=subprocess.PIPE, text=True) as runner,
    ):
        assert runner.stdout is not None
        assert runner.stdout.readline() == "leased\n"
        alive = lease_check(folder)
        runner.kill()
    dead = lease_check(folder)

    assert (alive.state, alive.found.partition(" in ")[0]) == ("ok", "2 GPUs are leased")
    assert dead.state == "warning"
    assert "1 leases are of runners that are gone" in dead.found
    assert "/data/results" in dead.next_step


def test_a_lease_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file")
    check = lease_check(tmp_path / "leases")

    assert check.state == "problem"
    assert "JOULEHOUSE_LEASES" in check.next_step


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    options = "size=1m,nr_inodes=20"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 2**20)
    full = output_check(small_disk / "not" / "there" / "yet")
    (small_disk / "filler").unlink()
    for number in range(19):
        (small_disk / str(number)).touch()
    without_inodes = output_check(small_disk)
    (models,) = [
        check for check in model_checks(study(backend="pytorch", model="org/m"), small_disk) if check.next_step
    ]

    assert (full.state, full.found.partition(" for ")[0]) == ("problem", "0.0 GiB free")
    assert (without_inodes.state, "no further file fits" in without_inodes.found) == ("problem", True)
    assert (models.name, models.state) == ("model cache", "problem"), "the model could not be downloaded"
    assert all("room" in check.next_step for check in (full, without_inodes, models))


def test_an_output_that_cannot_be_written(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert output_check(small_disk / "results").found == f"{small_disk} is not writable"
    assert output_check(Path(__file__) / "results").state == "problem"


def test_models_that_are_here_and_that_are_not(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--here" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    (tmp_path / "models--org--here" / "refs").mkdir()
    (tmp_path / "models--org--here" / "refs" / "main").write_text("a" * 40)

    def said(of: Study | None) -> str:
        return named(list(model_checks(of, tmp_path)), "models").found

    assert said(None) == f"1 models in {tmp_path}"
    assert said(study(backend="pytorch", model="org/here")) == f"all 1 of the study are in {tmp_path}"
    assert said(study(backend="pytorch", model="org/not-here")) == "downloaded before the first job: org/not-here"
    assert said(study()) == "the study needs none from the hub"


def test_the_token_is_never_shown(tmp_path: Path) -> None:
    written = io.StringIO()
    environment = {"HF_TOKEN": "hf_verysecret\n", "JOULEHOUSE_LEASES": str(tmp_path / "leases")}
    checks = run_checks(None, tmp_path, launcher="local", environment=environment, models=tmp_path)
    show(checks, Console(file=written, width=80))

    assert named(checks, "HF_TOKEN").state == "warning"
    assert "verysecret" not in written.getvalue() + repr(checks)
    assert token_check({"HF_TOKEN": "hf_verysecret"}) == Check("HF_TOKEN", "ok", "set")
    assert token_check({}).state == "ok"


def test_local_jobs_need_no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    environment = {"JOULEHOUSE_LEASES": str(tmp_path / "leases")}
    on_cpu = study(LauncherSettings(name="local", gpus="none"))
    checks = run_checks(on_cpu, tmp_path / "results", environment=environment, models=tmp_path)

    assert named(checks, "backend stub").state == "ok"
    assert not any("Docker" in check.name for check in checks)
    assert all(check.state != "problem" for check in checks), checks
    assert list(tmp_path.iterdir()) == [], "asking makes nothing"


def test_a_backend_that_is_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "backend.py").touch()
    monkeypatch.setattr("runner.launchers._IMAGES", tmp_path)
    (asked,) = local_checks(["trt"])
    assert (asked.state, "no backend 'trt'" in asked.found) == ("problem", True)
    assert named(local_checks([]), "backend stub").state == "ok"


def test_what_is_printed_ends_in_the_next_steps() -> None:
    fine = python_check((3, 12, 1))
    old = python_check((3, 9, 2))
    warning = replace(old, state="warning", name="something long")
    written = io.StringIO()

    assert not show([fine, old], Console(file=io.StringIO()))
    assert show([fine, warning], Console(file=written, width=30))
    assert written.getvalue().splitlines() == [
        "ok       Python          3.12.1",
        "warning  something long  3.9.2",
        "                         -> Make .venv anew with Python 3.11 or newer.",
    ]
