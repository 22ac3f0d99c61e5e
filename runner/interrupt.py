"""Signals that ask the runner to end, turned into a flag that it looks at between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_signals() -> Iterator[threading.Event]:
    """An event that is set by SIGINT, SIGTERM or SIGHUP while the block runs.

    Nothing is raised, so that no signal comes between a finished measurement and its publication. A
    signal that the caller's parent told us to ignore (nohup) stays ignored.
    """
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: asked.set())
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
