"""Statuses and events as real clusters write them, and what is told of each."""

from __future__ import annotations

import re
from typing import Any

import pytest

from images.contract.job import ExitCode
from runner.cluster.observed import (
    JobEnd,
    failure_without_a_word,
    mount_trouble,
    quota_trouble,
    suspension_trouble,
    trouble_of,
)
from tests.runner.cluster.object_store import Object

GONE: Object = {"deletionTimestamp": "2025-03-01T10:05:00Z"}
RUNNING: Object = {"initContainerStatuses": [{"name": "task-0", "state": {"running": {}}}]}
CREATING: Object = {"containerStatuses": [{"name": "task-0", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
PRESSURE = (
    "The node was low on resource: {}. Threshold quantity: 46993491787, available: 45494108Ki. Container task-0 was "
    "using 21Gi, request is 10Gi, has larger consumption of {}. "
)
OVER_LIMIT = "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. "
AGAIN = "Its Job tries again; it is no failure."
GPU = "Wait for a free GPU, or ask for less: kubernetes.{gpu_resource, cpu, memory, node_selector}."


def pod(phase: str = "Pending", *, node: str | None = "gpu-7", own: Object | None = None, **status: Any) -> Object:
    return {
        "metadata": {"name": "study-x", "uid": "u-1", "creationTimestamp": "2025-03-01T10:00:00Z", **(own or {})},
        "spec": {"containers": [{"name": "task-0"}], **({} if node is None else {"nodeName": node})},
        "status": {"phase": phase, **status},
    }


def disrupted(reason: str, message: str, status: str = "True") -> Object:
    return {
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastProbeTime": None},
            {"type": "DisruptionTarget", "status": status, "reason": reason, "message": message},
        ]
    }


TAINTED = disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")


@pytest.mark.parametrize("phase", ["Running", "Pending", "Unknown"])
def test_a_node_that_does_not_answer_is_told_in_every_phase(phase: str) -> None:
    trouble = trouble_of(pod(phase, own=GONE, **TAINTED, **RUNNING))
    assert str(trouble) == (
        "pod study-x: its node gpu-7 does not answer. "
        "Its Job goes on when the node is back, or `kubectl delete node gpu-7` has removed it."
    )
    assert trouble is not None
    assert not trouble.fatal


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (
            disrupted("DeletionByPodGC", "PodGC: node no longer exists"),
            "pod study-x: its node went away (PodGC: node no longer exists). Its Job tries again on another one.",
        ),
        (
            TAINTED,
            "pod study-x: its node went away (Taint manager: deleting due to NoExecute taint). "
            "Its Job tries again on another one.",
        ),
        (
            disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
            "pod study-x was preempted by a more important pod (default-scheduler: preempting to accommodate a higher "
            f"priority pod). {AGAIN} kubernetes.priority_class makes it more important.",
        ),
        (
            disrupted("EvictionByEvictionAPI", "Eviction API: evicting"),
            f"pod study-x was evicted, as when a node is drained (Eviction API: evicting). {AGAIN}",
        ),
        (
            disrupted("TerminationByKubelet", PRESSURE.format("ephemeral-storage", "ephemeral-storage"))
            | {"reason": "Evicted", "message": PRESSURE.format("ephemeral-storage", "ephemeral-storage")},
            "pod study-x was evicted by its node (The node was low on resource: ephemeral-storage. Threshold quantity: "
            "46993491787, available: 45494108Ki. Container task-0 was using 21Gi, request is 10Gi, has larger "
            f"consumption of ephemeral-storage). {AGAIN} Raise kubernetes.ephemeral_storage, so that its node has it "
            "to spare.",
        ),
        (
            disrupted("TerminationByKubelet", PRESSURE.format("memory", "memory"))
            | {"reason": "Evicted", "message": PRESSURE.format("memory", "memory")},
            f"has larger consumption of memory). {AGAIN} Raise kubernetes.memory, so that its node has it to spare.",
        ),
        (
            disrupted("TerminationByKubelet", "The node was low on resource: pids. ")
            | {"reason": "Evicted", "message": "The node was low on resource: pids. "},
            f"pod study-x was evicted by its node (The node was low on resource: pids). {AGAIN}",
        ),
        (
            {"reason": "Evicted", "message": OVER_LIMIT},
            "pod study-x used more storage than it may (Pod ephemeral local storage usage exceeds the total limit of "
            "containers 10Gi). Raise kubernetes.ephemeral_storage.",
        ),
        (
            {"reason": "Evicted", "message": 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". '},
            'pod study-x used more storage than it may (Usage of EmptyDir volume "shm" exceeds the limit "1Gi"). '
            "Raise kubernetes.shared_memory.",
        ),
        (
            disrupted("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.")
            | {"reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."},
            f"pod study-x was ended by its node (Pod was terminated in response to imminent node shutdown). {AGAIN}",
        ),
        (
            disrupted("DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint"),
            f"pod study-x was evicted (Device Taint manager: deleting due to NoExecute taint). {AGAIN}",
        ),
        (
            {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"},
            "pod study-x took longer than its deadline. Raise timeouts.job_s, or look at the end of its log in "
            "failure.json.",
        ),
    ],
)
def test_what_ended_a_pod_from_outside_is_told_by_its_cause(status: Object, says: str) -> None:
    told = str(trouble_of(pod("Failed", **status)))
    assert told.endswith(says)
    assert "pod study-x" in told


@pytest.mark.parametrize(
    "quiet",
    [
        pod("Succeeded", own=GONE, **disrupted("EvictionByEvictionAPI", "Eviction API: evicting")),
        pod("Running", **disrupted("PreemptionByScheduler", "default-scheduler: preempting")),
        pod("Failed", **disrupted("PreemptionByScheduler", "default-scheduler: preempting", status="False")),
        pod("Running", own=GONE, **RUNNING),
        pod("Failed", **RUNNING),
        pod("Pending", node=None),
    ],
    ids=["ended well", "not deleted", "not so after all", "somebody deleted it", "failed by itself", "new"],
)
def test_of_a_pod_that_nothing_from_outside_has_ended_nothing_is_told(quiet: Object) -> None:
    assert trouble_of(quiet) is None


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", GPU),
        (
            "0/6 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
            "5 Insufficient cpu, 5 Insufficient nvidia.com/gpu. preemption: 0/6 nodes are available: 1 Preemption is "
            "not helpful for scheduling, 5 No preemption victims found for incoming pod.",
            GPU,
        ),
        (
            "0/4 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}, 3 Insufficient "
            "nvidia.com/gpu. preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.",
            f"{GPU} Where the nodes with taints are meant for it: kubernetes.tolerations.",
        ),
        (
            "0/2 nodes are available: 2 node(s) had untolerated taint(s).",
            "Where the nodes with taints are meant for it: kubernetes.tolerations.",
        ),
        (
            "0/3 nodes are available: 1 Insufficient memory, 3 Insufficient cpu. preemption: 0/3 nodes are available.",
            "Wait for room, or ask for less: kubernetes.memory, kubernetes.cpu.",
        ),
        (
            "0/1 nodes are available: 1 Insufficient ephemeral-storage.",
            "Wait for room, or ask for less: kubernetes.ephemeral_storage.",
        ),
        (
            '0/3 nodes are available: persistentvolumeclaim "results" not found. preemption: 0/3 nodes are available: '
            "3 Preemption is not helpful for scheduling.",
            "Make the claim, or correct kubernetes.results / kubernetes.models_claim.",
        ),
        (
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 nodes are "
            "available: 3 Preemption is not helpful for scheduling.",
            "Its claim has no volume yet: kubectl describe pvc says what its storage lacks.",
        ),
        (
            "0/2 nodes are available: 2 node(s) had volume node affinity conflict.",
            "The volume of its claim is for other nodes: take a claim that every node can mount, or correct "
            "kubernetes.node_selector.",
        ),
        (
            "0/5 nodes are available: 5 node(s) didn't match Pod's node affinity/selector.",
            "Correct kubernetes.node_selector, unless other nodes are to come; nodes that share their GPUs do not fit.",
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
            "launcher.exclusive keeps it from nodes where another job runs: wait for that.",
        ),
        (
            "0/1 nodes are available: 1 node(s) were unschedulable.",
            "Wait for a node, or correct kubernetes.{node_selector, tolerations}.",
        ),
    ],
)
def test_a_pod_that_no_node_takes_is_told_what_would_help(said: str, advice: str) -> None:
    waiting = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    trouble = trouble_of(pod(node=None, conditions=[waiting]))
    assert trouble is not None
    assert trouble.message == f"pod study-x waits for a node ({said.rstrip('.')})."
    assert (trouble.advice, trouble.fatal) == (advice, False)


def event(reason: str, message: str = "", at: str | None = "2025-03-01T10:01:00Z", **more: Any) -> Object:
    """As kubelet and controllers write them with client-go's old recorder."""
    times = {"firstTimestamp": at, "lastTimestamp": at, "eventTime": None}
    about = {"kind": "Pod", "name": "study-x", "uid": "u-1"}
    return {"metadata": {"name": "e"}, "involvedObject": about, "reason": reason, "message": message, **times, **more}


NO_MAP = 'MountVolume.SetUp failed for volume "inputs" : configmap "study-in" not found'
TWICE = 'Multi-Attach error for volume "pvc-8f21" Volume is already exclusively attached to one node'
SLOW = 'MountVolume.SetUp failed for volume "pvc-8f21" : rpc error: code = DeadlineExceeded desc = timed out'
NO_NET = 'Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox "ab": eof'
LATER = "2025-03-01T10:02:00Z"


@pytest.mark.parametrize(
    ("events", "says"),
    [
        (
            [event("Scheduled"), event("FailedMount", NO_MAP)],
            f"pod study-x waits for its volumes ({NO_MAP}). Make what is missing; the study's ConfigMap comes back "
            "with `runner stop` and running again.",
        ),
        (
            [event("FailedAttachVolume", TWICE)],
            f"pod study-x waits for its volumes ({TWICE}). One node at a time has its claim: take a ReadWriteMany "
            "claim, or one node (kubernetes.node_selector).",
        ),
        (
            [event("FailedMount", SLOW)],
            f"pod study-x waits for its volumes ({SLOW}). Look at its claim and its storage: kubectl describe pod "
            "study-x.",
        ),
        (
            [event("FailedCreatePodSandBox", NO_NET)],
            f"pod study-x cannot begin on its node gpu-7 ({NO_NET}). Ask who runs the cluster to look at that node; "
            "its network or container runtime refuses.",
        ),
        ([event("FailedMount", NO_MAP, LATER), event("FailedMount", SLOW)], "comes back with `runner stop`"),
        ([event("Pulling", at=LATER), event("FailedMount", NO_MAP)], None),
        ([event("FailedAttachVolume", TWICE), event("SuccessfulAttachVolume")], None),
        ([event("FailedMount", NO_MAP, involvedObject={"kind": "Pod", "name": "study-x", "uid": "u-0"})], None),
        ([event("FailedMount", NO_MAP, involvedObject={"kind": "Job", "name": "study-x", "uid": "u-1"})], None),
        ([event("FailedMount", NO_MAP, involvedObject={"name": "study-x"})], "configmap"),
        ([event("Scheduled")], None),
        ([], None),
    ],
)
def test_a_pod_that_waits_for_volumes_is_told_by_its_events(events: list[Object], says: str | None) -> None:
    trouble = mount_trouble(pod(**CREATING), events)
    assert trouble is None if says is None else says in str(trouble)
    assert trouble is None or not trouble.fatal


@pytest.mark.parametrize("other", [pod(**RUNNING), pod("Failed"), pod(node=None), pod(own=GONE, **CREATING)])
def test_a_pod_that_runs_is_over_or_has_no_node_waits_for_no_volume(other: Object) -> None:
    assert mount_trouble(other, [event("FailedMount", NO_MAP)]) is None


QUOTA = 'Error creating: pods "study-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
RACE = (
    'Error creating: Operation cannot be fulfilled on resourcequotas "gpus": the object has been modified; please '
    "apply your changes to the latest version and try again"
)
UNSAID = 'Error creating: pods "study-x" is forbidden: failed quota: all: must specify limits.cpu for: task-0'
MADE = "2025-03-01T10:01:30Z"


@pytest.mark.parametrize(
    ("events", "newer_than", "code"),
    [
        ([event("FailedCreate", QUOTA)], None, "quota"),
        ([event("FailedCreate", QUOTA)], MADE, None),
        ([event("FailedCreate", QUOTA, LATER)], MADE, "quota"),
        ([event("FailedCreate", QUOTA, None, eventTime="2025-03-01T10:01:30.500000Z")], MADE, "quota"),
        ([event("FailedCreate", QUOTA, None, eventTime="2025-03-01T10:00:00.000000Z")], MADE, None),
        (
            [
                event(
                    "FailedCreate",
                    QUOTA,
                    None,
                    eventTime="2025-03-01T10:00:00.000000Z",
                    series={"count": 9, "lastObservedTime": "2025-03-01T10:02:00.000000Z"},
                )
            ],
            MADE,
            "quota",
        ),
        ([event("FailedCreate", QUOTA, None, series=None)], None, None),
        ([event("FailedCreate", UNSAID)], None, "refused"),
        ([event("FailedCreate", RACE)], None, None),
        ([event("FailedCreate", QUOTA, LATER), event("FailedCreate", UNSAID)], None, "quota"),
        ([event("FailedCreate", QUOTA), event("SuccessfulCreate", "Created pod: study-y", LATER)], None, None),
    ],
)
def test_only_what_is_said_since_its_last_pod_keeps_a_job_from_the_next(
    events: list[Object], newer_than: str | None, code: str | None
) -> None:
    trouble = quota_trouble("study", events, newer_than)
    assert (trouble and trouble.code) == code
    assert trouble is None or trouble.fatal == (code == "refused")


def suspended(suspend: bool = True, queue: str | None = "gpus", **status: Any) -> Object:
    labels = {} if queue is None else {"kueue.x-k8s.io/queue-name": queue}
    own = {"name": "study", "labels": labels, "creationTimestamp": "2025-03-01T10:00:00Z"}
    return {"metadata": own, "spec": {"suspend": suspend}, "status": status}


def test_a_job_that_nobody_resumes_says_what_it_waits_for() -> None:
    held = {"type": "Suspended", "status": "True", "lastTransitionTime": "2025-03-01T10:00:05Z"}
    assert str(suspension_trouble(suspended(conditions=[held]))) == (
        "job study waits in queue gpus (suspended since 2025-03-01T10:00:05Z). Wait for room, or check that Kueue and "
        "the LocalQueue gpus are there: kubectl get localqueue."
    )
    assert "suspended since 2025-03-01T10:00:00Z" in str(suspension_trouble(suspended()))
    by_hand = str(suspension_trouble(suspended(queue=None)))
    assert re.search(r"is suspended since .*kubectl patch job study -p '\{\"spec\":\{\"suspend\":false\}\}'", by_hand)
    assert suspension_trouble(suspended(suspend=False)) is None
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    assert suspension_trouble(suspended(conditions=[failed])) is None


def test_a_cycle_whose_pod_was_ended_from_outside_fails_with_that_cause() -> None:
    over = pod("Failed", reason="Evicted", message=OVER_LIMIT)
    error, code, message, advice = failure_without_a_word(None, over, JobEnd(True, "BackoffLimitExceeded"))
    assert (error, code) == ("storage_limit", int(ExitCode.LAUNCHER))
    assert "exceeds the total limit" in message
    assert advice == "Raise kubernetes.ephemeral_storage."
