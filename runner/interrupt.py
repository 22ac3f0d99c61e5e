"""Signals that ask the runner to end: the first lets running jobs finish, the second ends them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """What was asked for; looked at between steps.

    Plain flags: a signal handler that takes a lock can wait for ever for the code that it interrupted.

    Attributes:
        drain: no job starts any more.
        now: running jobs are ended.
    """

    def __init__(self) -> None:
        self.drain = False
        self.now = False

    def ask(self) -> None:
        """Once: drain. Again: now."""
        self.now = self.drain
        self.drain = True


@contextmanager
def ending_signals() -> Iterator[Stop]:
    """A Stop that SIGINT, SIGTERM and SIGHUP ask while the block runs.

    Nothing is raised, so that no signal comes between a finished measurement and its publication. A
    signal that the caller's parent told us to ignore (nohup) stays ignored.
    """
    stop = Stop()
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: stop.ask())
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
