"""Objects of a Kubernetes cluster, in memory: a version for every change, and what depends on what."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from random import choices
from typing import Any

Object = dict[str, Any]

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_READ = frozenset({"get", "list", "watch"})
_ALL = _READ | {"create", "patch", "delete"}


@dataclass(frozen=True)
class Resource:
    """One kind of object. Every one is of version v1 of its group."""

    plural: str
    kind: str
    group: str = ""
    verbs: frozenset[str] = _ALL
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def in_messages(self) -> str:
        """As errors name it: ``pods``, ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_KUEUE = "kueue.x-k8s.io"
OPERATORS = (_KUEUE,)
"""Groups that are there only where somebody has installed them."""
_REVIEWS = Resource("selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io", frozenset(), False)
RESOURCES = {
    one.plural: one
    for one in (
        Resource("pods", "Pod"),
        Resource("configmaps", "ConfigMap"),
        Resource("events", "Event"),
        Resource("resourcequotas", "ResourceQuota"),
        Resource("persistentvolumeclaims", "PersistentVolumeClaim"),
        Resource("secrets", "Secret"),
        Resource("serviceaccounts", "ServiceAccount"),
        Resource("nodes", "Node", verbs=_READ, namespaced=False),
        Resource("namespaces", "Namespace", verbs=_READ, namespaced=False),
        Resource("jobs", "Job", "batch"),
        Resource("localqueues", "LocalQueue", _KUEUE),
        Resource("storageclasses", "StorageClass", "storage.k8s.io", _READ, False),
        Resource("priorityclasses", "PriorityClass", "scheduling.k8s.io", _READ, False),
        _REVIEWS,
    )
}


class Refused(Exception):
    """What the API answers instead of an object.

    Attributes:
        code: of HTTP.
        retry_after_s: what the answer asks for; None without.
    """

    def __init__(
        self, code: int, reason: str, message: str, details: Object | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details
        self.retry_after_s = retry_after_s

    def status(self) -> Object:
        """The body of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            **({} if self.details is None else {"details": self.details}),
            "code": self.code,
        }


def not_found(resource: Resource, name: str) -> Refused:
    return Refused(404, "NotFound", f'{resource.in_messages} "{name}" not found', _details(resource, name))


def _details(resource: Resource, name: str) -> Object:
    return {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}


@dataclass(frozen=True)
class Change:
    """From one state of an object to the next; None where there is none."""

    version: int
    plural: str
    before: Object | None
    after: Object | None


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def five_letters() -> str:
    """The end of a generated name."""
    return "".join(choices(_LETTERS, k=5))


class Store:
    """What it takes and what it gives are copies.

    Attributes:
        lock: held, everything done is one step to everyone else.
        version: of the last change.
        horizon: a watch from a version before it is told that it is gone.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1000
        self.horizon = 0
        self._changed = threading.Condition(self.lock)
        self._closed = False
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._changes: list[Change] = []

    def add(self, plural: str, new: Object, namespace: str = "", *, dry_run: bool = False) -> Object:
        """As created: with its name, uid, version and time.

        Raises:
            Refused: there is no such namespace, or it is going away, or there is one of that name already.
        """
        resource, made = RESOURCES[plural], deepcopy(new)
        with self.lock:
            self._check_namespace(resource, namespace, new.get("metadata", {}).get("name", ""))
            metadata = made.setdefault("metadata", {})
            if "name" not in metadata and "generateName" in metadata:
                metadata["name"] = metadata["generateName"] + five_letters()
            if not metadata.get("name"):
                text = f'{resource.kind} "" is invalid: metadata.name: Required value: name or generateName is required'
                raise Refused(422, "Invalid", text, _details(resource, ""))
            key = (plural, namespace, metadata["name"])
            if key in self._objects:
                text = f'{resource.in_messages} "{key[2]}" already exists'
                raise Refused(409, "AlreadyExists", text, _details(resource, key[2]))
            place = {"namespace": namespace} if namespace else {}
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), **place}
            made |= {"apiVersion": resource.api_version, "kind": resource.kind}
            if plural == "jobs":
                _fill_in_job(made)
            elif plural == "pods":
                made.setdefault("status", {"phase": "Pending"})
            return made if dry_run else self._write(key, made)

    def get(self, plural: str, name: str, namespace: str = "") -> Object:
        """
        Raises:
            Refused: there is none.
        """
        with self.lock:
            found = self._objects.get((plural, namespace, name))
            if found is None:
                raise not_found(RESOURCES[plural], name)
            return deepcopy(found)

    def all(self, plural: str, namespace: str | None = None) -> list[Object]:
        """By name; None for the namespace: of all of them."""
        with self.lock:
            keys = sorted(key for key in self._objects if key[0] == plural and namespace in (None, key[1]))
            return [deepcopy(self._objects[key]) for key in keys]

    def update(self, plural: str, name: str, namespace: str, change: Callable[[Object], None]) -> Object:
        """What `change` makes of it, in place. Nothing happens where it changes nothing.

        Raises:
            Refused: there is none, or another one has changed the version that the new state names.
        """
        with self.lock:
            old = self.get(plural, name, namespace)
            new = deepcopy(old)
            change(new)
            if new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                text = "the object has been modified; please apply your changes to the latest version and try again"
                raise self._conflict(RESOURCES[plural], RESOURCES[plural].plural, name, text)
            return old if new == old else self._write((plural, namespace, name), new)

    def delete(
        self, plural: str, name: str, namespace: str = "", *, uid: str | None = None, propagation: str = "Background"
    ) -> Object:
        """The last state of it. Its dependents go with it, or stay without an owner where `propagation` is Orphan.

        Raises:
            Refused: there is none, or it has another uid.
        """
        with self.lock:
            found = self.get(plural, name, namespace)
            own = found["metadata"]["uid"]
            if uid not in (None, own):
                text = f"the UID in the precondition ({uid}) does not match the UID in record ({own}). "
                text += "The object might have been deleted and then recreated"
                raise self._conflict(RESOURCES[plural], RESOURCES[plural].kind, name, text)
            # Foreground: what depends on it is gone before it.
            if propagation == "Foreground":
                self._release(own, orphan=False)
            last = self._write((plural, namespace, name), None)
            self._release(own, orphan=propagation == "Orphan")
            return last

    def changes_after(self, version: int, deadline: float) -> list[Change]:
        """As soon as there is one; empty at the deadline, of the monotonic clock, and when the store is closed."""
        with self._changed:
            while not self._closed:
                found = [change for change in self._changes if change.version > version]
                if found or not self._changed.wait(max(deadline - time.monotonic(), 0)):
                    return found
            return []

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        found = self._objects.get(("namespaces", "", namespace))
        if namespace and found is None:
            raise not_found(RESOURCES["namespaces"], namespace)
        if found is not None and found.get("status", {}).get("phase") == "Terminating":
            text = f'{resource.in_messages} "{name}" is forbidden: unable to create new content in namespace '
            text += f"{namespace} because it is being terminated"
            raise Refused(403, "Forbidden", text, _details(resource, name))

    def _release(self, owner: str, *, orphan: bool) -> None:
        for (plural, namespace, name), one in list(self._dependents(owner)):
            others = [held for held in one["metadata"]["ownerReferences"] if held["uid"] != owner]
            if others or orphan:
                one["metadata"]["ownerReferences"] = others
                self._write((plural, namespace, name), one)
            else:
                self.delete(plural, name, namespace)

    def _dependents(self, owner: str) -> Iterator[tuple[tuple[str, str, str], Object]]:
        for key, one in self._objects.items():
            if any(held["uid"] == owner for held in one["metadata"].get("ownerReferences", [])):
                yield key, deepcopy(one)

    def _write(self, key: tuple[str, str, str], new: Object | None) -> Object:
        before = self._objects.pop(key, None)
        self.version += 1
        written = deepcopy(before if new is None else new)
        assert written is not None
        written["metadata"]["resourceVersion"] = str(self.version)
        if new is not None:
            self._objects[key] = written
        # What a watch is told of an object that is gone is its last state, with the version of the deletion.
        after = None if new is None else written
        self._changes.append(Change(self.version, key[0], written if new is None else before, after))
        self._changed.notify_all()
        return deepcopy(written)

    @staticmethod
    def _conflict(resource: Resource, word: str, name: str, text: str) -> Refused:
        called = f"{word}.{resource.group}" if resource.group else word
        message = f'Operation cannot be fulfilled on {called} "{name}": {text}'
        return Refused(409, "Conflict", message, _details(resource, name))


def _fill_in_job(job: Object) -> None:
    """What the API server adds to a Job that does not say it."""
    spec, own = job["spec"], job["metadata"]
    job.setdefault("status", {})
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 2**31 - 1 if "backoffLimitPerIndex" in spec else 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": own["uid"]}}
    labels = {"controller-uid": own["uid"], "job-name": own["name"]}
    template = spec["template"].setdefault("metadata", {})
    template["labels"] = {
        **(template.get("labels") or {}),
        **labels,
        **{f"batch.kubernetes.io/{key}": value for key, value in labels.items()},
    }
