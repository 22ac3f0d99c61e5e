"""A container registry on loopback: what `docker push` asks of one, with blobs on disk."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_CHUNK = 2**20


class Registry:
    """
    Attributes:
        address: host and port.
        manifests: digest by name and tag.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests: dict[tuple[str, str], str] = {}
        registry = self

        class Handler(_Handler):
            owner = registry

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Registry

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        if found := re.fullmatch(r"/v2/.+/blobs/(sha256:[0-9a-f]{64})", self.path):
            blob = self._blob(found[1])
            self._answer(200 if blob.exists() else 404, length=blob.stat().st_size if blob.exists() else 0)
        else:
            self._answer(404)

    def do_POST(self) -> None:
        upload = secrets.token_hex(8)
        (self.owner.folder / upload).touch()
        self._answer(202, Location=f"{self.path.split('?')[0]}{upload}", Docker_Upload_UUID=upload)

    def do_PATCH(self) -> None:
        path = self._upload()
        with path.open("ab") as stream:
            self._receive(stream)
        self._answer(202, Location=self.path, Range=f"0-{path.stat().st_size - 1}")

    def do_PUT(self) -> None:
        if found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", self.path):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.owner.manifests[found[1], found[2]] = digest
            self._answer(201, Docker_Content_Digest=digest)
            return
        path, wanted = self._upload(), parse_qs(urlsplit(self.path).query)["digest"][0]
        with path.open("ab") as stream:
            self._receive(stream)
        with path.open("rb") as stream:
            whole = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" == wanted
        if whole:
            path.rename(self._blob(wanted))
        self._answer(201 if whole else 400, Docker_Content_Digest=wanted)

    def log_message(self, *_arguments: object) -> None:
        """Silent."""

    def _upload(self) -> Path:
        return self.owner.folder / urlsplit(self.path).path.rpartition("/")[2]

    def _blob(self, digest: str) -> Path:
        return self.owner.folder / digest.replace(":", "-")

    def _receive(self, stream: Any) -> None:
        """A body of known length, or in chunks."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                stream.write(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            data = self.rfile.read(min(left, _CHUNK))
            stream.write(data)
            left -= len(data)

    def _answer(self, code: int, length: int = 0, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Length", str(length))
        self.end_headers()


@contextmanager
def running_registry(folder: Path) -> Iterator[Registry]:
    folder.mkdir()
    registry = Registry(folder)
    threading.Thread(target=registry.server.serve_forever, daemon=True).start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
