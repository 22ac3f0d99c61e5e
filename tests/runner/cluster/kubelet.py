"""What becomes of a pod, and its status as a kubelet writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from tests.runner.cluster.object_store import Object, now

Fate = Literal[
    "evicted",
    "preempted",
    "node pressure",
    "node lost",
    "deadline",
    "image pull",
    "mount",
    "unschedulable",
    "quota",
]
"""``node lost``: the node does not answer for some steps, and then it is removed from the cluster."""
NODE = "node-1"

_ENDS = ("evicted", "preempted", "node pressure", "node lost", "deadline")
_DISRUPTION = {
    "evicted": ("EvictionByEvictionAPI", "Eviction API: evicting"),
    "preempted": ("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
    "node pressure": ("TerminationByKubelet", ""),
    "node lost": ("DeletionByPodGC", "PodGC: node no longer exists"),
}
_AWAY = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
_MESSAGES = {
    "unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    "quota": "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, "
    "limited: requests.nvidia.com/gpu=4",
    "mount": 'MountVolume.SetUp failed for volume "inputs" : configmap "inputs" not found',
    "node pressure": "The node was low on resource: ephemeral-storage. Threshold quantity: 46993491787, available: "
    "45494108Ki. Container task-0 was using 21Gi, request is 10Gi, has larger consumption of ephemeral-storage. ",
    "deadline": "Pod was active on the node longer than the specified deadline",
}
_REASON = {"node pressure": "Evicted", "deadline": "DeadlineExceeded"}
_KILLED = 137
_MESSAGE_BYTES = 4096
_POD_MESSAGES_BYTES = 12 * 1024
_GRACE_S = 30


@dataclass(frozen=True)
class ContainerEnd:
    """
    Attributes:
        message: what it wrote to its termination log.
        reason: as OOMKilled; empty for the usual one of that exit code.
        log: lines of its output.
    """

    exit_code: int = 0
    message: str = ""
    reason: str = ""
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PodEnd:
    """How far a pod comes. Its next container runs on, where fewer than all of them end.

    Attributes:
        containers: how each ends, init containers first, in the order of the pod's specification.
        fate: what happens to the pod as a whole after these; None for nothing.
        message: instead of the usual one of that fate.
        steps_away: how many a lost node does not answer, before it is removed.
    """

    containers: tuple[ContainerEnd, ...] = ()
    fate: Fate | None = None
    message: str = ""
    steps_away: int = 25

    def text(self, pod: Object) -> str:
        image = _specs(pod)[min(len(self.containers), len(_specs(pod)) - 1)]["image"]
        usual = f'Back-off pulling image "{image}"' if self.fate == "image pull" else _MESSAGES.get(self.fate or "", "")
        return self.message or usual.replace("{name}", pod["metadata"]["name"])


def succeeds(pod: Object, message: str = "") -> PodEnd:
    """Every container ends with 0."""
    return PodEnd(tuple(ContainerEnd(message=message) for _ in _specs(pod)))


def fails(pod: Object, exit_code: int = 1, message: str = "", reason: str = "") -> PodEnd:
    """The last container ends with that code, the ones before it with 0."""
    return PodEnd((*succeeds(pod).containers[:-1], ContainerEnd(exit_code, message, reason)))


def is_over(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_terminating(pod: Object) -> bool:
    """Deleted, and nobody has seen it end."""
    return "deletionTimestamp" in pod["metadata"] and not is_over(pod)


def advance(pod: Object, end: PodEnd, steps_away: int = 0) -> None:
    """Move the pod's status on by one step: scheduled, started, and then one container's end at a time.

    Args:
        steps_away: how many its node has not answered so far.
    """
    status = pod["status"]
    if end.fate == "unschedulable" and "nodeName" not in pod["spec"]:
        _condition(status, "PodScheduled", "False", "Unschedulable", end.text(pod))
        return
    if "nodeName" not in pod["spec"]:
        _schedule(pod)
        return
    if end.fate == "mount":
        return
    ended = sum("terminated" in one["state"] for one in _statuses(pod))
    running = [one for one in _statuses(pod) if "running" in one["state"]]
    if running and ended < len(end.containers):
        _terminate(running[0], end.containers[ended], len(_specs(pod)))
    elif ended >= len(end.containers) and end.fate in _ENDS:
        if end.fate == "node lost" and steps_away < end.steps_away:
            _leave_alone(pod)
        else:
            _stop(pod, end)
        return
    _start(pod, end)
    _settle(pod)


def _schedule(pod: Object) -> None:
    spec, status = pod["spec"], pod["status"]
    spec["nodeName"] = NODE
    _condition(status, "PodScheduled", "True")
    _condition(status, "Initialized", "False" if spec.get("initContainers") else "True")
    _condition(status, "Ready", "False", "ContainersNotReady")
    reason = "PodInitializing" if spec.get("initContainers") else "ContainerCreating"
    status |= {"hostIP": "10.0.0.1", "startTime": now()}
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [_waiting(one, reason) for one in spec["initContainers"]]
    status["containerStatuses"] = [_waiting(one, reason) for one in spec["containers"]]


def _waiting(container: Object, reason: str) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "state": {"waiting": {"reason": reason}},
        "lastState": {},
        "ready": False,
        "started": False,
        "restartCount": 0,
    }


def _start(pod: Object, end: PodEnd) -> None:
    """Init containers one after the other, the others all at once when those have ended well."""
    init = pod["status"].get("initContainerStatuses", [])
    for number, one in enumerate(init):
        state = one["state"]
        if "waiting" in state:
            _begin(pod, one, end, number)
        if state.get("terminated", {}).get("exitCode") != 0:
            return
    if "nodeName" in pod["spec"]:
        _condition(pod["status"], "Initialized", "True")
    for number, one in enumerate(pod["status"]["containerStatuses"], start=len(init)):
        if "waiting" in one["state"]:
            _begin(pod, one, end, number)


def _begin(pod: Object, container: Object, end: PodEnd, number: int) -> None:
    if end.fate == "image pull" and number >= len(end.containers):
        container["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": end.text(pod)}}
        return
    pod["status"].setdefault("podIP", "10.244.0.7")
    container["state"] = {"running": {"startedAt": now()}}
    container |= {"started": True, "ready": True, "imageID": container["image"]}


def _terminate(container: Object, end: ContainerEnd, n_containers: int) -> None:
    message = _kept(end.message, n_containers)
    ended: dict[str, Any] = {
        "exitCode": end.exit_code,
        "reason": end.reason or ("Error" if end.exit_code else "Completed"),
        **({"message": message} if message else {}),
        "startedAt": container["state"]["running"]["startedAt"],
        "finishedAt": now(),
    }
    container["state"] = {"terminated": ended}
    container |= {"started": False, "ready": False}


def _kept(message: str, n_containers: int) -> str:
    """Of a termination message: the end of the file, and of that the beginning."""
    file = message.encode()[-_MESSAGE_BYTES:]
    return file[: _POD_MESSAGES_BYTES // n_containers].decode(errors="replace")


def _leave_alone(pod: Object) -> None:
    """Its node does not answer: the pod is deleted, and nobody ends it. What it says of itself stays as it was."""
    _condition(pod["status"], "DisruptionTarget", "True", *_AWAY)
    ready = [one for one in pod["status"]["conditions"] if (one["type"], one["status"]) == ("Ready", "True")]
    for one in ready:
        one["status"] = "False"
    _delete(pod)


def _delete(pod: Object) -> None:
    """It is there for as long as it runs, and then until its Job has counted it."""
    until = datetime.now(UTC) + timedelta(seconds=_GRACE_S)
    pod["metadata"].setdefault("deletionTimestamp", until.strftime("%Y-%m-%dT%H:%M:%SZ"))
    pod["metadata"].setdefault("deletionGracePeriodSeconds", _GRACE_S)


def _stop(pod: Object, end: PodEnd) -> None:
    """The pod fails as a whole, whatever its containers say."""
    status, name = pod["status"], end.fate or ""
    # Nobody is left on a lost node to say how its containers ended.
    for one in _statuses(pod) if end.fate != "node lost" else []:
        if "running" in one["state"]:
            _terminate(one, ContainerEnd(_KILLED), len(_specs(pod)))
    if name in _DISRUPTION:
        reason, why = _DISRUPTION[name]
        _condition(status, "DisruptionTarget", "True", reason, why or end.text(pod))
        if name != "node pressure":
            _delete(pod)
    status["phase"] = "Failed"
    if name in _REASON:
        status |= {"reason": _REASON[name], "message": end.text(pod)}


def _settle(pod: Object) -> None:
    """The phase that follows from the containers. It is Pending while init containers run."""
    status = pod["status"]
    init = [one["state"] for one in status.get("initContainerStatuses", [])]
    main = [one["state"] for one in status["containerStatuses"]]
    if any(state.get("terminated", {}).get("exitCode", 0) != 0 for state in init):
        status["phase"] = "Failed"
    elif all("terminated" in state for state in main):
        failed = any(state["terminated"]["exitCode"] != 0 for state in main)
        status["phase"] = "Failed" if failed else "Succeeded"
    elif any("terminated" not in state for state in init) or any("waiting" in state for state in main):
        status["phase"] = "Pending"
    else:
        status["phase"] = "Running"
    if is_over(pod):
        _condition(status, "Ready", "False", "PodFailed" if status["phase"] == "Failed" else "PodCompleted")
    elif status["phase"] == "Running":
        _condition(status, "Ready", "True")


def _condition(status: Object, name: str, value: str, reason: str = "", message: str = "") -> None:
    conditions = status.setdefault("conditions", [])
    new = {"type": name, "status": value} | ({"reason": reason} if reason else {})
    new |= {"message": message} if message else {}
    for old in conditions:
        if old["type"] == name:
            if {key: text for key, text in old.items() if key != "lastTransitionTime"} != new:
                old.clear()
                old.update(new, lastTransitionTime=now())
            return
    conditions.append({**new, "lastTransitionTime": now()})


def _specs(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def _statuses(pod: Object) -> list[Object]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
