"""A call that can be given up on: DuckDB looks for an interruption only between pieces of its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from warehouse.errors import WarehouseError

GRACE_S = 1.0
"""How long a call may take to stop when it is asked to (s)."""
_ASKS_EVERY_S = 0.05

Result = TypeVar("Result")


class StillRunning(WarehouseError):
    """A call was given up on, and its thread works on: its connection cannot be closed without waiting for it.

    A command ends its process with `os._exit`, for DuckDB does not survive Python's own end while it works.
    """


class Call(Generic[Result]):
    """One call in a thread of its own, so that its caller sees the clock and Ctrl-C whatever the call is at.

    Args:
        function: what is called. It must let go of the GIL, as DuckDB does.
        interrupt: asks it to stop.
    """

    def __init__(self, function: Callable[[], Result], interrupt: Callable[[], object]) -> None:
        self._function = function
        self._interrupt = interrupt
        self._ended = threading.Event()
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def ends_within(self, seconds: float) -> bool:
        """Begin, and wait for the end.

        Raises:
            KeyboardInterrupt: Ctrl-C; the call goes on.
        """
        threading.Thread(target=self._work, daemon=True).start()
        return self._ended.wait(min(threading.TIMEOUT_MAX, seconds))

    def stops(self) -> bool:
        """Ask it to stop; whether it has done so within `GRACE_S`. A further Ctrl-C ends the waiting."""
        gives_up_at = time.monotonic() + GRACE_S
        try:
            while not self._ended.is_set() and time.monotonic() < gives_up_at:
                # Again and again, because DuckDB forgets it when it goes on from planning to running.
                self._interrupt()
                self._ended.wait(_ASKS_EVERY_S)
        except KeyboardInterrupt:
            return self._ended.is_set()
        return self._ended.is_set()

    def result(self) -> Result:
        """What it gave, once it has ended; its error is raised here."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _work(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:  # noqa: BLE001 - none is swallowed: `result` raises it where it belongs
            self._error = error
        finally:
            self._ended.set()
