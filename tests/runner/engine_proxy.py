"""A way to the Docker engine that can be taken away and given back, as an engine that is upgraded is."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

_ENGINE = "/var/run/docker.sock"


class EngineProxy:
    """Stands between a client and the real engine.

    Attributes:
        address: for DOCKER_HOST.
    """

    def __init__(self) -> None:
        self._listen(0)
        self._port: int = self._server.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"

    def die(self) -> None:
        """Nobody listens any more, and open connections break."""
        for end in (self._server, *self._open):
            with closing(end):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def come_back(self) -> None:
        self._listen(self._port)

    def _listen(self, port: int) -> None:
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(_ENGINE)
            self._open += [client, engine]
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return
