"""What a pod's and a Job's status mean: who has ended, with what to say, and what keeps one from running."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from images.contract.job import ExitCode
from images.contract.report import JobReport

Object = Mapping[str, Any]

_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_OOM = "OOMKilled"
_UNKNOWN = "ContainerStatusUnknown"
_QUEUE = "kueue.x-k8s.io/queue-name"
_TRIES_AGAIN = "Its Job tries again; it is no failure."
_CLAIM_ADVICE = (
    (
        r'persistentvolumeclaim "[^"]*" (not found|is being deleted|bound to non-existent)',
        "Make the claim, or correct kubernetes.results / kubernetes.models_claim.",
    ),
    (
        r"unbound immediate PersistentVolumeClaims|available persistent volumes to bind|enough free storage",
        "Its claim has no volume yet: kubectl describe pvc says what its storage lacks.",
    ),
    (
        r"volume node affinity conflict",
        "The volume of its claim is for other nodes: take a claim that every node can mount, or correct "
        "kubernetes.node_selector.",
    ),
)
"""What the scheduler says of claims, and what helps."""
_NODE_ADVICE = (
    # Taints of the control plane, and of nodes that are ill, keep everyone away.
    (
        r"(untolerated taint|had taint)(?! ?\{node(-role)?\.kubernetes\.io/)",
        "Where the nodes with taints are meant for it: kubernetes.tolerations.",
    ),
    (
        r"didn't match Pod's node (affinity|selector)",
        "Correct kubernetes.node_selector, unless other nodes are to come; nodes that share their GPUs do not fit.",
    ),
    (r"anti-affinity", "launcher.exclusive keeps it from nodes where another job runs: wait for that."),
)
_SMALL = {"cpu": "cpu", "memory": "memory", "ephemeral-storage": "ephemeral_storage"}
"""Resources that every node has, and the fields that ask for them."""
_MOUNTING = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SANDBOX = "FailedCreatePodSandBox"
_MOUNTED = ("SuccessfulAttachVolume", "Pulling", "Pulled", "BackOff", "Created", "Started")
"""Events that come after what kept a pod's volumes or its sandbox away."""


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """A container that has ended.

    Attributes:
        report: its last word; None if it was killed before it could say anything.
        finished: when; None if nobody knows.
    """

    container: str
    exit_code: int
    reason: str
    report: JobReport | None
    finished: datetime | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a pod from running, or ended it from outside.

    Attributes:
        fatal: it does not go away by waiting.
    """

    code: str
    message: str
    advice: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.message} {self.advice}"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a Job ended.

    Attributes:
        failed: as a whole; an Indexed Job may have succeeded in other indexes.
    """

    failed: bool
    reason: str = ""
    message: str = ""


def task_ends(pod: Object) -> Iterator[TaskEnd]:
    """Containers that have ended, in their order."""
    for status in _statuses(pod):
        ended = (status.get("state") or {}).get("terminated")
        if ended is not None:
            yield TaskEnd(
                container=status["name"],
                exit_code=int(ended.get("exitCode", 0)),
                reason=str(ended.get("reason") or ""),
                report=JobReport.parse(ended.get("message") or ""),
                finished=_time(ended.get("finishedAt")),
            )


def running_task(pod: Object) -> str | None:
    """Name of the container that runs; None if none does."""
    return next((one["name"] for one in _statuses(pod) if "running" in (one.get("state") or {})), None)


def has_begun(pod: Object) -> bool:
    """Whether a container of it runs or has run. Its phase is Pending as long as init containers run."""
    return any((one.get("state") or {}).keys() & {"running", "terminated"} for one in _statuses(pod))


def is_over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def trouble_of(pod: Object) -> Trouble | None:
    """What keeps it from running, or ended it from outside; None if nothing does."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if status.get("phase") == "Succeeded":
        return None
    if status.get("phase") == "Failed" or "deletionTimestamp" in pod["metadata"]:
        return _ended_from_outside(pod)
    for one in _statuses(pod):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason, said = str(waiting.get("reason") or ""), _one_line(waiting.get("message"))
        if reason in _PULLING:
            return Trouble(
                "image_pull",
                f"pod {name}: the image {one.get('image') or ''} cannot be pulled ({said or reason}).",
                "Correct kubernetes.images, push the image, or name kubernetes.image_pull_secrets.",
                fatal=True,
            )
        if reason in _CONFIG:
            return Trouble(
                "container_config",
                f"pod {name}: its container cannot be made ({said or reason}).",
                "Make the Secret or claim that is missing, or correct its name in the section kubernetes.",
                fatal=True,
            )
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            said = _one_line(condition.get("message"))
            return Trouble("unschedulable", f"pod {name} waits for a node ({said}).", _what_gives_it_a_node(said))
    return None


def mount_trouble(pod: Object, events: Sequence[Object]) -> Trouble | None:
    """Why a pod that has its node does not begin, which its status does not say; None if nothing is known.

    A volume that comes late is usual in a pod's first seconds; ask for those that have waited for longer.
    """
    own, node = pod["metadata"], pod["spec"].get("nodeName")
    if node is None or has_begun(pod) or is_over(pod) or "deletionTimestamp" in own:
        return None
    for event in _newest_first(events):
        about = event.get("involvedObject") or {}
        if about.get("kind", "Pod") != "Pod" or about.get("uid", own.get("uid")) != own.get("uid"):
            continue
        reason, said = event.get("reason"), _one_line(event.get("message"))
        if reason in _MOUNTED:
            return None
        if reason in _MOUNTING:
            return Trouble("volumes", f"pod {own['name']} waits for its volumes ({said}).", _what_mounts_it(said, own))
        if reason == _SANDBOX:
            return Trouble(
                "sandbox",
                f"pod {own['name']} cannot begin on its node {node} ({said}).",
                "Ask who runs the cluster to look at that node; its network or container runtime refuses.",
            )
    return None


def quota_trouble(job: str, events: Sequence[Object], newer_than: str | None = None) -> Trouble | None:
    """Why a Job has no pod at all, by what the cluster says of it.

    Args:
        newer_than: when its last pod was made, as the API writes it; what was said before that is over. None: it never
            had one.
    """
    for event in _newest_first(events, newer_than):
        said = _one_line(event.get("message"))
        if event.get("reason") == "SuccessfulCreate":
            return None
        if event.get("reason") != "FailedCreate" or "Operation cannot be fulfilled on resourcequotas" in said:
            continue  # the Job asks for its pod again, and gets it
        if "exceeded quota" in said:
            return Trouble("quota", f"job {job} gets no pod ({said}).", "Wait for room, or ask for a larger quota.")
        return Trouble(
            "refused",
            f"job {job} gets no pod ({said}).",
            "The namespace refuses it: correct the section kubernetes, or ask who runs the cluster.",
            fatal=True,
        )
    return None


def suspension_trouble(job: Object) -> Trouble | None:
    """A Job that waits for somebody to resume it; None if it does not."""
    own = job["metadata"]
    if not job["spec"].get("suspend") or job_end(job) is not None:
        return None
    held = next((one for one in _conditions(job) if one.get("type") == "Suspended"), {})
    since = held.get("lastTransitionTime") or own.get("creationTimestamp") or "it was made"
    queue = (own.get("labels") or {}).get(_QUEUE)
    if queue is None:
        return Trouble(
            "suspended",
            f"job {own['name']} is suspended since {since}.",
            f'Whoever suspended it resumes it: kubectl patch job {own["name"]} -p \'{{"spec":{{"suspend":false}}}}\'.',
        )
    return Trouble(
        "suspended",
        f"job {own['name']} waits in queue {queue} (suspended since {since}).",
        f"Wait for room, or check that Kueue and the LocalQueue {queue} are there: kubectl get localqueue.",
    )


def job_end(job: Object) -> JobEnd | None:
    """None as long as it goes on."""
    for condition in _conditions(job):
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return JobEnd(
                condition["type"] == "Failed", str(condition.get("reason") or ""), _one_line(condition.get("message"))
            )
    return None


def failure_without_a_word(end: TaskEnd | None, pod: Object | None, job: JobEnd) -> tuple[str, int, str, str]:
    """Error class, exit code, message and advice for a cycle whose job could not say why it has no result."""
    if end is not None and end.reason == _OOM:
        return (
            "OutOfMemory",
            int(ExitCode.OUT_OF_MEMORY),
            "the container was killed for using too much memory.",
            "Raise kubernetes.memory, or lower batch_size or the workload's token limits.",
        )
    if end is not None and end.reason == _UNKNOWN:
        lost = "its node lost the container, as when it starts anew."
        return "NodeLost", int(ExitCode.LAUNCHER), lost, "Run again."
    trouble = None if pod is None else trouble_of(pod)
    if trouble is not None:
        return trouble.code, int(ExitCode.LAUNCHER), trouble.message, trouble.advice
    code = 0 if end is None else end.exit_code
    known = {int(one) for one in ExitCode} - {0}
    said = f"{job.reason} {job.message}".strip() or "no reason given"
    return (
        "Unexplained",
        code if code in known else int(ExitCode.LAUNCHER),
        f"the Job ended without a result ({said}){f', its container with exit code {code}' if code else ''}.",
        "The end of its log is in failure.json.",
    )


def _ended_from_outside(pod: Object) -> Trouble | None:
    """Of a pod that has failed, or that is being ended."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    is_failed = status.get("phase") == "Failed"
    reason, said = str(status.get("reason") or ""), _one_line(status.get("message"))
    disrupted = next(
        (one for one in _conditions(pod) if one.get("type") == "DisruptionTarget" and one.get("status") == "True"), {}
    )
    by = disrupted.get("reason")
    why = _one_line(disrupted.get("message")) or said or reason
    if not is_failed and (by == "DeletionByTaintManager" or reason == "NodeLost"):
        # Nobody is there to end it; its Job makes no other one before it is known to be over.
        node = pod["spec"].get("nodeName") or ""
        return Trouble(
            "node_away",
            f"pod {name}: its node {node} does not answer.",
            f"Its Job goes on when the node is back, or `kubectl delete node {node}` has removed it.",
        )
    if by in ("DeletionByTaintManager", "DeletionByPodGC") or reason == "NodeLost":
        return Trouble("node_lost", f"pod {name}: its node went away ({why}).", "Its Job tries again on another one.")
    if by == "PreemptionByScheduler" or reason == "Preempting":
        advice = f"{_TRIES_AGAIN} kubernetes.priority_class makes it more important."
        return Trouble("preempted", f"pod {name} was preempted by a more important pod ({why}).", advice)
    if by == "EvictionByEvictionAPI":
        return Trouble("evicted", f"pod {name} was evicted, as when a node is drained ({why}).", _TRIES_AGAIN)
    if reason == "Evicted" and "exceed" in said and "low on resource" not in said:
        field = "shared_memory" if 'EmptyDir volume "shm"' in said else "ephemeral_storage"
        return Trouble(
            "storage_limit", f"pod {name} used more storage than it may ({said}).", f"Raise kubernetes.{field}."
        )
    if reason == "Evicted":
        return Trouble("node_pressure", f"pod {name} was evicted by its node ({said or why}).", _what_spares_it(said))
    if by == "TerminationByKubelet":
        return Trouble("node_shutdown", f"pod {name} was ended by its node ({why}).", _TRIES_AGAIN)
    if disrupted:
        return Trouble("evicted", f"pod {name} was evicted ({why}).", _TRIES_AGAIN)
    if reason == "DeadlineExceeded":
        return Trouble(
            "deadline",
            f"pod {name} took longer than its deadline.",
            "Raise timeouts.job_s, or look at the end of its log in failure.json.",
        )
    return None


def _what_spares_it(said: str) -> str:
    """Advice for a pod that its node evicted for want of something."""
    low = re.search(r"low on resource: ([a-z-]+)", said)
    field = None if low is None else _SMALL.get(low[1])
    return (
        _TRIES_AGAIN if field is None else f"{_TRIES_AGAIN} Raise kubernetes.{field}, so that its node has it to spare."
    )


def _what_gives_it_a_node(said: str) -> str:
    """Advice for a pod that no node takes: each may have another reason."""
    advice = [text for pattern, text in _CLAIM_ADVICE if re.search(pattern, said)]
    lacking = dict.fromkeys(one.rstrip(".") for one in re.findall(r"Insufficient ([\w./-]+)", said))
    fields = [f"kubernetes.{_SMALL[one]}" for one in lacking if one in _SMALL]
    if any("/" in one for one in lacking):
        advice.append("Wait for a free GPU, or ask for less: kubernetes.{gpu_resource, cpu, memory, node_selector}.")
    elif fields:
        advice.append(f"Wait for room, or ask for less: {', '.join(fields)}.")
    advice += [text for pattern, text in _NODE_ADVICE if re.search(pattern, said)]
    return " ".join(advice) or "Wait for a node, or correct kubernetes.{node_selector, tolerations}."


def _what_mounts_it(said: str, own: Object) -> str:
    if "Multi-Attach" in said or "exclusively attached" in said:
        return "One node at a time has its claim: take a ReadWriteMany claim, or one node (kubernetes.node_selector)."
    if re.search(r'(configmap|secret) "[^"]*" not found', said):
        return "Make what is missing; the study's ConfigMap comes back with `runner stop` and running again."
    return f"Look at its claim and its storage: kubectl describe pod {own['name']}."


def _newest_first(events: Sequence[Object], newer_than: str | None = None) -> list[Object]:
    """Those after that time. The API gives them in the order of their names."""
    after = datetime.fromisoformat(newer_than) if newer_than else None
    timed = [(time, event) for event in events if (time := _last_seen(event)) is not None]
    kept = [(time, event) for time, event in timed if after is None or time > after]
    kept.reverse()  # of two in the same second, the later one first
    return [event for _, event in sorted(kept, key=lambda one: one[0], reverse=True)]


def _last_seen(event: Object) -> datetime | None:
    """Each of its times may be missing: old ones are counted, new ones are a series."""
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    return max((datetime.fromisoformat(time) for time in times if time), default=None)


def _conditions(one: Object) -> Sequence[Object]:
    return (one.get("status") or {}).get("conditions") or ()


def _statuses(pod: Object) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _one_line(text: object) -> str:
    return " ".join(str(text or "").split()).rstrip(".")
