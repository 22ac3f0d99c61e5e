"""`runner doctor` for a study on a cluster: every line says what is there, or what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.cluster import bucket
from runner.cluster.checks import cluster_checks
from runner.cluster.render import RULES, rules_of
from runner.studies.settings import LauncherSettings
from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.cluster_studies import cluster_study, jobs
from tests.runner.sample_studies import experiment

RESOURCE = "nvidia.com/gpu"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(bucket, "_N_ATTEMPTS", 1)
    with running_api_server("bench") as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig", "bench")))
        yield running


def node(api: ApiServer, name: str, gpus: int, **labels: str) -> None:
    status = {"allocatable": {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", RESOURCE: str(gpus)}}
    named = {"name": name, "labels": {key.replace("_", "."): value for key, value in labels.items()}}
    api.store.add("nodes", {"kind": "Node", "metadata": named, "spec": {}, "status": status})


def claim(api: ApiServer, phase: str = "Bound", mode: str = "ReadWriteMany", name: str = "results") -> None:
    spec = {"accessModes": [mode], "storageClassName": "nfs"}
    found = {"metadata": {"name": name}, "spec": spec, "status": {"phase": phase}}
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
    assert set(states) == {"cluster", "permissions", "results", "nodes", "image stub", "dry run"}


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
    assert seen["quota gpus"] == (
        "warning",
        "requests.nvidia.com/gpu: 4 of 4 used, 1 needed -> Pods wait for room.",
    )
    assert seen["nodes"][0] == "problem", "GPUs that are shared do not fit"
    assert "dry run" not in seen, "whoever may not create Jobs knows it already"


@pytest.mark.parametrize(
    ("phase", "mode", "says"),
    [("Pending", "ReadWriteMany", "is Pending (storage class nfs)"), ("Bound", "ReadWriteOnce", "is ReadWriteOnce")],
)
def test_a_claim_that_may_not_do_is_a_warning(api: ApiServer, phase: str, mode: str, says: str) -> None:
    claim(api, phase, mode)
    state, text = found()["results"]
    assert state == "warning"
    assert says in text


def test_a_models_claim_is_looked_at_as_the_results_claim_and_may_be_read_only(api: ApiServer) -> None:
    step = "Make it, or correct kubernetes.models_claim."
    assert found(models_claim="hub")["models"] == ("problem", f"there is no claim hub -> {step}")
    claim(api, mode="ReadOnlyMany", name="hub")
    assert found(models_claim="hub")["models"][0] == "ok"
    claim(api, mode="ReadWriteOnce", name="one")
    assert found(models_claim="one")["models"][0] == "warning"


def test_a_study_without_gpus_needs_nodes_all_the_same_and_hidden_nodes_are_no_problem(api: ApiServer) -> None:
    node(api, "small", 0)
    assert {one.name: one.state for one in cluster_checks(without_gpus())}["nodes"] == "ok"
    api.store.update("nodes", "small", "", lambda one: one["spec"].update(unschedulable=True))
    assert {one.name: one.state for one in cluster_checks(without_gpus())}["nodes"] == "problem"
    api.denied.add(("list", "nodes"))
    assert found()["nodes"][0] == "warning"
    assert {one.name: one.state for one in cluster_checks(without_gpus())}["nodes"] == "ok"


def without_gpus() -> Any:
    return replace(study(), launcher=LauncherSettings(gpus="none"))


def test_doctor_leaves_nothing_behind(api: ApiServer) -> None:
    node(api, "one", 8)
    claim(api)
    before = api.store.version
    assert found()["dry run"] == ("ok", "a Job of 3 is taken, and a pod of it -> ")
    assert [one[:2] for one in api.requests if one[:2] in (("create", "jobs"), ("create", "pods"))] == [
        ("create", "jobs"),
        ("create", "pods"),
    ]
    assert api.store.version == before, "nothing was written"


@pytest.mark.parametrize(
    ("resource", "said", "state"),
    [
        ("pods", 'pods "x" is forbidden: no PriorityClass with name low was found', "problem"),
        ("pods", 'pods "x" is forbidden: error looking up service account bench/gone: not found', "problem"),
        ("pods", 'pods "x" is forbidden: maximum cpu usage per Container is 2, but limit is 4', "problem"),
        ("pods", 'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "problem"),
        ("jobs", 'admission webhook "validate.kyverno.svc" denied the request: no cost centre', "problem"),
        (
            "pods",
            'pods "x" is forbidden: exceeded quota: all, requested: pods=1, used: pods=4, limited: pods=4',
            "warning",
        ),
    ],
)
def test_what_the_cluster_refuses_is_told_in_its_own_words(
    api: ApiServer, resource: str, said: str, state: str
) -> None:
    api.answer(403, "create", resource, message=said)
    seen = found()["dry run"]
    assert seen[0] == state
    assert said in seen[1]
    assert api.objects("jobs") + api.objects("pods") == []


def test_a_cluster_that_cannot_try_it_out_is_no_problem_and_neither_is_a_job_that_is_there(api: ApiServer) -> None:
    said = 'admission webhook "count.example" does not support dry run'
    api.answer(400, "create", "pods", message=said)
    assert found()["dry run"] == (
        "warning",
        f"the cluster cannot try it out: {said}. -> Its first pod shows what it takes.",
    )
    (first, *_) = jobs(study())
    api.store.add("jobs", first, "bench")
    assert found()["dry run"][0] == "ok"


def test_tolerations_that_the_cluster_adds_count(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As GKE does it for the taint of GPU nodes."""
    node(api, "one", 8)
    taint = {"key": RESOURCE, "value": "present", "effect": "NoSchedule"}
    api.store.update("nodes", "one", "", lambda one: one["spec"].update(taints=[taint]))
    assert found()["nodes"][0] == "problem"
    add = api.store.add

    def tolerant(plural: str, new: Any, *place: Any, **how: Any) -> Any:
        made = add(plural, new, *place, **how)
        if plural == "pods":
            made["spec"]["tolerations"] = [{"key": RESOURCE, "operator": "Exists"}]
        return made

    monkeypatch.setattr(api.store, "add", tolerant)
    assert found()["nodes"][0] == "ok"
    api.allow_only((*RULES, ("", ("nodes",), ("list",))))
    api.denied.add(("create", "pods"))
    assert found()["nodes"][0] == "warning", "nobody knows"


BUCKET = {"results": "s3://bucket/x", "endpoint_url": "http://127.0.0.1:9"}
NAMED: dict[str, Any] = {
    **BUCKET,
    "credentials_secret": "s3",
    "token_secret": "hub",
    "image_pull_secrets": ["registry"],
    "service_account": "runner",
    "priority_class": "low",
    "queue": "gpus",
}


def test_what_the_settings_name_is_looked_for_where_it_may_be(api: ApiServer) -> None:
    api.denied.add(("create", "pods"))
    seen = {name: state for name, (state, _) in found(**NAMED).items()}
    lines = ("secret s3", "secret hub", "secret registry", "service account runner", "priority class low", "queue gpus")
    assert [seen[name] for name in lines] == ["problem", "problem", "warning", "problem", "problem", "problem"]

    api.groups["kueue.x-k8s.io"] = "v1beta2"
    stopped = {"conditions": [{"type": "Active", "status": "False", "message": "the ClusterQueue gpus is stopped"}]}
    api.store.add("localqueues", {"metadata": {"name": "gpus"}, "status": stopped}, "bench")
    api.store.add("secrets", {"metadata": {"name": "s3"}}, "bench")
    api.store.add("secrets", {"metadata": {"name": "hub"}, "data": {"TOKEN": "eA=="}}, "bench")
    api.store.add("secrets", {"metadata": {"name": "registry"}}, "bench")
    api.store.add("serviceaccounts", {"metadata": {"name": "runner"}}, "bench")
    api.store.add("priorityclasses", {"metadata": {"name": "low"}})
    there = found(**NAMED)
    assert not there.keys() & {"secret registry", "service account runner", "priority class low"}
    assert there["secret s3"][0] == "ok"
    assert there["secret hub"] == ("problem", "it has no key HF_TOKEN -> Add the key to the Secret.")
    assert there["queue gpus"][0] == "warning"
    assert "the ClusterQueue gpus is stopped" in there["queue gpus"][1]
    api.store.update("localqueues", "gpus", "bench", lambda one: one.pop("status"))
    api.store.update("secrets", "hub", "bench", lambda one: one.update(data={"HF_TOKEN": "eA=="}))
    fine = found(**NAMED)
    assert (fine["queue gpus"][0], fine["secret hub"][0]) == ("ok", "ok")


def test_the_role_is_enough_for_every_check_but_the_nodes(api: ApiServer) -> None:
    """What it does not let be looked at is left out."""
    claim(api)
    api.groups["kueue.x-k8s.io"] = "v1beta2"
    api.allow_only(RULES)
    assert {
        name: state for name, (state, _) in found(queue="gpus", token_secret="hub", priority_class="low").items()
    } == {
        **dict.fromkeys(("cluster", "permissions", "results", "image stub", "dry run"), "ok"),
        "nodes": "warning",
    }
    narrow = rules_of(study(**BUCKET).kubernetes)
    api.allow_only(narrow)
    seen = found(**BUCKET, credentials_secret="s3", service_account="runner")
    assert seen["permissions"][0] == "ok"
    assert seen["dry run"] == ("ok", "a Job of 3 is taken; whether its pods are, shows later -> ")
    assert found()["permissions"][1].startswith("you may not create pods, get pods/proxy ->")


def test_a_study_that_cannot_be_rendered_is_told_so_and_the_cluster_is_looked_at_all_the_same(
    api: ApiServer, tmp_path: Path
) -> None:
    node(api, "one", 8)
    for missing, nothing in (("images", {}), ("results", None)):
        seen = found(**{missing: nothing})
        assert seen["nodes"][0] == "ok"
        assert "dry run" not in seen
        assert {state for state, _ in seen.values()} == {"ok", "problem"}
    local = experiment("a", backend="pytorch", model=str(tmp_path), stub=None)
    states = {one.name: one for one in cluster_checks(replace(study(), experiments=(local,)))}
    assert states["Jobs"].state == "problem"
    assert "which no pod sees" in states["Jobs"].found


def test_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    (only,) = cluster_checks(study())
    assert only.state == "problem"
    assert "there is no kubeconfig" in only.found
