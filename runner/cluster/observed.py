"""What a pod's and a Job's status mean: who has ended, with what to say, and what keeps one from running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from images.contract.job import ExitCode
from images.contract.report import JobReport

Object = Mapping[str, Any]

_PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_OOM = "OOMKilled"


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """A container that has ended.

    Attributes:
        report: its last word; None if it was killed before it could say anything.
    """

    container: str
    exit_code: int
    reason: str
    report: JobReport | None


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
    if status.get("phase") == "Failed":
        return _ended_from_outside(name, status)
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
            return Trouble(
                "unschedulable",
                f"pod {name} waits for a node ({_one_line(condition.get('message'))}).",
                "Wait for a free GPU, or ask for less: kubernetes.{gpu_resource, cpu, memory, node_selector}.",
            )
    return None


def quota_trouble(job: str, events: list[dict[str, Any]]) -> Trouble | None:
    """Why a Job has no pod at all, by what the cluster says of it."""
    for event in reversed(events):
        said = _one_line(event.get("message"))
        if event.get("reason") == "FailedCreate" and "quota" in said:
            return Trouble("quota", f"job {job} gets no pod ({said}).", "Wait for room, or ask for a larger quota.")
        if event.get("reason") == "FailedCreate":
            return Trouble(
                "refused",
                f"job {job} gets no pod ({said}).",
                "The namespace refuses it: correct the section kubernetes, or ask who runs the cluster.",
                fatal=True,
            )
    return None


def job_end(job: Object) -> JobEnd | None:
    """None as long as it goes on."""
    for condition in (job.get("status") or {}).get("conditions") or ():
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
        "Look at its pods: kubectl describe, kubectl logs.",
    )


def _ended_from_outside(name: str, status: Object) -> Trouble | None:
    reason, said = str(status.get("reason") or ""), _one_line(status.get("message"))
    disrupted = next(
        (
            one
            for one in status.get("conditions") or ()
            if one.get("type") == "DisruptionTarget" and one.get("status") == "True"
        ),
        None,
    )
    if reason == "NodeLost" or (disrupted or {}).get("reason") == "DeletionByTaintManager":
        return Trouble(
            "node_lost", f"pod {name}: its node went away ({said or reason}).", "Its Job tries again on another one."
        )
    if disrupted is not None or reason in ("Evicted", "Preempting"):
        why = _one_line((disrupted or {}).get("message")) or said or reason
        return Trouble("evicted", f"pod {name} was evicted ({why}).", "Its Job tries again; it is no failure.")
    if reason == "DeadlineExceeded":
        return Trouble(
            "deadline", f"pod {name} took longer than its deadline.", "Raise timeouts.job_s, or look at its log."
        )
    return None


def _statuses(pod: Object) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _one_line(text: object) -> str:
    return " ".join(str(text or "").split()).rstrip(".")
