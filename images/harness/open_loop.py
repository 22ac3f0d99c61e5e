"""Open loop: requests arrive on a schedule that waits for nobody, as users do.

A closed batch asks again when the engine has answered, so a slow engine is asked less; here its slowness shows as
latency, which counts from the scheduled arrival (G. Tene's "coordinated omission").
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Event, Thread

import numpy as np
from numpy.typing import NDArray

from images.contract.work import ArrivalProcess
from images.harness.backend import Request

_ARRIVAL_STREAM = 3  # keeps these random numbers apart from those of prompts and sampling


def schedule(arrivals: ArrivalProcess, count: int, seed: int) -> NDArray[np.float64]:
    """When each of `count` requests arrives (s, rising), the first at 0.

    Gaps are constant, exponential (a Poisson process), or gamma distributed with the given shape, all of mean
    1 / rate_per_s.

    Raises:
        ValueError: a closed batch has no schedule.
    """
    if arrivals.rate_per_s is None:
        raise ValueError("a closed batch has no schedule")
    mean_s = 1.0 / arrivals.rate_per_s
    random = np.random.default_rng([seed, _ARRIVAL_STREAM])
    if arrivals.process == "fixed":
        gaps = np.full(count, mean_s)
    elif arrivals.process == "poisson":
        gaps = random.exponential(mean_s, count)
    else:
        gaps = random.gamma(arrivals.shape, mean_s / arrivals.shape, count)
    gaps[:1] = 0.0
    return np.cumsum(gaps)


class Feed:
    """Hands requests over when they are due; keeps `images.harness.backend.Arrivals`.

    Attributes:
        handed_s: when each was handed over, on `time.perf_counter()`'s clock, by request index.
    """

    def __init__(self, requests: Sequence[Request], began_s: float) -> None:
        self.handed_s: dict[int, float] = {}
        self._due = deque(sorted(requests, key=_due_s))
        self._began_s = began_s
        self._waiting: deque[Request] = deque()
        self._changed = Condition()
        self._stopped = Event()

    def take(self, timeout_s: float | None) -> list[Request]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._due, timeout_s)
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    @property
    def is_over(self) -> bool:
        with self._changed:
            return not self._due and not self._waiting

    def run(self) -> None:
        """Wait for one moment after the other; the body of the feeding thread."""
        while (wait_s := self._until_next_s()) is not None:
            self._stopped.wait(wait_s)
            self._hand_over()

    def stop(self) -> None:
        """No more requests will come, and those that nobody took are gone: whoever took them has failed."""
        self._stopped.set()
        with self._changed:
            self._due.clear()
            self._waiting.clear()
            self._changed.notify_all()

    def _until_next_s(self) -> float | None:
        with self._changed:
            return max(self._due_at_s() - time.perf_counter(), 0.0) if self._due else None

    def _hand_over(self) -> None:
        with self._changed:
            now_s = time.perf_counter()
            while self._due and self._due_at_s() <= now_s:
                request = self._due.popleft()
                self.handed_s[request.index] = now_s
                self._waiting.append(request)
            self._changed.notify_all()

    def _due_at_s(self) -> float:
        return self._began_s + _due_s(self._due[0])


@contextmanager
def feeding(requests: Sequence[Request], began_s: float) -> Iterator[Feed]:
    """A feed and its thread, which ends with the block, also when the schedule is not over.

    Args:
        began_s: what the requests' `due_s` count from (`time.perf_counter()` seconds).
    """
    feed = Feed(requests, began_s)
    thread = Thread(target=feed.run, name="arrivals", daemon=True)
    thread.start()
    try:
        yield feed
    finally:
        feed.stop()
        thread.join()


def _due_s(request: Request) -> float:
    return request.due_s or 0.0
