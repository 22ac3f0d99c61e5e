"""What the processes of an experiment tell of their running work, in memory that they share.

Neither side waits for the other, and nothing goes through a pipe or a disk: each process writes three numbers of its
own, the coordinator adds them up.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from images.harness.progress import INTERVAL_S, Live, Look

_FIELDS = 3
_BYTES = 8


class Board:
    """A row of three float64 per process: time, tokens, power; NaN is not known.

    A number is written and read whole (it is aligned); the three of a row may be of different moments.

    Args:
        descriptor: of memory that `create` made, here or in the parent process.
    """

    def __init__(self, descriptor: int, rows: int) -> None:
        self.descriptor = descriptor
        self._rows = rows
        self._values = memoryview(mmap.mmap(descriptor, rows * _FIELDS * _BYTES)).cast("d")

    @classmethod
    def create(cls, rows: int) -> Self:
        """An empty board. Its descriptor has to be closed."""
        descriptor = os.memfd_create("progress")
        os.ftruncate(descriptor, rows * _FIELDS * _BYTES)
        board = cls(descriptor, rows)
        for at in range(rows * _FIELDS):
            board._values[at] = math.nan
        return board

    def put(self, row: int, live: Live) -> None:
        at = row * _FIELDS
        self._values[at + 1] = _number(live.output_tokens)
        self._values[at + 2] = _number(live.power_w)
        self._values[at] = live.at_s

    def total(self) -> Live | None:
        """Tokens and power of all processes, at the mean of their times; None until each has told something."""
        times, tokens, power = (list(map(float, self._values[field::_FIELDS])) for field in range(_FIELDS))
        if any(map(math.isnan, times)):
            return None
        output_tokens, power_w = _sum(tokens), _sum(power)
        return Live(math.fsum(times) / self._rows, None if output_tokens is None else int(output_tokens), power_w)


class RankProgress:
    """`Progress` of one process: phases are said, the rest stands on the board.

    Args:
        say_phase: passes a phase on to the coordinator.
    """

    def __init__(self, board: Board, row: int, say_phase: Callable[[str], None]) -> None:
        self._board = board
        self._row = row
        self._say_phase = say_phase
        self._look: Look | None = None

    def phase(self, name: str, /) -> None:
        # First the board: whoever hears of the phase counts its tokens from there on.
        self._put()
        self._say_phase(name)

    @contextmanager
    def following(self, look: Look, /) -> Iterator[None]:
        self._look = look
        self._put()
        ended = threading.Event()
        threading.Thread(target=self._keep_putting, args=(ended,), name="progress", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self._put()
            self._look = None

    def _keep_putting(self, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL_S):
            self._put()

    def _put(self) -> None:
        look = self._look
        live = look() if look is not None else None
        if live is not None:
            self._board.put(self._row, live)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _sum(values: list[float]) -> float | None:
    """A sum with an unknown part is unknown."""
    total = math.fsum(values)
    return None if math.isnan(total) else total
