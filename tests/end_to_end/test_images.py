"""The images by themselves, without our launcher: any host that honours the contract can run them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from testcontainers.core.container import DockerContainer

from images.contract import files
from images.contract.job import (
    CONTRACT_VERSION,
    LABEL_BACKEND,
    LABEL_CONTRACT,
    LABEL_REVISION,
    RESULTS_MOUNT,
    ExitCode,
)
from images.contract.result import ExperimentResult
from tests.docker_engine import ROOT, docker_command

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]
ARBITRARY_USER = "54321:0"
BACKENDS = ["stub", "pytorch", "vllm"]
SMALL: dict[str, Any] = {"workload": {"n_prompts": 4, "max_output_tokens": 8}, "batch_size": 2}
QUICK: dict[str, dict[str, Any]] = {"vllm": {"vllm": {"enforce_eager": True, "max_model_len": 512}}}


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    """Writable by group 0 and nobody else, as a platform that picks user ids at random provides it."""
    folder = tmp_path / "results"
    folder.mkdir()
    os.chown(folder, -1, 0)
    folder.chmod(0o2770)
    return folder


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder to group 0")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_confined_container_of_any_user_runs_to_a_result(
    built_image: Callable[[str], str], results_folder: Path, backend: str
) -> None:
    code, log = _run(built_image(backend), results_folder, {"backend": backend, **SMALL, **QUICK.get(backend, {})})

    assert code == ExitCode.OK, log
    (directory,) = results_folder.iterdir()
    result = ExperimentResult.from_json(directory)
    assert result.backend == backend
    assert result.process_results[0].inference_metrics.total_prompts == 4
    assert {path.name for path in directory.iterdir()} == {files.RESULT_FILE, files.REQUESTS_FILE}
    assert {path.stat().st_uid for path in directory.iterdir()} == {54321}


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder to group 0")
def test_a_failure_in_a_container_is_a_file_and_an_exit_code(stub_image: str, results_folder: Path) -> None:
    config = {"backend": "stub", "stub": {"fail": "gpu_unusable"}}
    code, log = _run(stub_image, results_folder, config)

    assert code == ExitCode.GPU_UNUSABLE, log
    (directory,) = results_folder.iterdir()
    assert files.read_json(directory / files.FAILURE_FILE)["exit_code"] == ExitCode.GPU_UNUSABLE


def test_a_results_folder_that_the_user_may_not_write_is_one_line(stub_image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    code, log = _run(stub_image, tmp_path, {"backend": "stub"})

    assert code == ExitCode.USAGE
    assert f"not writable by uid {ARBITRARY_USER.split(':')[0]}, gid 0" in log
    assert log.count("\n") == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_says_what_it_is_and_holds_nothing_else(built_image: Callable[[str], str], backend: str) -> None:
    client = docker.from_env()
    image = client.images.get(built_image(backend))

    assert image.labels[LABEL_CONTRACT] == CONTRACT_VERSION
    assert image.labels[LABEL_BACKEND] == backend
    assert image.labels[LABEL_REVISION] not in ("", "unknown")
    assert image.attrs["Config"]["User"] == "12345:0"
    listed = client.containers.run(
        image, ["/opt/job/images"], entrypoint="ls", remove=True, network_mode="none"
    ).decode()
    shared = {"contract", "harness"} if backend == "stub" else {"contract", "harness", "models"}
    assert set(listed.split()) - {"__pycache__"} == {"__init__.py", *shared, backend}
    absent = "import importlib.util as u; print([m for m in ('duckdb', 'runner', 'warehouse') if u.find_spec(m)])"
    found = client.containers.run(image, ["-c", absent], entrypoint="python3", remove=True, network_mode="none")
    assert found.decode().strip() == "[]"


def _run(image: str, results: Path, config: dict[str, Any]) -> tuple[int, str]:
    """Exit code and log of a container with as few rights as a cautious host gives."""
    folder = results.parent / "job"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for path in (results.parent, folder):
        path.chmod(path.stat().st_mode | 0o055)
    container = (
        DockerContainer(image)
        .with_command(["--config", "/job/config.json", "--output", RESULTS_MOUNT])
        .with_volume_mapping(str(results), RESULTS_MOUNT, "rw")
        .with_volume_mapping(str(folder), "/job", "ro")
        .with_kwargs(
            user=ARBITRARY_USER,
            read_only=True,
            shm_size="1g",
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        .with_tmpfs_mount("/tmp")
    )
    with container:
        wrapped = container.get_wrapped_container()
        code = int(wrapped.wait(timeout=300)["StatusCode"])
        return code, wrapped.logs().decode()


def test_a_change_on_the_host_side_rebuilds_no_layer(stub_image: str, tmp_path: Path) -> None:
    before = docker.from_env().images.get(stub_image).attrs["RootFS"]["Layers"]
    for folder in ("images", "runner", "warehouse"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("runner/cli.py", "warehouse/cli.py"):
        (tmp_path / file).write_text((tmp_path / file).read_text() + "\n# changed\n")
    base = os.environ.get("BASE_IMAGE")
    on_base = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    tag = "joulehouse-stub-of-a-changed-host"
    try:
        docker_command(
            "build", *on_base, "-t", tag, "-f", str(tmp_path / "images/stub/Dockerfile"), str(tmp_path / "images")
        )
        assert docker.from_env().images.get(tag).attrs["RootFS"]["Layers"] == before
    finally:
        docker.from_env().images.remove(tag, force=True)
