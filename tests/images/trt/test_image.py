"""The image of trt holds what its job needs beside TensorRT-LLM; pytorch's stands in the place of NVIDIA's image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from images.contract.result import ExperimentResult
from tests.docker_engine import ROOT, docker_command
from tests.images.trt.jobs import STAND_IN, small

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("trt jobs")]

IMAGE = "joulehouse-trt-stand-in"


def test_a_job_runs_in_the_image_offline_as_any_user_on_a_read_only_root(pytorch_image: str, tmp_path: Path) -> None:
    build = (
        "build",
        "--build-arg",
        f"BASE_IMAGE={pytorch_image}",
        "-t",
        IMAGE,
        "-f",
        str(ROOT / "images/trt/Dockerfile"),
    )
    docker_command(*build, str(ROOT / "images"))
    (tmp_path / "config.json").write_text(json.dumps(small()))
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(0o777)
    tmp_path.chmod(0o755)
    docker_command(
        *("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("-e", "STAND_IN_GPUS=1", "-e", "PYTHONPATH=/opt/job:/stand_in", "-v", f"{STAND_IN}:/stand_in:ro"),
        *("-v", f"{tmp_path / 'config.json'}:/config.json:ro", "-v", f"{results}:/results"),
        *(IMAGE, "--config", "/config.json"),
    )
    (directory,) = results.iterdir()
    assert ExperimentResult.from_json(directory).backend == "trt"
