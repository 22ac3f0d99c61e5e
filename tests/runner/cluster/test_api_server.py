"""The API server of these tests answers the official client as a real one would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes import client, watch

from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.controllers import Controllers
from tests.runner.cluster.kubelet import ContainerEnd, PodEnd
from tests.runner.cluster.object_store import Object
from tests.runner.cluster.sample_jobs import SPACE, connection, job


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with running_api_server() as running:
        yield running


@pytest.fixture
def core(api: ApiServer, tmp_path: Path) -> Any:
    return client.CoreV1Api(connection(api, tmp_path))


@pytest.fixture
def batch(api: ApiServer, tmp_path: Path) -> Any:
    return client.BatchV1Api(connection(api, tmp_path))


def config_map(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}, "data": {"a": "1", "b": "2"}}


def refusal(error: pytest.ExceptionInfo[Any]) -> tuple[int, str, str]:
    body = json.loads(error.value.body)
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", error.value.status)
    return error.value.status, body["reason"], body["message"]


def test_what_is_created_is_there_once(api: ApiServer, core: Any) -> None:
    made = core.create_namespaced_config_map(SPACE, config_map("one"))
    assert made.metadata.uid
    assert made.metadata.namespace == SPACE
    read = core.read_namespaced_config_map("one", SPACE)
    assert (read.metadata.uid, read.metadata.resource_version) == (made.metadata.uid, made.metadata.resource_version)
    with pytest.raises(client.ApiException) as twice:
        core.create_namespaced_config_map(SPACE, config_map("one"))
    assert refusal(twice) == (409, "AlreadyExists", 'configmaps "one" already exists')
    with pytest.raises(client.ApiException) as unknown:
        core.read_namespaced_config_map("two", SPACE)
    assert refusal(unknown) == (404, "NotFound", 'configmaps "two" not found')
    with pytest.raises(client.ApiException) as nowhere:
        core.create_namespaced_config_map("elsewhere", config_map("one"))
    assert refusal(nowhere) == (404, "NotFound", 'namespaces "elsewhere" not found')
    assert core.list_namespaced_config_map("elsewhere").items == [], "a list asks for no namespace"
    core.create_namespaced_config_map(SPACE, config_map("three"), dry_run="All")
    assert [one["metadata"]["name"] for one in api.objects("configmaps")] == ["one"]
    assert api.requests[:2] == [("create", "configmaps", "one"), ("get", "configmaps", "one")]


def test_who_may_not_is_told_so_and_can_ask_before(api: ApiServer, batch: Any) -> None:
    api.denied |= {("create", "jobs"), ("get", "pods/log")}
    with pytest.raises(client.ApiException) as error:
        batch.create_namespaced_job(SPACE, job())
    code, reason, message = refusal(error)
    assert (code, reason) == (403, "Forbidden")
    assert 'cannot create resource "jobs" in API group "batch" in the namespace "bench"' in message
    reviews = client.AuthorizationV1Api(batch.api_client)
    for asked, allowed in (
        ({"verb": "create", "resource": "jobs", "group": "batch"}, False),
        ({"verb": "get", "resource": "pods", "subresource": "log"}, False),
        ({"verb": "get", "resource": "pods"}, True),
    ):
        review = reviews.create_self_subject_access_review({"spec": {"resourceAttributes": asked}})
        assert review.status.allowed is allowed


def test_a_request_without_the_token_is_nobodys(tmp_path: Path) -> None:
    with running_api_server(token="secret") as api:
        core = client.CoreV1Api(connection(api, tmp_path))
        assert core.read_namespace(SPACE).status.phase == "Active"
        assert client.VersionApi(core.api_client).get_code().git_version == api.git_version
        api.token = "another"
        with pytest.raises(client.ApiException) as error:
            core.list_namespaced_pod(SPACE)
        assert error.value.status == 401


def test_lists_are_selected(api: ApiServer, core: Any) -> None:
    for name, labels in (("one", {"a": "1"}), ("two", {"a": "1", "b": "2"}), ("three", {"a": "2"})):
        core.create_namespaced_config_map(SPACE, config_map(name, **labels))
    core.create_namespaced_config_map("default", config_map("far", a="1"))

    def names(**selectors: str) -> list[str]:
        found = core.list_namespaced_config_map(SPACE, **selectors)
        assert found.metadata.resource_version == str(api.store.version)
        return [one.metadata.name for one in found.items]

    assert names() == ["one", "three", "two"]
    assert names(label_selector="a=1") == ["one", "two"]
    assert names(label_selector="a=1,b=2") == ["two"]
    assert names(label_selector="a=1,b!=2") == ["one"]
    assert names(field_selector="metadata.name=three") == ["three"]
    with pytest.raises(client.ApiException):
        names(label_selector="a in (1)")
    for name in ("one", "two"):
        of = {"name": name, "kind": "Pod", "namespace": SPACE}
        core.create_namespaced_event(SPACE, {"metadata": {"generateName": "event-"}, "involvedObject": of})
    (event,) = core.list_namespaced_event(SPACE, field_selector="involvedObject.name=two").items
    assert event.involved_object.name == "two"
    api.store.add("nodes", {"metadata": {"name": "node-1"}})
    api.store.add("storageclasses", {"metadata": {"name": "fast"}, "provisioner": "disk"})
    assert [node.metadata.name for node in core.list_node().items] == ["node-1"]
    storage = client.StorageV1Api(core.api_client)
    assert [one.metadata.name for one in storage.list_storage_class().items] == ["fast"]


def test_a_patch_changes_what_it_names(api: ApiServer, core: Any, batch: Any) -> None:
    made = core.create_namespaced_config_map(SPACE, config_map("one"))
    core.patch_namespaced_config_map("one", SPACE, {"data": {"a": None, "c": "3"}})
    read = core.read_namespaced_config_map("one", SPACE)
    assert read.data == {"b": "2", "c": "3"}
    assert read.metadata.resource_version != made.metadata.resource_version
    stale = {"metadata": {"resourceVersion": made.metadata.resource_version}, "data": {"d": "4"}}
    with pytest.raises(client.ApiException) as error:
        core.patch_namespaced_config_map("one", SPACE, stale)
    assert refusal(error)[:2] == (409, "Conflict")
    batch.create_namespaced_job(SPACE, job(suspend=True))
    batch.patch_namespaced_job("study", SPACE, {"spec": {"suspend": False}, "status": {"active": 7}})
    assert api.objects("jobs")[0]["spec"]["suspend"] is False
    assert "active" not in api.objects("jobs")[0]["status"], "only who may write a status can"


@pytest.mark.parametrize("cleanly", [True, False])
def test_a_watch_that_is_dropped_goes_on_where_it_was(api: ApiServer, core: Any, cleanly: bool) -> None:
    api.drop_watches(2, cleanly=cleanly)
    before = core.list_namespaced_config_map(SPACE).metadata.resource_version
    for name in ("one", "two", "three"):
        core.create_namespaced_config_map(SPACE, config_map(name, a="1"))
    core.create_namespaced_config_map(SPACE, config_map("other"))
    core.patch_namespaced_config_map("one", SPACE, {"data": {"a": "9"}})
    core.delete_namespaced_config_map("two", SPACE)
    core.patch_namespaced_config_map("three", SPACE, {"metadata": {"labels": {"a": "2"}}})
    seen: list[tuple[str, str]] = []
    version = before
    while len(seen) < 6:
        try:
            for event in watch.Watch().stream(
                core.list_namespaced_config_map,
                SPACE,
                label_selector="a=1",
                resource_version=version,
                timeout_seconds=1,
            ):
                seen.append((event["type"], event["object"].metadata.name))
                version = event["object"].metadata.resource_version
        except urllib3.exceptions.ProtocolError:
            assert not cleanly
    assert seen == [
        *[("ADDED", name) for name in ("one", "two", "three")],
        ("MODIFIED", "one"),
        ("DELETED", "two"),
        ("DELETED", "three"),
    ]
    assert api.requests.count(("watch", "configmaps", "")) == 3


def test_a_watch_without_a_version_begins_with_what_there_is_and_ends_in_time(api: ApiServer, core: Any) -> None:
    core.create_namespaced_config_map(SPACE, config_map("one"))
    timer = threading.Timer(0.2, lambda: api.store.add("configmaps", config_map("two"), SPACE))
    timer.start()
    began = time.monotonic()
    events = list(watch.Watch().stream(core.list_namespaced_config_map, SPACE, timeout_seconds=1))
    assert [(one["type"], one["object"].metadata.name) for one in events] == [("ADDED", "one"), ("ADDED", "two")]
    assert 0.9 < time.monotonic() - began < 5


def test_a_watch_from_a_version_that_is_forgotten_is_gone(api: ApiServer, core: Any) -> None:
    version = core.list_namespaced_config_map(SPACE).metadata.resource_version
    api.expire_watches()
    with pytest.raises(client.ApiException) as error:
        list(watch.Watch().stream(core.list_namespaced_config_map, SPACE, resource_version=version, timeout_seconds=1))
    assert error.value.status == 410
    assert error.value.reason.startswith("Expired: too old resource version")
    fresh = core.list_namespaced_config_map(SPACE).metadata.resource_version
    assert not list(
        watch.Watch().stream(core.list_namespaced_config_map, SPACE, resource_version=fresh, timeout_seconds=1)
    )


def test_a_deletion_takes_dependents_along_where_it_is_told_to(api: ApiServer, batch: Any) -> None:
    controllers = Controllers(api, lambda pod: PodEnd())
    made = batch.create_namespaced_job(SPACE, job())
    controllers.settle()
    with pytest.raises(client.ApiException) as error:
        batch.delete_namespaced_job("study", SPACE, body={"preconditions": {"uid": "another"}})
    assert refusal(error)[:2] == (409, "Conflict")
    assert made.metadata.uid in refusal(error)[2]
    own = {"preconditions": {"uid": made.metadata.uid}}
    assert batch.delete_namespaced_job("study", SPACE, body=own).status == "Success"
    (orphan,) = api.objects("pods")
    assert orphan["metadata"]["ownerReferences"] == []
    again = batch.create_namespaced_job(SPACE, job())
    controllers.settle()
    assert len(api.objects("pods")) == 2
    body = client.V1DeleteOptions(
        propagation_policy="Background", preconditions=client.V1Preconditions(uid=again.metadata.uid)
    )
    batch.delete_namespaced_job("study", SPACE, body=body)
    assert api.objects("pods") == [orphan]
    assert api.objects("jobs") == []


def test_a_pods_output_and_its_files_are_read_through_the_api(
    api: ApiServer, core: Any, batch: Any, tmp_path: Path
) -> None:
    ends = [ContainerEnd(log=["one", "two", "three"])]
    controllers = Controllers(api, lambda pod: PodEnd(tuple(ends)))
    batch.create_namespaced_job(SPACE, job(init=1))
    controllers.step()
    controllers.step()
    name = api.objects("pods")[0]["metadata"]["name"]
    api.store.add("pods", {"metadata": {"name": "waits"}, "spec": {"containers": []}}, SPACE)
    with pytest.raises(client.ApiException) as nowhere:
        core.connect_get_namespaced_pod_proxy_with_path("waits:8080", SPACE, "file", _preload_content=False)
    assert refusal(nowhere) == (400, "BadRequest", "address not allowed")
    with pytest.raises(client.ApiException) as early:
        core.read_namespaced_pod_log(name, SPACE, container="task-1")
    assert refusal(early)[2] == f'container "task-1" in pod "{name}" is waiting to start: PodInitializing'
    controllers.settle()
    asked: dict[str, Any] = {"container": "task-0", "_preload_content": False}
    assert core.read_namespaced_pod_log(name, SPACE, tail_lines=2, **asked).data == b"two\nthree\n"
    assert core.read_namespaced_pod_log(name, SPACE, **asked).data == b"one\ntwo\nthree\n"
    with pytest.raises(client.ApiException) as unknown:
        core.read_namespaced_pod_log(name, SPACE, container="none")
    assert unknown.value.status == 400
    (tmp_path / "files" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "deep" / "a file").write_bytes(b"here")
    (tmp_path / "beside").write_bytes(b"secret")

    def read(path: str) -> Any:
        answer = core.connect_get_namespaced_pod_proxy_with_path(f"{name}:8080", SPACE, path, _preload_content=False)
        return answer.data

    with pytest.raises(client.ApiException) as nothing:
        read("deep/a file")
    assert nothing.value.status == 404
    api.proxied[f"{name}:8080"] = tmp_path / "files"
    assert read("deep/a file") == b"here"
    for path in ("deep/none", "../beside", "deep"):
        with pytest.raises(client.ApiException) as missing:
            read(path)
        assert missing.value.status == 404
    ends.append(ContainerEnd())
    controllers.settle()
    with pytest.raises(client.ApiException) as over:
        read("deep/a file")
    assert over.value.status == 503, "a pod that has ended serves nothing"


def test_faults_pass(api: ApiServer, core: Any) -> None:
    api.answer(500, "list", "pods", times=2)
    for _ in range(2):
        with pytest.raises(client.ApiException) as error:
            core.list_namespaced_pod(SPACE)
        assert refusal(error)[:2] == (500, "InternalError")
    assert core.list_namespaced_pod(SPACE).items == []
    api.answer(429, "create", "configmaps", retry_after_s=3)
    with pytest.raises(client.ApiException) as busy:
        core.create_namespaced_config_map(SPACE, config_map("one"))
    assert refusal(busy)[:2] == (429, "TooManyRequests")
    assert busy.value.headers["Retry-After"] == "3"
    with api.refusing(), pytest.raises(urllib3.exceptions.HTTPError, match="Connection refused"):
        core.list_namespaced_pod(SPACE)
    assert core.list_namespaced_pod(SPACE).items == []


def test_a_watch_that_is_cut_while_nothing_happens_ends(api: ApiServer, core: Any) -> None:
    version = core.list_namespaced_pod(SPACE).metadata.resource_version
    timer = threading.Timer(0.3, api.drop_connections)
    timer.start()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(watch.Watch().stream(core.list_namespaced_pod, SPACE, resource_version=version, timeout_seconds=60))
