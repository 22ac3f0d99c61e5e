"""`runner doctor` for a study on a cluster: every line says what is there, or what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.cluster.checks import cluster_checks
from runner.studies.settings import LauncherSettings
from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.cluster_studies import cluster_study

RESOURCE = "nvidia.com/gpu"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with running_api_server("bench") as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig", "bench")))
        yield running


def node(api: ApiServer, name: str, gpus: int, **labels: str) -> None:
    status = {"allocatable": {RESOURCE: str(gpus)}}
    named = {"name": name, "labels": {key.replace("_", "."): value for key, value in labels.items()}}
    api.store.add("nodes", {"kind": "Node", "metadata": named, "spec": {}, "status": status})


def claim(api: ApiServer, phase: str = "Bound", mode: str = "ReadWriteMany") -> None:
    spec = {"accessModes": [mode], "storageClassName": "nfs"}
    found = {"metadata": {"name": "results"}, "spec": spec, "status": {"phase": phase}}
    api.store.add("persistentvolumeclaims", {"kind": "PersistentVolumeClaim", **found}, "bench")


def found(**settings: Any) -> dict[str, tuple[str, str]]:
    """State and text of each check."""
    return {one.name: (one.state, f"{one.found} -> {one.next_step}") for one in cluster_checks(study(**settings))}


def study(**settings: Any) -> Any:
    return cluster_study("a", "b", kubernetes=settings)


def test_a_cluster_that_has_everything_is_all_right(api: ApiServer) -> None:
    node(api, "one", 8)
    claim(api)
    states = {name: state for name, (state, _) in found().items()}
    assert set(states.values()) == {"ok"}
    assert {"cluster", "permissions", "results", "GPUs", "image stub"} <= states.keys()


def test_what_is_missing_is_named_with_the_next_step(api: ApiServer) -> None:
    node(api, "shared", 8, **{"nvidia.com/gpu.sharing-strategy": "time-slicing"})
    api.denied |= {("watch", "pods"), ("create", "jobs")}
    quota = {"hard": {f"requests.{RESOURCE}": "4"}, "used": {f"requests.{RESOURCE}": "4"}}
    api.store.add("resourcequotas", {"kind": "ResourceQuota", "metadata": {"name": "gpus"}, "status": quota}, "bench")

    seen = found(images={"stub": "registry.example/stub:1"})

    assert seen["permissions"] == (
        "problem",
        "you may not create jobs, watch pods -> Ask for the Role that `runner render --rbac` prints.",
    )
    assert seen["image stub"][0] == "warning"
    assert seen["results"] == ("problem", "there is no claim results -> Make it, or correct kubernetes.results.")
    assert seen["quota"][0] == "warning"
    assert "0 of 4 GPUs left by gpus; a job needs 1 and will wait" in seen["quota"][1]
    assert seen["GPUs"][0] == "problem", "GPUs that are shared do not fit"


@pytest.mark.parametrize(
    ("phase", "mode", "says"),
    [("Pending", "ReadWriteMany", "is Pending (storage class nfs)"), ("Bound", "ReadWriteOnce", "is ReadWriteOnce")],
)
def test_a_claim_that_may_not_do_is_a_warning(api: ApiServer, phase: str, mode: str, says: str) -> None:
    claim(api, phase, mode)
    state, text = found()["results"]
    assert state == "warning"
    assert says in text


def test_a_study_without_gpus_asks_for_none_and_hidden_nodes_are_no_problem(api: ApiServer) -> None:
    api.denied.add(("list", "nodes"))
    assert found()["GPUs"][0] == "warning"
    without = replace(study(), launcher=LauncherSettings(gpus="none"))
    assert {one.name: one.state for one in cluster_checks(without)}["GPUs"] == "ok"


def test_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    (only,) = cluster_checks(study())
    assert only.state == "problem"
    assert "there is no kubeconfig" in only.found
