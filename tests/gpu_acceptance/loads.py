"""Work for the GPU that can be turned on and off: matrix products in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from images.contract.gpus import VISIBLE_DEVICES
from tests.gpu_acceptance.rows import tell

_PATIENCE_S = 10.0


class NeedsCuda(Exception):
    """There is nothing that could compute on the GPU; the text says why."""


class Load(Protocol):
    """Work that keeps the GPU evenly busy while it is on."""

    def on(self) -> None:
        """Return when the GPU is busy."""
        ...

    def off(self) -> None:
        """Return when the GPU has nothing left to do."""
        ...


class _Matmul:
    """The child process `tests.gpu_acceptance.matmul`; it ends when its standard input does."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders, self._answers = orders, answers

    def on(self) -> None:
        self._order("on")

    def off(self) -> None:
        self._order("off")

    def _order(self, order: str) -> None:
        try:
            self._orders.write(f"{order}\n")
            self._orders.flush()
        except BrokenPipeError:
            raise NeedsCuda("the process with the load has ended") from None
        self.expect(order)

    def expect(self, wanted: str) -> None:
        answer = self._answers.readline().strip()
        if answer != wanted:
            raise NeedsCuda(answer or "the process with the load has ended")


@contextmanager
def matmul_load(uuid: str) -> Iterator[Load]:
    """Matrix products on one GPU, off at first. The process is gone at the end, whatever happened.

    Raises:
        NeedsCuda: this Python has no torch, or one that does not reach the GPU.
    """
    tell("starting a process for the load")
    environment = {**os.environ, VISIBLE_DEVICES: uuid}
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu_acceptance.matmul"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdin
        assert child.stdout
        load = _Matmul(child.stdin, child.stdout)
        load.expect("ready")
        yield load
    finally:
        # Not Popen's own end: it would wait without limit.
        try:
            child.communicate(timeout=_PATIENCE_S)
        except BaseException:
            child.kill()
            child.wait()
            raise
