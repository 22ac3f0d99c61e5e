"""The pod that is rendered runs as it is: each container with Docker, as any user, read only, without capabilities."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from images.contract.config import parse_config
from images.contract.report import JobReport
from runner.cluster.pods import JOB_UID
from runner.studies.study import Experiment
from tests.docker_engine import docker_command
from tests.runner.cluster.cluster_studies import cluster_study, containers, inputs_of, manifests, pod
from tests.runner.command import results

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker"), pytest.mark.timeout(300)]
ANY_USER = "1000660000:0"  # as OpenShift chooses them
CONFIGS: dict[str, dict[str, Any]] = {
    "stub": {"backend": "stub", "stub": {"window_s": 0.1}},
    "torch": {"backend": "pytorch", "workload": {"n_prompts": 4, "max_output_tokens": 4}},
}


def test_a_rendered_block_runs_container_by_container_to_its_results(
    stub_image: str, pytorch_image: str, tmp_path: Path
) -> None:
    parsed = {name: parse_config(config) for name, config in CONFIGS.items()}
    experiments = tuple(Experiment(name, one, one.measurement_config_hash()) for name, one in parsed.items())
    images = {"stub": stub_image, "pytorch": pytorch_image}
    study = replace(cluster_study(cycles=1, kubernetes={"images": images}), experiments=experiments)
    config_map, job = manifests(
        replace(study, launcher=study.launcher.model_copy(update={"gpus": "none"})), allow_tag=True
    )
    inputs, claim = tmp_path / "inputs", tmp_path / "claim"
    for folder in (inputs, claim):
        folder.mkdir()
    for name, text in config_map["data"].items():
        (inputs / name).write_text(text)
    os.chown(claim, 0, 0)
    claim.chmod(0o2775)  # as a volume with fsGroup 0 is
    assert len(inputs_of(config_map)) == 4

    said = [run_container(one, pod(job), inputs, claim, tmp_path) for one in containers(job)]

    assert [one and one.outcome for one in said] == ["result", "result"]
    found = {one.experiment: one for one in results(claim)}
    assert found.keys() == {"stub", "torch"}
    for one in found.values():
        assert one.environment_snapshot is not None
        assert (one.environment_snapshot.pod, one.environment_snapshot.node) == ("pod-1", "node-1")
        assert one.block == "c001-cpu"
    again = [run_container(one, pod(job), inputs, claim, tmp_path) for one in containers(job)]
    assert [one and one.outcome for one in again] == ["earlier", "earlier"], (
        "a pod that is tried again measures nothing"
    )


def run_container(
    container: dict[str, Any], spec: dict[str, Any], inputs: Path, claim: Path, scratch: Path
) -> JobReport | None:
    """What a kubelet makes of it, with Docker's words."""
    report = scratch / f"report-{container['name']}"
    report.touch()
    report.chmod(0o666)
    volumes = {one["name"]: one for one in spec["volumes"]}
    sources = {"inputs": inputs, "results": claim}
    arguments: list[str] = []
    for mount in container["volumeMounts"]:
        volume, target = volumes[mount["name"]], mount["mountPath"]
        if "emptyDir" in volume:
            # The pod's containers share it, one after another.
            shared = scratch / f"empty-{mount['name']}"
            shared.mkdir(exist_ok=True)
            shared.chmod(0o1777)
            arguments += ["-v", f"{shared}:{target}"]
        else:
            arguments += ["-v", f"{sources[mount['name']]}:{target}{':ro' if mount.get('readOnly') else ''}"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    arguments += ["--read-only", *(f"--cap-drop={one}" for one in security["capabilities"]["drop"])]
    assert not security["allowPrivilegeEscalation"]
    arguments += ["--security-opt", "no-new-privileges", "--user", ANY_USER, "--network", "none"]
    names = {"spec.nodeName": "node-1", "metadata.name": "pod-1", f"metadata.labels['{JOB_UID}']": "uid-1"}
    for variable in container["env"]:
        value = variable.get("value") or names[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        arguments += ["-e", f"{variable['name']}={value}"]
    arguments += ["-v", f"{report}:{container['terminationMessagePath']}"]
    docker_command("run", "--rm", *arguments, container["image"], *container["args"])
    return JobReport.parse(report.read_text())
