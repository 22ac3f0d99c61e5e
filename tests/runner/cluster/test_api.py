"""What a cluster answers over HTTP, and what is made of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.cluster import api as cluster_api
from runner.cluster.api import Api, PodGone
from runner.launchers import EngineAway, LaunchFailed, LaunchImpossible
from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.object_store import Object

INPUTS: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "inputs"}, "data": {}}
RACE = (
    'Operation cannot be fulfilled on resourcequotas "gpus": the object has been modified; please apply your changes '
    "to the latest version and try again"
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(cluster_api, "_CONFLICT_PAUSES_S", (0.01, 0.01))
    with running_api_server("bench") as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig", "bench")))
        yield running


@pytest.fixture
def api(server: ApiServer) -> Api:
    return Api(None)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'configmaps is forbidden: User "jane" cannot create resource "configmaps" in API group "" in the namespace '
            '"bench": requires one of ["container.configMaps.create"] permission(s).',
            "you may not create configmaps in the namespace bench. "
            "Ask for the Role that `runner render --rbac` prints.",
        ),
        (
            'configmaps "inputs" is forbidden: exceeded quota: all, requested: count/configmaps=1, used: '
            "count/configmaps=9, limited: count/configmaps=9",
            'the namespace bench is at its quota: configmaps "inputs" is forbidden: exceeded quota: all, requested: '
            "count/configmaps=1, used: count/configmaps=9, limited: count/configmaps=9. Wait for room, or ask for a "
            "larger quota.",
        ),
        (
            'configmaps "inputs" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
            'the namespace bench does not take it: configmaps "inputs" is forbidden: violates PodSecurity '
            '"restricted:latest": runAsNonRoot != true. Correct the section kubernetes, or ask who runs the cluster.',
        ),
        (
            'admission webhook "validate.kyverno.svc" denied the request: you cannot use resource here',
            'the namespace bench does not take it: admission webhook "validate.kyverno.svc" denied the request: you '
            "cannot use resource here. Correct the section kubernetes, or ask who runs the cluster.",
        ),
        (
            'pods "x" is forbidden: failed quota: all: must specify limits.cpu for: task-0',
            'the namespace bench does not take it: pods "x" is forbidden: failed quota: all: must specify limits.cpu '
            "for: task-0. Correct the section kubernetes, or ask who runs the cluster.",
        ),
    ],
)
def test_a_refusal_is_told_by_its_cause(server: ApiServer, api: Api, said: str, told: str) -> None:
    server.answer(403, "create", "configmaps", message=said)
    with pytest.raises(LaunchImpossible) as refused:
        api.create(INPUTS)
    assert str(refused.value) == told


def test_a_namespace_that_goes_away_is_told_as_that(server: ApiServer, api: Api) -> None:
    api.require_namespace()
    server.store.update("namespaces", "bench", "", lambda one: one.update(status={"phase": "Terminating"}))
    going = r"the namespace bench at http.* is being removed"
    with pytest.raises(LaunchImpossible, match=going):
        api.require_namespace()
    with pytest.raises(LaunchImpossible, match=going):
        api.create(INPUTS)
    assert api.find("ConfigMap", "")[0] == []


def test_a_namespace_that_does_not_exist_is_found_without_making_anything(server: ApiServer) -> None:
    nowhere = Api("nowhere")
    assert nowhere.find("Job", "")[0] == [], "a list shows nothing"
    with pytest.raises(LaunchImpossible, match="there is no namespace nowhere"):
        nowhere.require_namespace()
    server.denied.add(("create", "configmaps"))
    nowhere.require_namespace()  # who may not ask is told by what comes next
    server.denied.clear()
    there = Api("bench")
    there.require_namespace()
    for code in (400, 403, 422):
        server.answer(code, "create", "configmaps", message="a policy does not like it")
        there.require_namespace()
    assert server.objects("configmaps") == []
    server.answer(503, "create", "configmaps")
    with pytest.raises(EngineAway):
        there.require_namespace()


def test_what_is_there_already_is_no_error_and_a_race_for_the_quota_is_run_again(server: ApiServer, api: Api) -> None:
    server.answer(409, "create", "configmaps", times=2, message=RACE)
    made = api.create(INPUTS)
    assert made is not None
    assert made["metadata"]["name"] == "inputs"
    assert server.requests.count(("create", "configmaps", "inputs")) == 3
    assert api.create(INPUTS) is None
    server.answer(409, "create", "configmaps", times=3, message=RACE)
    with pytest.raises(EngineAway, match=r"cannot answer now \(Operation cannot be fulfilled on resourcequotas"):
        api.create(INPUTS)
    assert server.requests.count(("create", "configmaps", "inputs")) == 7


def test_pauses_between_tries_are_short() -> None:
    assert 1.0 < sum(cluster_api._CONFLICT_PAUSES_S) < 10.0


def add_pod(server: ApiServer, name: str, phase: str, **status: str) -> None:
    containers = [{"name": "reader", "image": "x"}]
    server.store.add("pods", {"metadata": {"name": name}, "spec": {"containers": containers}}, "bench")
    server.store.update("pods", name, "bench", lambda one: one.update(status={"phase": phase, **status}))


def test_a_pod_that_is_gone_is_not_a_file_that_it_does_not_have(server: ApiServer, api: Api, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "there").write_bytes(b"it is")
    server.proxied["*"] = tmp_path / "files"
    add_pod(server, "reader", "Running", podIP="10.244.0.7")
    add_pod(server, "early", "Pending")
    add_pod(server, "late", "Succeeded", podIP="10.244.0.8")

    assert api.read_from_pod("reader", 8080, "there") == b"it is"
    assert api.read_from_pod("reader", 8080, "not-there") is None
    with pytest.raises(PodGone, match="the pod other is not there any more"):
        api.read_from_pod("other", 8080, "there")
    for pod in ("early", "late"):
        with pytest.raises(EngineAway) as away:
            api.read_from_pod(pod, 8080, "there")
        assert not isinstance(away.value, PodGone)


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (401, LaunchImpossible, "does not know you"),
        (422, LaunchImpossible, "the cluster refuses a manifest: so the test wants it"),
        (429, EngineAway, "cannot answer now"),
        (500, EngineAway, "cannot answer now"),
        (418, LaunchFailed, "answers 418"),
    ],
)
def test_other_answers_are_told_by_whether_another_try_helps(
    server: ApiServer, api: Api, code: int, error: type[LaunchFailed], says: str
) -> None:
    server.answer(code, "create", "configmaps")
    began_s = time.monotonic()
    with pytest.raises(error, match=says):
        api.create(INPUTS)
    assert time.monotonic() - began_s < 5.0
