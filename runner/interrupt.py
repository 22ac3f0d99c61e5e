"""Signals that ask the runner to end: the first lets running jobs finish, the second ends them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FINISH, END = signal.SIGUSR1, signal.SIGUSR2
"""What `runner stop` sends: it may be called twice without meaning more by it."""


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
        self._asked = False

    def ask(self) -> None:
        """Somebody wants it to end. Once: drain. Again: now. That it drains already, for a full disk, is no request."""
        self.now = self.now or self._asked
        self._asked = self.drain = True

    def finish(self) -> None:
        """Drain, however often it is asked."""
        self.drain = True

    def end(self) -> None:
        """End running jobs at once."""
        self.drain = self.now = True


@contextmanager
def ending_signals() -> Iterator[Stop]:
    """A Stop that signals ask while the block runs.

    Nothing is raised, so that no signal comes between a finished measurement and its publication. A
    signal that the caller's parent told us to ignore (nohup) stays ignored.
    """
    stop = Stop()
    wanted = dict.fromkeys(_ENDING, stop.ask) | {FINISH: stop.finish, END: stop.end}
    before = {number: signal.getsignal(number) for number in wanted}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, lambda got, _frame: wanted[signal.Signals(got)]())
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
