"""What the runner is told while the job runs. The measurement never waits for it.

A thread of its own writes progress.json: as each phase begins, and once a second while tokens are generated. It
asks nobody: it looks at a count that the backend keeps anyway, and at the sampler's latest readings.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias

from images.contract.progress import JobProgress

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
_PATIENCE_S = 0.1
"""How long a phase that begins waits for its report: a disk that works has it long before."""
_END_S = 1.0


@dataclass(frozen=True, slots=True)
class Live:
    """What is known of running work at one moment.

    Attributes:
        at_s: the moment, on `time.perf_counter`.
        output_tokens: delivered since load; None where the engine does not tell.
        power_w: latest reading, all GPUs; None without one.
    """

    at_s: float
    output_tokens: int | None
    power_w: float | None


Look: TypeAlias = Callable[[], Live | None]
"""Looks at running work without disturbing it; None as long as nothing is known."""


class Progress(Protocol):
    """Whom the measuring code tells how far it is."""

    def phase(self, name: str, /) -> None:
        """A phase begins. Never said inside the measured window."""
        ...

    def following(self, look: Look, /) -> AbstractContextManager[None]:
        """In the block another thread looks at the work about once a second, inside the measured window too."""
        ...


@dataclass(frozen=True, slots=True)
class _Phase:
    """A phase that begins, and the work as it was then.

    Attributes:
        written: gets an item. Not an Event: a signal that raises in the main thread may break one while it waits.
    """

    name: str
    began: datetime
    base: Live | None
    written: SimpleQueue[None] = field(default_factory=SimpleQueue)


class ProgressFile:
    """`Progress` into a file. No disk fails the job or holds it up: errors are a warning, once.

    Args:
        interval_s: from one report to the next (s).
    """

    def __init__(self, path: Path, interval_s: float = INTERVAL_S) -> None:
        self._path = path
        self._interval_s = interval_s
        self._look: Look | None = None
        self._said: SimpleQueue[_Phase | None] = SimpleQueue()
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def phase(self, name: str, /) -> None:
        log.info("phase: %s", name)
        look = self._look
        begun = _Phase(name, datetime.now(UTC), look() if look is not None else None)
        self._said.put(begun)
        with suppress(Empty):
            begun.written.get(timeout=_PATIENCE_S)

    @contextmanager
    def following(self, look: Look, /) -> Iterator[None]:
        self._look = look
        try:
            yield
        finally:
            self._look = None

    def close(self) -> None:
        """Remove the file; what a disk that hangs still holds stays."""
        self._said.put(None)
        self._thread.join(_END_S)
        if self._thread.is_alive():
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be removed: %s", self._path.name, error)

    def _run(self) -> None:
        phase: _Phase | None = None
        last: Live | None = None
        while True:
            try:
                said = self._said.get(timeout=self._interval_s)
            except Empty:
                look = self._look
                now = look() if look is not None else None
                if phase is not None and now is not None and (last is None or now.at_s > last.at_s):
                    self._write(_report(phase, last, now))
                    last = now
                continue
            if said is None:
                return
            phase, last = said, said.base
            self._write(_report(phase, None, said.base))
            phase.written.put(None)

    def _write(self, report: JobProgress) -> None:
        try:
            report.save(self._path)
        except OSError as error:  # nobody sees how far it is, and the measurement is as good as before
            if not self._warned:
                log.warning("%s could not be written: %s", self._path.name, error)
            self._warned = True


def _report(phase: _Phase, last: Live | None, now: Live | None) -> JobProgress:
    return JobProgress(
        phase=phase.name,
        time=phase.began,
        output_tokens=_tokens(phase.base, now),
        output_tokens_per_second=_rate(last, now),
        power_w=None if now is None else now.power_w,
    )


def _tokens(since: Live | None, now: Live | None) -> int | None:
    if now is None or now.output_tokens is None:
        return None
    base = since.output_tokens if since is not None else None
    return now.output_tokens - (base or 0)


def _rate(last: Live | None, now: Live | None) -> float | None:
    if last is None or now is None or last.output_tokens is None or now.output_tokens is None:
        return None
    return (now.output_tokens - last.output_tokens) / (now.at_s - last.at_s) if now.at_s > last.at_s else None
