"""`make push` prints what a study on a cluster names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from runner.cluster.images import study_images
from tests.docker_engine import ROOT, docker_command
from tests.registry import running_registry
from tests.runner.cluster.cluster_studies import cluster_study

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker"), pytest.mark.timeout(300)]


def test_images_are_pushed_and_named_by_the_digest_that_the_registry_has(stub_image: str, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as registry:
        where = f"{registry.address}/team"
        command = ["make", "push", "BACKENDS=stub", f"REGISTRY={where}"]
        pushed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        try:
            assert pushed.returncode == 0, pushed.stderr
            (line,) = re.findall(r"^  stub: (\S+)$", pushed.stdout, flags=re.MULTILINE)
            ((name, tag), digest), *others = registry.manifests.items()
            assert others == []
            assert name == "team/joulehouse-stub"
            assert line == f"{where}/joulehouse-stub@{digest}"
            study = cluster_study("a", kubernetes={"images": {"stub": line}})
            assert study_images(study, allow_tag=False)["stub"].digest == digest
        finally:
            docker_command("rmi", f"{where}/joulehouse-stub:{tag}")


def test_what_is_missing_for_a_push_is_one_line() -> None:
    for arguments, says in (
        ([], "REGISTRY= is empty"),
        (["REGISTRY=x", "BACKENDS=nothing"], "no image joulehouse-nothing"),
    ):
        ran = subprocess.run(["make", "push", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 2
        assert says in ran.stderr.splitlines()[0]
