"""A network that fails: connections are refused, cut while data goes out, or broken before the answer arrives."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal["refused", "cut", "answer lost"]
_FAULTS: tuple[Fault, ...] = ("refused", "cut", "answer lost")


class FlakyProxy:
    """
    Args:
        port: on loopback, of who really answers.
        share: of connections that fail in one of the ways.

    Attributes:
        faults: how often each happened.
    """

    def __init__(self, port: int, share: float, seed: int) -> None:
        self._target, self._share = port, share
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.faults: Counter[Fault] = Counter()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self._draw()), daemon=True).start()

    def _draw(self) -> Fault | None:
        with self._lock:
            fault = self._random.choice(_FAULTS) if self._random.random() < self._share else None
            if fault is not None:
                self.faults[fault] += 1
            return fault

    def _serve(self, client: socket.socket, fault: Fault | None) -> None:
        with _shut(client), suppress(OSError):
            if fault == "refused":
                return
            if fault == "cut":
                client.recv(200)  # the server, which may take half a request for a whole one, sees nothing of it
                return
            with _shut(socket.create_connection(("127.0.0.1", self._target))) as server:
                threading.Thread(target=_copy, args=(client, server), daemon=True).start()
                first = server.recv(65536)
                if fault == "answer lost":
                    return
                client.sendall(first)
                _copy(server, client)


@contextmanager
def _shut(end: socket.socket) -> Iterator[socket.socket]:
    """Closes it for whoever else waits for it, too."""
    with closing(end):
        try:
            yield end
        finally:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def flaky(port: int, share: float, seed: int) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(port, share, seed)
    try:
        yield proxy
    finally:
        proxy.close()
