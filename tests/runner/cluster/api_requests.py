"""Answers of the Kubernetes API."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.runner.cluster.api_paths import Request, parse
from tests.runner.cluster.object_store import OPERATORS, RESOURCES, Object, Refused, Resource, not_found

if TYPE_CHECKING:
    from tests.runner.cluster.api_server import ApiServer

_MERGES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_WATCH_S = 300.0
# What the server answers a deletion of these with; with a Status for everything else.
_DELETED_AS_OBJECTS = ("pods", "persistentvolumeclaims", "resourcequotas")
_WITH_STATUS = ("pods", "jobs")


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, api: ApiServer, *args: Any) -> None:
        self._api = api
        super().__init__(*args)

    def setup(self) -> None:
        super().setup()
        self._api.connected(self.connection)

    def finish(self) -> None:
        self._api.disconnected(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_PATCH(self) -> None:
        self._answer("patch")

    def do_PUT(self) -> None:
        self._answer("update")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def _answer(self, verb: str) -> None:
        # Read in any case: the next request on this connection begins after it.
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            path = urlsplit(self.path).path.rstrip("/")
            if path == "/version":
                self._send(200, _version(self._api.git_version))
                return
            if path == "/apis":
                self._send(200, _groups(self._api.groups))
                return
            address = _as_stored(self.path, self._api.groups)
            request = parse(verb, address, raw, self.headers.get("Authorization") or "")
            self._api.check(request)
            _DO[request.verb](self, request)
        except Refused as refused:
            self._send(refused.code, refused.status(), refused.retry_after_s)
        except ConnectionError:
            self.close_connection = True
        except Exception:  # noqa: BLE001 - a test is to see what went wrong in here
            self._send(500, Refused(500, "InternalError", traceback.format_exc()).status())

    def _get(self, request: Request) -> None:
        self._allow(request, "get")
        found = self._api.store.get(request.plural, request.name.split(":")[0], request.namespace)
        if (request.plural, request.subresource) == ("pods", "log"):
            self._send_bytes(200, self._log(request, found), "text/plain")
        elif (request.plural, request.subresource) == ("pods", "proxy"):
            self._send_proxied(request, found)
        elif request.subresource:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        else:
            self._send(200, self._api.store.get(request.plural, request.name, request.namespace))

    def _log(self, request: Request, pod: Object) -> bytes:
        main = [one["name"] for one in pod["spec"]["containers"]]
        init = [one["name"] for one in pod["spec"].get("initContainers", [])]
        container = request.query.get("container") or (main[0] if len(main) == 1 else "")
        if not container:
            text = f"a container name must be specified for pod {request.name}, choose one of: [{' '.join(main)}]"
            text += f" or one of the init containers: [{' '.join(init)}]" if init else ""
            raise Refused(400, "BadRequest", text)
        if container not in main + init:
            raise Refused(400, "BadRequest", f"container {container} is not valid for pod {request.name}")
        status = pod["status"]
        for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            if one["name"] == container and "waiting" in one["state"]:
                why = one["state"]["waiting"]["reason"]
                text = f'container "{container}" in pod "{request.name}" is waiting to start: {why}'
                raise Refused(400, "BadRequest", text)
        lines = self._api.logs.get((request.name, container), [])
        tail = request.query.get("tailLines")
        kept = lines if tail is None else lines[len(lines) - min(int(tail), len(lines)) :]
        return "".join(f"{line}\n" for line in kept).encode()

    def _send_proxied(self, request: Request, pod: Object) -> None:
        folder = self._api.proxied.get(request.name) or self._api.proxied.get("*")
        if "podIP" not in pod["status"]:
            raise Refused(400, "BadRequest", "address not allowed")
        if pod["status"].get("phase") != "Running":
            raise Refused(503, "ServiceUnavailable", "error trying to reach service: dial tcp: connection refused")
        path = None if folder is None else (folder / request.rest).resolve()
        if folder is None or path is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
            # The pod's own answer, not the API's.
            self._send_bytes(404, b"not found\n", "text/plain")
        else:
            self._send_bytes(200, path.read_bytes(), "application/octet-stream")

    def _list(self, request: Request) -> None:
        resource = self._allow(request, "list")
        chosen = request.selects()
        with self._api.store.lock:
            # As the real server: nobody asks whether there is such a namespace.
            items = [one for one in self._api.store.all(request.plural, request.namespace or None) if chosen(one)]
            version = str(self._api.store.version)
        for one in items:
            # As the real server: the list says it once.
            del one["kind"], one["apiVersion"]
        about = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        self._send(200, {**about, "metadata": {"resourceVersion": version}, "items": items})

    def _watch(self, request: Request) -> None:
        self._allow(request, "watch")
        chosen, store = request.selects(), self._api.store
        deadline = time.monotonic() + float(request.query.get("timeoutSeconds") or _WATCH_S)
        since = int(request.query.get("resourceVersion") or 0)
        with store.lock:
            present = (
                [] if since else [one for one in store.all(request.plural, request.namespace or None) if chosen(one)]
            )
            gone = since and since < store.horizon
            horizon, since = store.horizon, since or store.version
        stream = _Stream(self)
        if gone:
            text = f"too old resource version: {since} ({horizon})"
            stream.send({"type": "ERROR", "object": Refused(410, "Expired", text).status()})
            stream.end()
            return
        alive = all(stream.send({"type": "ADDED", "object": one}) for one in present if chosen(one))
        while alive:
            changes = store.changes_after(since, deadline)
            if not changes:
                stream.end()
                return
            for change in changes:
                since = change.version
                if change.plural != request.plural:
                    continue
                event = _event(change.before, change.after, request.namespace, chosen)
                if event is not None and not stream.send(event):
                    return

    def _create(self, request: Request) -> None:
        self._allow(request, "create")
        if request.plural == "selfsubjectaccessreviews":
            allowed = self._api.may(request.body.get("spec", {}).get("resourceAttributes", {}))
            self._send(201, {**request.body, "status": {"allowed": allowed}})
            return
        body = dict(request.body)
        stated = body.get("metadata", {}).get("namespace", request.namespace)
        if stated != request.namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise Refused(400, "BadRequest", text)
        if request.plural in _WITH_STATUS:
            body.pop("status", None)
        dry_run = request.query.get("dryRun") == "All"
        self._send(201, self._api.store.add(request.plural, body, request.namespace, dry_run=dry_run))

    def _patch(self, request: Request) -> None:
        self._allow(request, "patch")
        if self.headers.get("Content-Type", "").split(";")[0] not in _MERGES:
            text = "the body of the request was in an unknown format - accepted media types include: "
            raise Refused(415, "UnsupportedMediaType", text + ", ".join(_MERGES))
        if request.subresource not in ("", "status"):
            raise Refused(404, "NotFound", "the server could not find the requested resource")

        def merged(one: Object) -> None:
            body = dict(request.body)
            if request.subresource == "status":
                body = {"status": body.get("status", {})}
            elif request.plural in _WITH_STATUS:
                body.pop("status", None)
            _merge(one, body)

        self._send(200, self._api.store.update(request.plural, request.name, request.namespace, merged))

    def _delete(self, request: Request) -> None:
        resource = self._allow(request, "delete")
        body = request.body
        # Of Jobs, and of nothing else, the dependents stay where the request does not say.
        usual = "Orphan" if request.plural == "jobs" else "Background"
        propagation = body.get("propagationPolicy") or request.query.get("propagationPolicy") or usual
        uid = (body.get("preconditions") or {}).get("uid")
        gone = self._api.store.delete(request.plural, request.name, request.namespace, uid=uid, propagation=propagation)
        if request.plural in _DELETED_AS_OBJECTS:
            self._send(200, gone)
            return
        details = {
            "name": request.name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": gone["metadata"]["uid"],
        }
        about = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
        self._send(200, {**about, "status": "Success", "details": details})

    def _refuse(self, request: Request) -> None:
        self._allow(request, request.verb)

    def _allow(self, request: Request, verb: str) -> Resource:
        """
        Raises:
            Refused: the resource has no such verb, or this path none.
        """
        resource = RESOURCES[request.plural]
        reviewed = (request.plural, verb) == ("selfsubjectaccessreviews", "create")
        collection = verb in ("list", "watch", "create")
        if not (reviewed or verb in resource.verbs) or (not collection and not request.name):
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if resource.namespaced != bool(request.namespace) and not (resource.namespaced and verb in ("list", "watch")):
            raise not_found(resource, request.name)
        return resource

    def _send(self, code: int, answer: Object, retry_after_s: int | None = None) -> None:
        extra = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        self._send_bytes(code, json.dumps(answer).encode(), "application/json", extra)

    def _send_bytes(self, code: int, body: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


_DO: dict[str, Callable[[Handler, Request], None]] = {
    "get": Handler._get,
    "list": Handler._list,
    "watch": Handler._watch,
    "create": Handler._create,
    "patch": Handler._patch,
    "delete": Handler._delete,
    "update": Handler._refuse,
}


class _Stream:
    """A watch's answer, a chunk for each event."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._sent = 0
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()

    def send(self, event: Object) -> bool:
        """Whether the stream goes on: a test may have it dropped."""
        line = json.dumps(event).encode() + b"\n"
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self._sent += 1
        api = self._handler._api
        if api.drop_after is None or self._sent < api.drop_after:
            return True
        if api.drop_cleanly:
            self.end()
        else:
            self._handler.close_connection = True
        return False

    def end(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")


def _event(
    before: Object | None, after: Object | None, namespace: str, chosen: Callable[[Object], bool]
) -> Object | None:
    """What a watch is told of a change; None where it is not of what it watches."""

    def seen(one: Object | None) -> bool:
        return one is not None and namespace in ("", one["metadata"].get("namespace")) and chosen(one)

    if seen(after):
        return {"type": "MODIFIED" if seen(before) else "ADDED", "object": after}
    if not seen(before):
        return None
    # An object that has left the selection is shown as it was, with the version of the change.
    last = before if after is None else {**(before or {}), "metadata": {**(before or {})["metadata"]}}
    assert last is not None
    if after is not None:
        last["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"]
    return {"type": "DELETED", "object": last}


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _version(git_version: str) -> Object:
    major, minor = git_version.removeprefix("v").split(".")[:2]
    unknown = ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")
    return {"major": major, "minor": minor, "gitVersion": git_version, **dict.fromkeys(unknown, "unknown")}


def _groups(operators: dict[str, str]) -> Object:
    own = {one.group: "v1" for one in RESOURCES.values() if one.group and one.group not in OPERATORS}
    groups = []
    for name, version in {**own, **operators}.items():
        named = {"groupVersion": f"{name}/{version}", "version": version}
        groups.append({"name": name, "versions": [named], "preferredVersion": named})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _as_stored(address: str, operators: dict[str, str]) -> str:
    """With the version that the store has. What no operator has brought is nowhere."""
    for group in OPERATORS:
        asked = f"/apis/{group}/"
        if address.startswith(asked):
            version, _, rest = address.removeprefix(asked).partition("/")
            return f"{asked}v1/{rest}" if version == operators.get(group) else f"{asked}nothing"
    return address
