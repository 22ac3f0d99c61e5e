"""What a cluster answers over HTTP, and what is made of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from runner.cluster import api as cluster_api
from runner.cluster.api import Api, AtQuota, NoTrial, PodGone, quantity
from runner.cluster.render import RULES
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


@pytest.mark.parametrize(("written", "namespace"), [("team-a\n", "team-a"), ("", "default"), (None, "default")])
def test_inside_of_a_cluster_the_namespace_is_the_service_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, namespace: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv(incluster_config.SERVICE_HOST_ENV_NAME, "10.96.0.1")
    monkeypatch.setenv(incluster_config.SERVICE_PORT_ENV_NAME, "443")
    for constant, name in (("SERVICE_TOKEN_FILENAME", "token"), ("SERVICE_CERT_FILENAME", "ca.crt")):
        (tmp_path / name).write_text("x")
        monkeypatch.setattr(incluster_config, constant, str(tmp_path / name))
    if written is not None:
        (tmp_path / "namespace").write_text(written)
    api = Api(None)
    assert (api.server, api.namespace) == ("https://10.96.0.1:443", namespace)
    assert Api("bench").namespace == "bench", "what a study says is first"


def test_what_is_only_tried_is_not_made(server: ApiServer, api: Api) -> None:
    pod: Object = {"kind": "Pod", "metadata": {"generateName": "x-"}, "spec": {"containers": []}}
    assert api.tried(pod)["metadata"]["name"].startswith("x-")
    assert server.objects("pods") == []
    api.create(INPUTS)
    assert api.tried(INPUTS) == INPUTS, "one that is there was taken"
    server.answer(403, "create", "pods", message='pods "x" is forbidden: exceeded quota: all, requested: pods=1')
    with pytest.raises(AtQuota):
        api.tried(pod)
    server.answer(400, "create", "pods", message='admission webhook "w.example" does not support dry run')
    with pytest.raises(NoTrial):
        api.tried(pod)


def test_one_object_is_looked_at_by_name_and_a_queue_where_there_are_queues(server: ApiServer, api: Api) -> None:
    for name in ("one", "two"):
        server.store.add("secrets", {"metadata": {"name": name}}, "bench")
    assert [one["metadata"]["name"] for one in api.look("secrets", "two") or ()] == ["two"]
    assert api.look("secrets", "three") == []
    assert api.look("localqueues", "gpus") == [], "nobody has installed Kueue"
    for version in ("v1beta1", "v1beta2"):
        server.groups["kueue.x-k8s.io"] = version
        assert api.look("localqueues", "gpus") == []
    server.store.add("localqueues", {"metadata": {"name": "gpus"}}, "bench")
    assert len(api.look("localqueues", "gpus") or ()) == 1
    server.denied |= {("list", "secrets"), ("list", "localqueues")}
    assert (api.look("secrets", "one"), api.look("localqueues", "gpus")) == (None, None)


def test_whoever_has_a_role_may_do_what_its_rules_say_and_nothing_else(server: ApiServer, api: Api) -> None:
    server.allow_only([("", ["pods"], ["get"]), ("", ["pods/log"], ["get"]), ("batch", ["jobs"], ["list", "watch"])])
    assert api.get("Pod", "x") is None
    assert api.find("Job", "")[0] == []
    assert list(api.changes("Job", "", "1000", 1)) == []
    for ask, what in (
        (lambda: api.create(INPUTS), "create configmaps"),
        (lambda: api.get("Job", "x"), "get jobs"),
        (lambda: api.find("Pod", ""), "list pods"),
        (lambda: list(api.changes("Pod", "", "1000", 1)), "watch pods"),
        (lambda: api.read_from_pod("x", 80, "y"), "get pods/proxy"),
        (lambda: api.delete("Pod", "x", "uid"), "delete pods"),
    ):
        with pytest.raises(LaunchImpossible, match=f"you may not {what} in the namespace bench"):
            ask()
    assert api.look("nodes") is None
    asked = [("get", "", "pods"), ("get", "", "pods/log"), ("get", "", "pods/proxy"), ("list", "", "jobs")]
    assert [api.may(*one) for one in asked] == [True, True, False, False]
    server.allow_only(RULES)
    assert all(api.may(verb, group, name) for group, names, verbs in RULES for name in names for verb in verbs)


def test_amounts_are_what_kubernetes_means_by_them() -> None:
    amounts = {
        "500m": "0.5",
        "4": "4",
        "1Gi": "1073741824",
        "1G": "1000000000",
        "2e3": "2000",
        "128974848000m": "128974848",
    }
    for written, meant in amounts.items():
        assert quantity(written) == Decimal(meant)
    with pytest.raises(ValueError, match="8 GB"):
        quantity("8 GB")
