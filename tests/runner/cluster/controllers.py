"""The Job controller and a node: Jobs get pods, and pods end as a test says."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tests.runner.cluster.api_server import ApiServer
from tests.runner.cluster.kubelet import PodEnd, advance, is_over, is_terminating
from tests.runner.cluster.object_store import Object, Refused, five_letters, now

_BATCH = "batch.kubernetes.io"
_INDEX = f"{_BATCH}/job-completion-index"
_STUCK = ("image pull", "mount", "unschedulable", "quota")


@dataclass
class _Book:
    """What is known of a Job, also of pods that are gone."""

    counted: set[str] = field(default_factory=set)
    succeeded: int = 0
    failed: int = 0
    done: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)
    failures: Counter[int] = field(default_factory=Counter)
    failure: tuple[str, str] | None = None


class Controllers:
    """Moves Jobs and pods on, one step at a time.

    `run` is asked once what becomes of a pod, before it exists. It is asked again in each step while the pod is stuck
    (no image, no volume, no room, no quota) or its next container runs on; its answer then tells of all containers from
    the first.
    It must not speak to the API over HTTP, which answers nobody during a step.
    A pod that no Job made runs as well.
    """

    def __init__(self, api: ApiServer, run: Callable[[Object], PodEnd]) -> None:
        self.run = run
        self._api = api
        self._store = api.store
        self._books: dict[str, _Book] = {}
        self._ends: dict[str, PodEnd] = {}
        self._away: Counter[str] = Counter()

    def step(self) -> bool:
        """Whether anything changed, or will after some steps in which a node does not answer."""
        with self._store.lock:
            before, waited = self._store.version, self._away.total()
            for pod in self._store.all("pods"):
                self._move(pod)
            for job in self._store.all("jobs"):
                if not _has(job, "Complete") and not _has(job, "Failed"):
                    self._sync(job)
            return self._store.version != before or self._away.total() != waited

    def settle(self, most_steps: int = 500) -> None:
        """Until a step changes nothing."""
        for _ in range(most_steps):
            if not self.step():
                return
        raise AssertionError(f"still moving after {most_steps} steps")

    @contextmanager
    def running(self, every_s: float = 0.02) -> Iterator[None]:
        """A step every so often, in a thread."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(every_s):
                self.step()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _move(self, pod: Object) -> None:
        own = pod["metadata"]
        if is_over(pod):
            return
        end = self._ends.get(own["uid"])
        if end is None or end.fate in _STUCK or _runs_on(pod, end):
            end = self._ends[own["uid"]] = self.run(deepcopy(pod))

        def moved(current: Object) -> None:
            advance(current, end, self._away[own["uid"]])

        after = self._store.update("pods", own["name"], own["namespace"], moved)
        self._away[own["uid"]] += is_terminating(after)
        if end.fate == "mount" and "nodeName" in pod["spec"]:
            self._say(after, "kubelet", "FailedMount", end.text(after))
        self._keep_logs(after, end)

    def _keep_logs(self, pod: Object, end: PodEnd) -> None:
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        for container, ended in zip(containers, end.containers, strict=False):
            if ended.log:
                self._api.logs[pod["metadata"]["name"], container["name"]] = list(ended.log)

    def _sync(self, job: Object) -> None:
        book = self._books.setdefault(job["metadata"]["uid"], _Book())
        pods = self._pods(job)
        for pod in pods:
            if is_over(pod) and pod["metadata"]["uid"] not in book.counted:
                book.counted.add(pod["metadata"]["uid"])
                _count(job, book, pod)
        for pod in pods:
            if is_over(pod) and "deletionTimestamp" in pod["metadata"]:
                self._delete(pod)
        end = _end(job, book)
        if end is not None or job["spec"]["suspend"]:
            for pod in pods:
                if not is_over(pod) and not is_terminating(pod):
                    self._delete(pod)
        else:
            replaced = not _only_replaces_failed(job)
            self._fill_up(
                job, book, [pod for pod in pods if not is_over(pod) and not (replaced and is_terminating(pod))]
            )
        self._write_status(job, book, end)

    def _pods(self, job: Object) -> list[Object]:
        owner = job["metadata"]["uid"]
        return [
            pod
            for pod in self._store.all("pods", job["metadata"]["namespace"])
            if any(one["uid"] == owner for one in pod["metadata"].get("ownerReferences", []))
        ]

    def _delete(self, pod: Object) -> None:
        self._store.delete("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])

    def _fill_up(self, job: Object, book: _Book, active: list[Object]) -> None:
        free = job["spec"]["parallelism"] - len(active)
        if job["spec"]["completionMode"] == "Indexed":
            taken = book.done | book.given_up | {_index(pod) for pod in active}
            wanted: list[int | None] = [number for number in range(_completions(job)) if number not in taken]
        else:
            wanted = [None] * (_completions(job) - book.succeeded - len(active))
        for index in wanted[: max(free, 0)]:
            self._create(job, book, index)

    def _create(self, job: Object, book: _Book, index: int | None) -> None:
        pod = _pod(job, book, index)
        namespace = job["metadata"]["namespace"]
        end = self.run(deepcopy(pod))
        if end.fate == "quota":
            name = pod["metadata"]["name"]
            text = f'Error creating: pods "{name}" is forbidden: {end.text(pod)}'
            self._say(job, "job-controller", "FailedCreate", text)
            return
        made = self._store.add("pods", pod, namespace)
        self._ends[made["metadata"]["uid"]] = end
        self._say(job, "job-controller", "SuccessfulCreate", f"Created pod: {made['metadata']['name']}", "Normal")

    def _say(self, about: Object, who: str, reason: str, message: str, kind: str = "Warning") -> None:
        """An Event, counted once a second where it is there already."""
        own = about["metadata"]
        name = f"{own['name']}.{reason.lower()}.{own['uid'][:8]}"
        event: Object = {
            "metadata": {"name": name},
            "involvedObject": {
                **{key: about[key] for key in ("kind", "apiVersion")},
                **{key: own[key] for key in ("name", "namespace", "uid")},
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": who},
            "reportingComponent": who,
            "reportingInstance": "",
            "count": 1,
            "eventTime": None,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
        }

        def again(old: Object) -> None:
            if old["lastTimestamp"] != event["lastTimestamp"]:
                old |= {"count": old["count"] + 1, "message": message, "lastTimestamp": event["lastTimestamp"]}

        try:
            self._store.add("events", event, own["namespace"])
        except Refused as refused:
            if refused.reason != "AlreadyExists":
                raise
            self._store.update("events", name, own["namespace"], again)

    def _write_status(self, job: Object, book: _Book, end: tuple[str, str, str] | None) -> None:
        there = [pod for pod in self._pods(job) if not is_over(pod)]
        pods = [pod for pod in there if not is_terminating(pod)]
        counts = {"active": len(pods), "succeeded": book.succeeded, "failed": book.failed}
        if job["spec"]["completionMode"] == "Indexed":
            counts["succeeded"] = len(book.done)

        def written(current: Object) -> None:
            status = current["status"]
            for key, number in counts.items():
                # As the real one: what is 0 is not there.
                status.pop(key, None)
                status |= {key: number} if number else {}
            ready = sum(pod["status"]["phase"] == "Running" for pod in pods)
            status |= {"ready": ready, "terminating": len(there) - len(pods)}
            status["uncountedTerminatedPods"] = {}
            if book.done:
                status["completedIndexes"] = indexes(book.done)
            if "backoffLimitPerIndex" in current["spec"]:
                status["failedIndexes"] = indexes(book.given_up)
            _suspension(current)
            if not current["spec"]["suspend"]:
                status.setdefault("startTime", now())
            if end is not None:
                _finish(status, *end, is_over=not there)

        self._store.update("jobs", job["metadata"]["name"], job["metadata"]["namespace"], written)


def indexes(numbers: Iterable[int]) -> str:
    """As a Job's status holds them: ``0,2-3``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _only_replaces_failed(job: Object) -> bool:
    """Whether a pod that is being ended holds its place until it is known to be over."""
    return job["spec"].get("podReplacementPolicy") == "Failed" or "podFailurePolicy" in job["spec"]


def _runs_on(pod: Object, end: PodEnd) -> bool:
    """Whether all ends that are known have happened, and a container still runs."""
    statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
    ended = sum("terminated" in one["state"] for one in statuses)
    return end.fate is None and bool(statuses) and len(end.containers) <= ended < len(statuses)


def _count(job: Object, book: _Book, pod: Object) -> None:
    if pod["status"]["phase"] == "Succeeded":
        book.succeeded += 1
        if _index(pod) is not None:
            book.done.add(_index(pod))
        return
    action, message = _rule(job, pod)
    if action == "Ignore":
        return
    book.failed += 1
    if action == "FailJob":
        book.failure = book.failure or ("PodFailurePolicy", message)
    per_index = job["spec"].get("backoffLimitPerIndex")
    if per_index is not None:
        book.failures[_index(pod)] += 1
        if action == "FailIndex" or book.failures[_index(pod)] > per_index:
            book.given_up.add(_index(pod))


def _rule(job: Object, pod: Object) -> tuple[str, str]:
    """The action of the first rule that matches, and the words for a Job that fails by it."""
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for number, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", [])):
        action, asked = rule["action"], rule.get("onExitCodes")
        if asked is not None:
            for name, code in _failed_containers(pod):
                if asked.get("containerName") in (None, name) and (code in asked["values"]) == (
                    asked["operator"] == "In"
                ):
                    text = f"Container {name} for pod {where} failed with exit code {code} "
                    return action, text + f"matching {action} rule at index {number}"
        for pattern in rule.get("onPodConditions", []):
            for condition in pod["status"].get("conditions", []):
                if condition["type"] == pattern["type"] and condition["status"] == pattern.get("status", "True"):
                    text = f"Pod {where} has condition {condition['type']} matching {action} rule at index {number}"
                    return action, text
    return "Count", ""


def _failed_containers(pod: Object) -> Iterator[tuple[str, int]]:
    status = pod["status"]
    for one in [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]:
        code = one["state"].get("terminated", {}).get("exitCode", 0)
        if code != 0:
            yield one["name"], code


def _end(job: Object, book: _Book) -> tuple[str, str, str] | None:
    """The condition that ends the Job, with reason and message; None while it goes on."""
    spec = job["spec"]
    if book.failure is not None:
        return ("Failed", *book.failure)
    if book.failed > spec["backoffLimit"]:
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if spec["completionMode"] == "Indexed":
        if len(book.given_up) > spec.get("maxFailedIndexes", len(book.given_up)):
            text = "Job has exceeded the specified maximal number of failed indexes"
            return "Failed", "MaxFailedIndexesExceeded", text
        if book.given_up and len(book.given_up | book.done) >= _completions(job):
            return "Failed", "FailedIndexes", "Job has failed indexes"
    done = len(book.done) if spec["completionMode"] == "Indexed" else book.succeeded
    if done >= _completions(job):
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    return None


def _finish(status: Object, name: str, reason: str, message: str, *, is_over: bool) -> None:
    """The condition that announces the end, and the end, which a reader has to tell apart.

    Args:
        is_over: none of its pods is left.
    """
    first = "SuccessCriteriaMet" if name == "Complete" else "FailureTarget"
    conditions = status.setdefault("conditions", [])
    for one in (first, name) if is_over else (first,):
        if all(there["type"] != one for there in conditions):
            conditions.append(_condition(one, "True", reason, message))
    if name == "Complete" and is_over:
        status["completionTime"] = now()


def _suspension(job: Object) -> None:
    conditions = job["status"].get("conditions", [])
    held = next((one for one in conditions if one["type"] == "Suspended"), None)
    suspend = job["spec"]["suspend"]
    if suspend == (held is not None and held["status"] == "True"):
        return
    new = ("True", "JobSuspended", "Job suspended") if suspend else ("False", "JobResumed", "Job resumed")
    job["status"]["conditions"] = [one for one in conditions if one is not held] + [_condition("Suspended", *new)]
    job["status"].pop("startTime", None)


def _condition(name: str, value: str, reason: str, message: str) -> Object:
    times = {"lastProbeTime": now(), "lastTransitionTime": now()}
    return {"type": name, "status": value, **times, "reason": reason, "message": message}


def _pod(job: Object, book: _Book, index: int | None) -> Object:
    """A new one from the Job's template."""
    own = job["metadata"]
    template = deepcopy(job["spec"]["template"])
    labels = dict(template["metadata"].get("labels") or {})
    annotations = dict(template["metadata"].get("annotations") or {})
    base = own["name"]
    spec: dict[str, Any] = template["spec"]
    if index is not None:
        base = f"{base}-{index}"
        labels[_INDEX] = annotations[_INDEX] = str(index)
        spec.setdefault("hostname", base)
        source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{_INDEX}']"}}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
        if "backoffLimitPerIndex" in job["spec"]:
            annotations[f"{_BATCH}/job-index-failure-count"] = str(book.failures[index])
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": own["name"], "uid": own["uid"]}
    return {
        "metadata": {
            "name": f"{base}-{five_letters()}",
            "namespace": own["namespace"],
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": spec,
        "status": {"phase": "Pending"},
    }


def _index(pod: Object) -> Any:
    """Of an Indexed Job's pod; None for another's."""
    text = pod["metadata"].get("annotations", {}).get(_INDEX)
    return None if text is None else int(text)


def _completions(job: Object) -> int:
    number: int = job["spec"].get("completions", 1)
    return number


def _has(job: Object, condition: str) -> bool:
    return any(one["type"] == condition and one["status"] == "True" for one in job["status"].get("conditions", []))
