"""A model hub on loopback that speaks what the real client needs: revisions, lists of files, files and their parts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<model>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<model>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<model>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_CHUNK = 64 * 1024


@dataclass
class Repository:
    """
    Attributes:
        token: who shows it may read the files of a gated model.
    """

    files: Mapping[str, bytes]
    branches: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    token: str | None = None


@dataclass
class Hub:
    """
    Attributes:
        address: for HF_ENDPOINT.
        requests: method and path of what was asked, in order; files with their range.
        tokens: every authorization header that came.
        valid_tokens: any other is refused; None looks at none.
        rate: of files (bytes/s); None is as fast as it goes.
        cut_after: connections end in the middle of a file after so many bytes (its beginning does not count);
            used up by the number in `cuts`.
        lie_about_size: added to every size in lists of files.
        sent: bytes of files that went out.
    """

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    valid_tokens: set[str] | None = None
    rate: float | None = None
    cut_after: int = 0
    cuts: int = 0
    down: bool = False
    sent: int = 0

    def add(self, model: str, files: Mapping[str, bytes], token: str | None = None) -> Repository:
        self.repositories[model] = Repository(files, token=token)
        return self.repositories[model]

    def add_folder(self, model: str, folder: Path) -> Repository:
        return self.add(model, {path.name: path.read_bytes() for path in folder.iterdir()})

    def fetched(self, name: str) -> list[str]:
        """Requests for the content of one file."""
        return [one for one in self.requests if one.startswith("GET") and f"/{name}" in one]


@contextmanager
def serve() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_arguments: object) -> None:
        return

    @property
    def _hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self._hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        sent = self.headers.get("Authorization")
        if sent is not None:
            self._hub.tokens.append(sent)
        if self._hub.down:
            self._refuse(503, None, "down")
        elif sent is not None and self._hub.valid_tokens is not None and self._token() not in self._hub.valid_tokens:
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif found := _TREE.fullmatch(path) or _API.fullmatch(path):
            self._describe(found, is_tree="/tree/" in path)
        elif found := _FILE.fullmatch(path):
            self._give(found, with_body)
        else:
            self._refuse(404, "RepoNotFound", "no such page")

    def _find(self, found: re.Match[str]) -> tuple[Repository, str] | None:
        """Repository and commit; None after a refusal."""
        repository = self._hub.repositories.get(found["model"])
        if repository is None:
            # Without a token the real hub does not say whether it is there.
            self._refuse(404 if self._token() else 401, "RepoNotFound", "Repository not found")
            return None
        revision = found["revision"] or "main"
        commit = revision if revision in repository.branches.values() else repository.branches.get(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return None
        return repository, commit

    def _describe(self, found: re.Match[str], *, is_tree: bool) -> None:
        place = self._find(found)
        if place is None:
            return
        repository, commit = place
        if not is_tree:
            files = [{"rfilename": name} for name in repository.files]
            self._send_json({"id": found["model"], "modelId": found["model"], "sha": commit, "siblings": files})
            return
        self._send_json(
            [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in repository.files.items()
            ]
        )

    def _give(self, found: re.Match[str], with_body: bool) -> None:
        place = self._find(found)
        if place is None:
            return
        repository, commit = place
        if repository.token is not None and self._token() != repository.token:
            self._refuse(403 if self._token() else 401, "GatedRepo", "Access to this model is restricted")
            return
        data = repository.files.get(found["name"])
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(data) - start),
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._end_headers(headers)
        if with_body:
            self._send_slowly(data[start:])

    def _send_slowly(self, data: bytes) -> None:
        hub = self._hub
        end = len(data)
        if hub.cuts and len(data) > hub.cut_after:
            hub.cuts -= 1
            end = hub.cut_after
            self.close_connection = True
        with suppress(ConnectionError):
            for start in range(0, end, _CHUNK):
                chunk = data[start : min(start + _CHUNK, end)]
                self.wfile.write(chunk)
                hub.sent += len(chunk)
                if hub.rate is not None:
                    time.sleep(len(chunk) / hub.rate)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _refuse(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        more = {} if code is None else {"X-Error-Code": code}
        self._end_headers({"X-Error-Message": message, "Content-Length": "0", **more, **(headers or {})})

    def _send_json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self._end_headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _end_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
