"""A Kubernetes API over HTTP on loopback, in memory, for the official client to speak to."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import product
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any

import yaml

from tests.runner.cluster.api_paths import Request
from tests.runner.cluster.api_requests import Handler
from tests.runner.cluster.object_store import RESOURCES, Object, Refused, Store

_USER = "tester"
_FOR_ALL = ("selfsubjectaccessreviews",)
"""What every user may ask for."""
_REASONS = {
    400: "BadRequest",
    403: "Forbidden",
    409: "Conflict",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass
class _Fault:
    code: int
    verb: str
    resource: str
    times: int
    message: str
    retry_after_s: int | None


class ApiServer:
    """One that runs.

    Attributes:
        store: what it holds, to look at and to put things into that no client may write, as nodes.
        requests: (verb, resource, name) of every request since the start. A subresource is part of the resource, as
            ``pods/log``; the name is empty for a list and a watch.
        denied: (verb, resource) that the user may not do.
        groups: of kinds that an operator brings, with the version that they are served as.
        logs: lines of the output of a (pod, container).
        proxied: folder behind a pod's port, as ``pod:8080``; ``*`` for every pod and port.
        token: which a request must bring; None for none.
        git_version: what /version says.
    """

    def __init__(self, token: str | None = None) -> None:
        self.store = Store()
        self.requests: list[tuple[str, str, str]] = []
        self.denied: set[tuple[str, str]] = set()
        self.groups: dict[str, str] = {}
        self._allowed: set[tuple[str, str, str]] | None = None
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.proxied: dict[str, Path] = {}
        self.token = token
        self.git_version = "v1.36.0"
        self.drop_after: int | None = None
        self.drop_cleanly = False
        self._faults: list[_Fault] = []
        self._connections: set[socket] = set()
        self._server = self._listen(0)
        self._port = int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def objects(self, plural: str, namespace: str | None = None) -> list[Object]:
        """As the store holds them, by name: ``objects("jobs")``."""
        return self.store.all(plural, namespace)

    def kubeconfig(self, path: Path, namespace: str) -> Path:
        """Write a kubeconfig file for this server, and return its path."""
        user = {} if self.token is None else {"token": self.token}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": _USER, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": _USER, "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def allow_only(self, rules: Iterable[tuple[str, Iterable[str], Iterable[str]]]) -> None:
        """What a Role with these rules allows: group, resources and verbs of each; and what everybody may."""
        self._allowed = {
            (group, resource, verb)
            for group, resources, verbs in rules
            for resource, verb in product(tuple(resources), tuple(verbs))
        }

    def answer(
        self,
        code: int,
        verb: str,
        resource: str,
        times: int = 1,
        *,
        message: str = "so the test wants it",
        retry_after_s: int | None = None,
    ) -> None:
        """Refuse the next requests of that verb and resource with `code`."""
        self._faults.append(_Fault(code, verb, resource, times, message, retry_after_s))

    def drop_watches(self, after: int | None, *, cleanly: bool = False) -> None:
        """End every watch after that many events; None for never. Not cleanly: in the middle of the stream."""
        self.drop_after, self.drop_cleanly = after, cleanly

    def expire_watches(self) -> None:
        """A watch from any version before the present one is gone."""
        with self.store.lock:
            self.store.version += 1
            self.store.horizon = self.store.version

    def drop_connections(self) -> None:
        """Cut every connection that is open."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens meanwhile, and what was connected is cut."""
        self._stop()
        try:
            yield
        finally:
            self._server = self._listen(self._port)

    def check(self, request: Request) -> None:
        """
        Raises:
            Refused: by a fault that is set, by the token, or because the user may not do it.
        """
        what = request.resource_name
        self.requests.append((request.verb, what, request.name))
        for fault in self._faults:
            if fault.times > 0 and (fault.verb, fault.resource) == (request.verb, what):
                fault.times -= 1
                reason = _REASONS.get(fault.code, "Unknown")
                raise Refused(fault.code, reason, fault.message, retry_after_s=fault.retry_after_s)
        if self.token is not None and request.token != self.token:
            raise Refused(401, "Unauthorized", "Unauthorized")
        if not self._is_allowed(RESOURCES[request.plural].group, what, request.verb):
            raise _forbidden(request)

    def may(self, attributes: dict[str, Any]) -> bool:
        """Whether the user may do what a review asks about."""
        parts = (attributes.get("resource", ""), attributes.get("subresource", ""))
        resource = "/".join(part for part in parts if part)
        return self._is_allowed(attributes.get("group", ""), resource, attributes.get("verb", ""))

    def _is_allowed(self, group: str, resource: str, verb: str) -> bool:
        if (verb, resource) in self.denied:
            return False
        return self._allowed is None or resource in _FOR_ALL or (group, resource, verb) in self._allowed

    def connected(self, connection: socket) -> None:
        self._connections.add(connection)

    def disconnected(self, connection: socket) -> None:
        self._connections.discard(connection)

    def close(self) -> None:
        self.store.close()
        self._stop()

    def _listen(self, port: int) -> _HttpServer:
        server = _HttpServer(("127.0.0.1", port), partial(Handler, self))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.drop_connections()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to print."""


def _forbidden(request: Request) -> Refused:
    resource = RESOURCES[request.plural]
    named = f' "{request.name}"' if request.name else ""
    where = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    text = f'{resource.in_messages}{named} is forbidden: User "{_USER}" cannot {request.verb} resource '
    text += f'"{request.resource_name}" in API group "{resource.group}" {where}'
    return Refused(403, "Forbidden", text, {"name": request.name, "kind": request.plural})


@contextmanager
def running_api_server(*namespaces: str, token: str | None = None) -> Iterator[ApiServer]:
    """With these namespaces, or ``bench`` and ``default`` where none is named."""
    api = ApiServer(token)
    for name in namespaces or ("bench", "default"):
        api.store.add("namespaces", {"metadata": {"name": name}, "status": {"phase": "Active"}})
    try:
        yield api
    finally:
        api.close()
