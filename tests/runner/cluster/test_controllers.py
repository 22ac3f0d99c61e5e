"""Jobs and pods of these tests go as they do in a real cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.controllers import Controllers, indexes
from tests.runner.cluster.kubelet import ContainerEnd, Fate, PodEnd, fails, succeeds
from tests.runner.cluster.object_store import Object
from tests.runner.cluster.sample_jobs import (
    IGNORE_DISRUPTION,
    SPACE,
    conditions,
    connection,
    index_of,
    indexed,
    job,
    rule,
)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with running_api_server() as running:
        yield running


@pytest.fixture
def batch(api: ApiServer, tmp_path: Path) -> Any:
    return client.BatchV1Api(connection(api, tmp_path))


def test_an_index_that_never_gets_better_is_given_up_and_the_others_go_on(api: ApiServer, batch: Any) -> None:
    tries: list[int] = []

    def run(pod: Object) -> PodEnd:
        index = index_of(pod)
        tries.append(index)
        if index == 1:
            return fails(pod, 10, "no such model")
        return fails(pod, 1) if index == 2 or (index == 4 and tries.count(4) == 1) else succeeds(pod)

    policy = {"rules": [IGNORE_DISRUPTION, rule("FailIndex", 10, 12)]}
    batch.create_namespaced_job(SPACE, indexed(5, backoffLimitPerIndex=1, podFailurePolicy=policy))
    Controllers(api, run).settle()
    assert {index: tries.count(index) for index in range(5)} == {0: 1, 1: 1, 2: 2, 3: 1, 4: 2}
    status = batch.read_namespaced_job("study", SPACE).status
    assert (status.completed_indexes, status.failed_indexes) == ("0,3-4", "1-2")
    assert (status.active, status.succeeded, status.failed) == (None, 3, 4)
    assert conditions(api.objects("jobs")[0]) == {"FailureTarget": "FailedIndexes", "Failed": "FailedIndexes"}
    (pod,) = [one for one in api.objects("pods") if index_of(one) == 1]
    (container,) = pod["status"]["containerStatuses"]
    ended = container["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (10, "Error", "no such model")
    assert pod["metadata"]["name"].startswith("study-1-")
    assert pod["metadata"]["labels"]["of"] == "us"


def test_a_block_goes_on_after_a_task_that_failed_but_ended_well(api: ApiServer, batch: Any) -> None:
    seen: list[tuple[str, list[str]]] = []
    ends = (ContainerEnd(0, "failed: out of memory"), ContainerEnd(), ContainerEnd(0, "done", log=["a", "b"]))
    batch.create_namespaced_job(SPACE, job(init=2, backoffLimit=0))
    controllers = Controllers(api, lambda pod: PodEnd(ends))
    while controllers.step():
        for pod in api.objects("pods"):
            status = pod["status"]
            both = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
            seen.append((status["phase"], [next(iter(one["state"])) for one in both]))
    w, r, t = "waiting", "running", "terminated"
    assert [one for number, one in enumerate(seen) if one not in seen[:number]] == [
        ("Pending", []),
        ("Pending", [w, w, w]),
        ("Pending", [r, w, w]),
        ("Pending", [t, r, w]),
        ("Running", [t, t, r]),
        ("Succeeded", [t, t, t]),
    ]
    (pod,) = api.objects("pods")
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"] == "failed: out of memory"
    complete = {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert conditions(api.objects("jobs")[0]) == complete


def test_an_init_container_that_fails_ends_the_pod(api: ApiServer, batch: Any) -> None:
    batch.create_namespaced_job(SPACE, job(init=1, backoffLimit=1))
    Controllers(api, lambda pod: PodEnd((ContainerEnd(1, reason="OOMKilled"), ContainerEnd()))).settle()
    pods = api.objects("pods")
    assert [pod["status"]["phase"] for pod in pods] == ["Failed", "Failed"]
    assert "waiting" in pods[0]["status"]["containerStatuses"][0]["state"]
    (made,) = api.objects("jobs")
    assert conditions(made)["Failed"] == "BackoffLimitExceeded"
    assert made["status"]["failed"] == 2


@pytest.mark.parametrize(
    ("fate", "word"),
    [
        ("evicted", ("EvictionByEvictionAPI", "")),
        ("preempted", ("PreemptionByScheduler", "")),
        ("node pressure", ("TerminationByKubelet", "Evicted")),
        ("node lost", ("DeletionByPodGC", "")),
    ],
)
def test_a_disruption_that_is_ignored_counts_for_nothing(
    api: ApiServer, batch: Any, fate: Fate, word: tuple[str, str]
) -> None:
    pods: list[str] = []
    phases: list[tuple[str, str]] = []

    def run(pod: Object) -> PodEnd:
        pods.append(pod["metadata"]["name"])
        return PodEnd(fate=fate) if len(pods) < 3 else succeeds(pod)

    batch.create_namespaced_job(SPACE, job(backoffLimit=0, podFailurePolicy={"rules": [IGNORE_DISRUPTION]}))
    version = api.store.version
    Controllers(api, run).settle()
    for change in api.store.changes_after(version, 0):
        one = change.after or {}
        if change.plural == "pods" and one.get("status", {}).get("phase") == "Failed":
            phases.append((conditions(one)["DisruptionTarget"], one["status"].get("reason", "")))
    assert phases == [word, word]
    (made,) = api.objects("jobs")
    assert "Complete" in conditions(made)
    assert "failed" not in made["status"]
    there = [pod["metadata"]["name"] for pod in api.objects("pods")]
    assert there == sorted(pods) if fate == "node pressure" else there == pods[2:], "what was deleted is gone"


@pytest.mark.parametrize("replaced_at_once", [True, False])
def test_a_pod_whose_node_does_not_answer_stays_as_it_was_until_the_node_is_removed(
    api: ApiServer, batch: Any, replaced_at_once: bool
) -> None:
    ends = [PodEnd((ContainerEnd(),), fate="node lost", steps_away=5)]
    policy: Object = {} if replaced_at_once else {"podReplacementPolicy": "Failed"}
    batch.create_namespaced_job(SPACE, job(init=1, backoffLimit=3, **policy))
    controllers = Controllers(api, lambda pod: ends.pop() if ends else PodEnd())
    seen: list[tuple[str, str, int, int]] = []
    while controllers.step():
        (status,) = [one["status"] for one in api.objects("jobs")]
        for pod in api.objects("pods"):
            if "deletionTimestamp" in pod["metadata"]:
                why = conditions(pod)["DisruptionTarget"]
                seen.append((pod["status"]["phase"], why, status.get("active", 0), status["terminating"]))
    silent = ("Running", "DeletionByTaintManager", int(replaced_at_once), 1)
    assert seen == [silent] * 5
    assert api.objects("jobs")[0]["status"]["failed"] == 1
    assert len(api.objects("pods")) == 1, "another one has its place"


def test_a_job_that_has_failed_waits_for_its_pods_to_be_over(api: ApiServer, batch: Any) -> None:
    def run(pod: Object) -> PodEnd:
        return fails(pod, 2) if index_of(pod) == 1 else PodEnd(fate="node lost", steps_away=10)

    policy = {"rules": [IGNORE_DISRUPTION, rule("FailJob", 2)]}
    batch.create_namespaced_job(SPACE, indexed(2, backoffLimitPerIndex=5, podFailurePolicy=policy))
    controllers = Controllers(api, run)
    for _ in range(8):
        controllers.step()
    assert conditions(api.objects("jobs")[0]) == {"FailureTarget": "PodFailurePolicy"}
    controllers.settle()
    assert conditions(api.objects("jobs")[0])["Failed"] == "PodFailurePolicy"


@pytest.mark.parametrize(
    ("n_init", "long", "kept"),
    [
        (0, "a" * 5000 + "z", "a" * 4095 + "z"),
        (3, "b" * 3000 + "a" * 3000, "b" * 1096 + "a" * 1976),
        (1, "short", "short"),
    ],
    ids=["the end of the file", "a part of what a pod may say", "all of it"],
)
def test_of_a_termination_message_no_more_is_kept_than_a_kubelet_keeps(
    api: ApiServer, batch: Any, n_init: int, long: str, kept: str
) -> None:
    batch.create_namespaced_job(SPACE, job(init=n_init))
    Controllers(api, lambda pod: succeeds(pod, long)).settle()
    (pod,) = api.objects("pods")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == kept


def test_a_rule_can_end_the_whole_job(api: ApiServer, batch: Any) -> None:
    policy = {"rules": [IGNORE_DISRUPTION, rule("FailJob", 2)]}
    batch.create_namespaced_job(SPACE, indexed(3, backoffLimitPerIndex=5, podFailurePolicy=policy))
    Controllers(api, lambda pod: fails(pod, 2) if index_of(pod) == 1 else PodEnd()).settle()
    (made,) = api.objects("jobs")
    (failed,) = [one for one in made["status"]["conditions"] if one["type"] == "Failed"]
    (pod,) = api.objects("pods")
    name = pod["metadata"]["name"]
    assert failed["reason"] == "PodFailurePolicy"
    assert failed["message"] == (
        f"Container task-0 for pod bench/{name} failed with exit code 2 matching FailJob rule at index 1"
    )


@pytest.mark.parametrize("fate", ["image pull", "mount", "unschedulable", "quota"])
def test_a_pod_that_cannot_start_says_why_and_starts_when_it_can(api: ApiServer, batch: Any, fate: Fate) -> None:
    batch.create_namespaced_job(SPACE, job())
    controllers = Controllers(api, lambda pod: PodEnd(fate=fate))
    controllers.settle()
    pods = api.objects("pods")
    if fate == "quota":
        core = client.CoreV1Api(batch.api_client)
        (event,) = core.list_namespaced_event(SPACE, field_selector="involvedObject.name=study").items
        assert not pods
        assert (event.reason, event.type) == ("FailedCreate", "Warning")
        assert "exceeded quota" in event.message
    else:
        (pod,) = pods
        assert pod["status"]["phase"] == "Pending"
        assert api.objects("jobs")[0]["status"]["active"] == 1
    if fate == "image pull":
        waiting = pods[0]["status"]["containerStatuses"][0]["state"]["waiting"]
        assert waiting == {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "image-0"'}
    elif fate == "mount":
        assert pods[0]["status"]["containerStatuses"][0]["state"]["waiting"] == {"reason": "ContainerCreating"}
        (event,) = [one for one in api.objects("events") if one["reason"] == "FailedMount"]
        assert event["involvedObject"]["uid"] == pods[0]["metadata"]["uid"]
    elif fate == "unschedulable":
        (scheduled,) = pods[0]["status"]["conditions"]
        assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
        assert scheduled["message"] == "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    controllers.run = succeeds
    controllers.settle()
    assert "Complete" in conditions(api.objects("jobs")[0])


def test_a_suspended_job_has_no_pods(api: ApiServer, batch: Any) -> None:
    controllers = Controllers(api, lambda pod: PodEnd())
    batch.create_namespaced_job(SPACE, job(completions=3, parallelism=2, suspend=True))
    controllers.settle()
    assert not api.objects("pods")
    assert conditions(api.objects("jobs")[0]) == {"Suspended": "JobSuspended"}
    batch.patch_namespaced_job("study", SPACE, {"spec": {"suspend": False}})
    controllers.settle()
    assert len(api.objects("pods")) == 2
    assert conditions(api.objects("jobs")[0]) == {}
    batch.patch_namespaced_job("study", SPACE, {"spec": {"suspend": True}})
    controllers.settle()
    assert not api.objects("pods")
    controllers.run = succeeds
    batch.patch_namespaced_job("study", SPACE, {"spec": {"suspend": False}})
    with controllers.running():
        wait_for(lambda: "Complete" in conditions(api.objects("jobs")[0]))
    assert api.objects("jobs")[0]["status"]["succeeded"] == 3


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([0], "0"), ([3, 0, 2], "0,2-3"), ([1, 2, 3, 5], "1-3,5")])
def test_indexes_are_written_as_a_job_has_them(numbers: list[int], text: str) -> None:
    assert indexes(numbers) == text


def wait_for(happened: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
