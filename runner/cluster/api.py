"""The API server, as far as a study needs it. Nothing else here knows the Kubernetes client."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any, Literal, TypeAlias

from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.utils.quantity import parse_quantity
from urllib3.exceptions import HTTPError

from runner.cluster import names
from runner.cluster.kubeconfig import read_kubeconfig
from runner.launchers import EngineAway, LaunchFailed, LaunchImpossible

Object: TypeAlias = dict[str, Any]
"""As the API has it, in JSON's terms."""
Kind = Literal["Job", "ConfigMap", "Pod"]
Change: TypeAlias = tuple[str, Object]
"""ADDED, MODIFIED or DELETED, and the object."""
LookedAt = Literal[
    "persistentvolumeclaims",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "localqueues",
    "nodes",
    "priorityclasses",
]

_PLURALS = {"Job": "jobs", "ConfigMap": "configmaps", "Pod": "pods"}
_CONNECT_S, _ANSWER_S = 5.0, 60.0
_REFUSED, _UNKNOWN_USER, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404
_CONFLICT, _GONE, _INVALID, _BUSY = 409, 410, 422, 429
_CONFLICT_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
_NO_RIGHT = re.compile(r'\bcannot \S+ resource "')
"""Of a 403: no rights. Everything else that answers 403 could, and would not."""
_GOING = "because it is being terminated"
_NO_TRIAL = "does not support dry run"
_KUEUE = "kueue.x-k8s.io"


class TooOld(Exception):
    """What was asked to be watched from is forgotten; list anew."""


class PodGone(EngineAway):
    """The pod that was to be spoken to is not there."""


class AtQuota(LaunchImpossible):
    """There is no room for it now."""


class NoTrial(LaunchFailed):
    """The cluster cannot say what it would do, only do it."""


def quantity(written: str | int) -> Decimal:
    """As Kubernetes writes amounts: ``500m``, ``16Gi``, ``4``.

    Raises:
        ValueError: it is none.
    """
    return Decimal(parse_quantity(written))


class Api:
    """
    Args:
        namespace: None is the kubeconfig's, or inside of a cluster the service account's.

    Raises:
        LaunchImpossible: there is no kubeconfig, or it cannot be used.
    """

    def __init__(self, namespace: str | None) -> None:
        configuration = client.Configuration()
        own = read_kubeconfig(configuration)
        self.namespace = namespace or own or "default"
        self.server = str(configuration.host)
        configuration.retries = False
        api = client.ApiClient(configuration)
        core, batch = client.CoreV1Api(api), client.BatchV1Api(api)
        self._core, self._batch = core, batch
        self._reviews = client.AuthorizationV1Api(api)
        self._groups, self._customs = client.ApisApi(api), client.CustomObjectsApi(api)
        self._priorities = client.SchedulingV1Api(api)
        self._apis: dict[str, Any] = {"Job": batch, "ConfigMap": core, "Pod": core}

    def require_namespace(self) -> None:
        """Nothing is made. A list does not show it: of a namespace that does not exist it is empty.

        Raises:
            LaunchFailed: it is not there, or it is going away, or the cluster cannot be used.
        """
        probe = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"generateName": f"{names.APP}-", "labels": {"app.kubernetes.io/name": names.APP}},
        }
        with self._failing("create", _PLURALS["ConfigMap"]):
            try:
                self._called("ConfigMap", "create", body=probe, dry_run="All")
            except ApiException as error:
                # Whoever may not, or whom something else refuses this one, has learned nothing of the namespace.
                if error.status not in (_REFUSED, _FORBIDDEN, _CONFLICT, _INVALID) or _GOING in _said(error):
                    raise

    def create(self, manifest: Mapping[str, Any]) -> Object | None:
        """The new object; None if there is one of that name."""
        kind = manifest["kind"]
        for pause_s in (*_CONFLICT_PAUSES_S, None):
            with self._failing("create", _PLURALS[kind]):
                try:
                    return self._called(kind, "create", body=dict(manifest))
                except ApiException as error:
                    if error.status == _CONFLICT and _status(error).get("reason") == "AlreadyExists":
                        return None
                    # Two at once were counted against a quota, and one of them has to ask again.
                    if error.status != _CONFLICT or pause_s is None:
                        raise
            time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def tried(self, manifest: Mapping[str, Any]) -> Object:
        """The object as the cluster would make it. Nothing is made.

        Raises:
            AtQuota: there is no room for it now.
            NoTrial: something in the cluster cannot be asked beforehand.
            LaunchFailed: the cluster would not take it, or cannot be used.
        """
        kind = manifest["kind"]
        with self._failing("create", _PLURALS[kind]):
            try:
                return self._called(kind, "create", body=dict(manifest), dry_run="All")
            except ApiException as error:
                if error.status == _CONFLICT and _status(error).get("reason") == "AlreadyExists":
                    return dict(manifest)
                raise

    def get(self, kind: Kind, name: str) -> Object | None:
        """None if it is not there."""
        with self._failing("get", _PLURALS[kind]):
            try:
                return self._called(kind, "read", name=name)
            except ApiException as error:
                if error.status == _NOT_FOUND:
                    return None
                raise

    def delete(self, kind: Kind, name: str, uid: str, *, orphans: bool = False) -> None:
        """Only the one that was meant, and nothing if that is gone.

        Args:
            orphans: what belongs to it stays; else it goes, too.
        """
        policy = "Orphan" if orphans else "Background"
        body = client.V1DeleteOptions(propagation_policy=policy, preconditions=client.V1Preconditions(uid=uid))
        with self._failing("delete", _PLURALS[kind]):
            try:
                self._called(kind, "delete", name=name, body=body)
            except ApiException as error:
                if error.status not in (_NOT_FOUND, _CONFLICT):
                    raise

    def find(self, kind: Kind, selector: str) -> tuple[list[Object], str]:
        """What there is, and the version to watch from."""
        with self._failing("list", _PLURALS[kind]):
            found = self._called(kind, "list", label_selector=selector)
        return found["items"], found["metadata"]["resourceVersion"]

    def changes(self, kind: Kind, selector: str, version: str, seconds: int) -> Iterator[Change]:
        """What changes after `version`, until the server ends it.

        Raises:
            TooOld: the server has forgotten that version.
        """
        method = getattr(self._apis[kind], f"list_namespaced_{_SNAKE[kind]}")
        with self._failing("watch", _PLURALS[kind]):
            try:
                for event in watch.Watch().stream(
                    method,
                    self.namespace,
                    label_selector=selector,
                    resource_version=version,
                    timeout_seconds=seconds,
                    _request_timeout=(_CONNECT_S, seconds + _ANSWER_S),
                ):
                    yield event["type"], event["raw_object"]
            except ApiException as error:
                if error.status == _GONE:
                    raise TooOld from None
                raise

    def log_tail(self, pod: str, container: str, lines: int) -> list[str]:
        """The last lines that a container wrote; nothing if there are none any more."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, tail_lines=lines, _preload_content=False, **_TIMEOUT
            )
            return str(answer.data.decode("utf-8", "replace")).splitlines()
        except (ApiException, HTTPError, OSError):
            return []

    def events_of(self, name: str) -> list[Object]:
        """What the cluster says of one object of ours; nothing if nobody may read it."""
        selector = f"involvedObject.name={name}"
        try:
            answer = self._core.list_namespaced_event(
                self.namespace, field_selector=selector, _preload_content=False, **_TIMEOUT
            )
            found: list[Object] = json.loads(answer.data)["items"]
            return found
        except (ApiException, HTTPError, OSError):
            return []

    def read_from_pod(self, pod: str, port: int, path: str) -> bytes | None:
        """A file that a pod serves over HTTP, through the API server; None if it has none such.

        Raises:
            PodGone: the pod is not there.
            LaunchFailed: it cannot be spoken to.
        """
        with self._failing("get", "pods/proxy"):
            try:
                answer = self._core.connect_get_namespaced_pod_proxy_with_path(
                    f"{pod}:{port}", self.namespace, path, _preload_content=False, **_TIMEOUT
                )
                return bytes(answer.data)
            except ApiException as error:
                is_the_servers = _status(error).get("kind") == "Status"
                if error.status == _NOT_FOUND and not is_the_servers:
                    return None
                if error.status == _NOT_FOUND:
                    raise PodGone(f"the pod {pod} is not there any more.", "Run again.") from None
                if error.status == _REFUSED and is_the_servers:
                    raise EngineAway(
                        f"the pod {pod} has no address yet ({_said(error)}).", "Run again later."
                    ) from None
                raise

    def look(self, plural: LookedAt, name: str | None = None) -> list[Object] | None:
        """What there is of a kind that a study only looks at, or of that name; None where that is not allowed."""
        chosen = {} if name is None else {"field_selector": f"metadata.name={name}"}
        with self._failing("list", plural):
            try:
                listed = self._listing(plural)
                if listed is None:
                    return []
                answer = listed(**chosen, _preload_content=False, **_TIMEOUT)
            except ApiException as error:
                if error.status == _FORBIDDEN:
                    return None
                raise
        found: list[Object] = json.loads(answer.data)["items"]
        return found

    def _listing(self, plural: LookedAt) -> Callable[..., Any] | None:
        """How to list them; None if the cluster does not know the kind."""
        if plural == "localqueues":
            known = json.loads(self._groups.get_api_versions(_preload_content=False, **_TIMEOUT).data)["groups"]
            version = next((one["preferredVersion"]["version"] for one in known if one["name"] == _KUEUE), None)
            custom = self._customs.list_namespaced_custom_object
            return None if version is None else partial(custom, _KUEUE, version, self.namespace, plural)
        methods: dict[str, Callable[..., Any]] = {
            "nodes": self._core.list_node,
            "priorityclasses": self._priorities.list_priority_class,
            "persistentvolumeclaims": partial(self._core.list_namespaced_persistent_volume_claim, self.namespace),
            "resourcequotas": partial(self._core.list_namespaced_resource_quota, self.namespace),
            "secrets": partial(self._core.list_namespaced_secret, self.namespace),
            "serviceaccounts": partial(self._core.list_namespaced_service_account, self.namespace),
        }
        return methods[plural]

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this user may do that in the namespace; a subresource stands after a slash."""
        name, _, sub = resource.partition("/")
        asked = client.V1ResourceAttributes(
            namespace=self.namespace, verb=verb, group=group, resource=name, subresource=sub or None
        )
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=asked)
        with self._failing("create", "selfsubjectaccessreviews"):
            review = self._reviews.create_self_subject_access_review(client.V1SelfSubjectAccessReview(spec=spec))
            return bool(review.status.allowed)

    def _called(self, kind: str, verb: str, **arguments: Any) -> Object:
        method = getattr(self._apis[kind], f"{verb}_namespaced_{_SNAKE[kind]}")
        answer = method(namespace=self.namespace, _preload_content=False, **_TIMEOUT, **arguments)
        found: Object = json.loads(answer.data)
        return found

    @contextmanager
    def _failing(self, verb: str, resource: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._explained(error, verb, resource) from None
        except (HTTPError, OSError) as error:
            raise EngineAway(
                f"the cluster at {self.server} does not answer ({_first_line(error)}).",
                "Check the network, VPN and kubeconfig; what runs there goes on, and running again takes it up.",
            ) from None

    def _explained(self, error: ApiException, verb: str, resource: str) -> LaunchFailed:
        said = _said(error)
        if error.status == _UNKNOWN_USER:
            return LaunchImpossible(f"the cluster at {self.server} does not know you ({said}).", "Log in again.")
        if error.status == _FORBIDDEN:
            return self._forbidden(said, verb, resource)
        if error.status == _NOT_FOUND and "namespaces" in said:
            return LaunchImpossible(
                f"there is no namespace {self.namespace} at {self.server}.", "Correct kubernetes.namespace."
            )
        if _NO_TRIAL in said:
            return NoTrial(f"the cluster cannot try it out: {said}.", "Its first pod shows what it takes.")
        if error.status in (_INVALID, _REFUSED):
            return LaunchImpossible(f"the cluster refuses a manifest: {said}.", "Correct the section kubernetes.")
        if error.status in (_CONFLICT, _BUSY) or (error.status or 0) >= 500:
            return EngineAway(f"the cluster at {self.server} cannot answer now ({said}).", "Run again later.")
        return LaunchFailed(f"the cluster at {self.server} answers {error.status}: {said}.", "Look at its API server.")

    def _forbidden(self, said: str, verb: str, resource: str) -> LaunchFailed:
        if _NO_RIGHT.search(said):
            return LaunchImpossible(
                f"you may not {verb} {resource} in the namespace {self.namespace}.",
                "Ask for the Role that `runner render --rbac` prints.",
            )
        if "exceeded quota" in said:
            return AtQuota(
                f"the namespace {self.namespace} is at its quota: {said}.", "Wait for room, or ask for a larger quota."
            )
        if _GOING in said:
            return LaunchImpossible(
                f"the namespace {self.namespace} at {self.server} is being removed.",
                "Correct kubernetes.namespace, or wait until it is gone and make it anew.",
            )
        return LaunchImpossible(
            f"the namespace {self.namespace} does not take it: {said}.",
            "Correct the section kubernetes, or ask who runs the cluster.",
        )


_SNAKE = {"Job": "job", "ConfigMap": "config_map", "Pod": "pod"}
_TIMEOUT: dict[str, Any] = {"_request_timeout": (_CONNECT_S, _ANSWER_S)}


def _said(error: ApiException) -> str:
    """The server's own words, in one line."""
    return " ".join(str(_status(error).get("message") or error.reason).split()).rstrip(".")


def _status(error: ApiException) -> Object:
    """The Status that the API server answers with; empty where the answer is somebody else's."""
    try:
        body = json.loads(error.body)
    except (TypeError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200].rstrip(".")
