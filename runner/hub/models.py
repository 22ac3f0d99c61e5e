"""Models are downloaded on the host, before any job starts and outside of every job's timeout."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from images.contract.config import ExperimentConfig
from images.contract.job import Interrupted, ModelUnavailable
from runner.hub.download_events import Event, Request, cache_not_writable, size_text
from runner.hub.hub_cache import HubModel, hub_cache, hub_models, is_whole

log = logging.getLogger(__name__)

RESERVE_BYTES = 2_000_000_000
"""Left free on the cache's disk: a disk that is full to the brim breaks whatever else runs on the host."""
_ROOT = Path(__file__).resolve().parents[2]
_TRIES = 5
_PAUSE_S = 2.0
_LOOK_EVERY_S = 0.1
_NOTE_EVERY_S = 30.0
_TO_LEAVE_S = 3.0

Note = Callable[[str], None]


def prefetch(
    configs: Iterable[ExperimentConfig],
    note: Note,
    *,
    stopped: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
    console: Console | None = None,
    reserve_bytes: int = RESERVE_BYTES,
) -> None:
    """Bring every hub model of these configurations into the cache; what is there already costs no network.

    Args:
        note: takes lines about the progress.
        stopped: asked all the time; a download ends at once when it says True. Files that are whole stay.
        cache: a hub cache; None is this user's.
        console: a terminal gets a bar instead of lines.
        reserve_bytes: to be left free on the cache's disk.

    Raises:
        ModelUnavailable: one cannot be had; one line says why.
        Interrupted: `stopped` said so.
    """
    cache = (cache or hub_cache()).expanduser().absolute()
    for model in hub_models(configs):
        if not is_whole(model, cache):
            _get(model, cache, note, stopped, console, reserve_bytes)


def _get(
    model: HubModel, cache: Path, note: Note, stopped: Callable[[], bool], console: Console | None, reserve_bytes: int
) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_not_writable(cache, str(error.strerror)) from None
    request = Request(
        model=model.name,
        revision=model.revision,
        with_code=model.with_code,
        cache=cache,
        reserve_bytes=reserve_bytes,
        tries=_TRIES,
        pause_s=_PAUSE_S,
    )
    display: _Display = _Bar(console) if console is not None and console.is_terminal else _Lines(note)
    with _downloading(request) as (process, events, complaints):
        try:
            _follow(model, events, note, stopped, display, cache)
        finally:
            display.close()
        code = process.wait()
        if code != 0:
            log.debug("the download of %s ended with %d: %s", model.name, code, complaints.read())
            raise ModelUnavailable(f"the download of {model.name} ended unexpectedly (exit code {code}).", "Run again.")


def _follow(
    model: HubModel,
    events: queue.Queue[Event | None],
    note: Note,
    stopped: Callable[[], bool],
    display: _Display,
    cache: Path,
) -> None:
    """Show what happens, until the download's last word."""
    begun_s, needed_bytes = time.monotonic(), 0
    while True:
        if stopped():
            raise Interrupted(
                f"the download of {model.name} was stopped.", "Files that are whole are kept; run again to go on."
            )
        try:
            event = events.get(timeout=_LOOK_EVERY_S)
        except queue.Empty:
            continue
        if event is None:
            break
        if event.message is not None:
            raise ModelUnavailable(event.message, event.advice or "")
        if event.note is not None:
            note(event.note)
        if event.needed_bytes:
            needed_bytes = event.needed_bytes
            what = f"{size_text(needed_bytes)} in {event.n_files} files"
            note(f"model {model.name} (commit {(event.commit or '')[:7]}): downloading {what} to {cache}")
            display.begin(model.name, needed_bytes)
        if event.got_bytes is not None:
            display.show(min(max(event.got_bytes, 0), needed_bytes))
    if needed_bytes:
        note(f"model {model.name}: {size_text(needed_bytes)} downloaded in {time.monotonic() - begun_s:.0f} s")


@contextmanager
def _downloading(request: Request) -> Iterator[tuple[subprocess.Popen[bytes], queue.Queue[Event | None], IO[str]]]:
    """The download's process, what it says (None at the end), and its standard error; it never outlives the block."""
    quiet = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}
    events: queue.Queue[Event | None] = queue.Queue()
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.hub.download", request.model_dump_json()],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # Ctrl-C is for the runner, which then ends this one
        )
        reader = threading.Thread(target=_read, args=(process, events), daemon=True)
        reader.start()
        try:
            yield process, events, complaints
        finally:
            _end(process)
            reader.join()


def _read(process: subprocess.Popen[bytes], events: queue.Queue[Event | None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            events.put(Event.model_validate_json(line))
    events.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its standard input closes, which ends it together with its half-written files."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_TO_LEAVE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Display(Protocol):
    def begin(self, name: str, needed_bytes: int) -> None: ...
    def show(self, got_bytes: int) -> None: ...
    def close(self) -> None: ...


class _Lines:
    """A line now and then."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._name, self._needed_bytes = "", 0
        self._begun_s = self._told_s = 0.0

    def begin(self, name: str, needed_bytes: int) -> None:
        self._name, self._needed_bytes = name, needed_bytes
        self._begun_s = self._told_s = time.monotonic()

    def show(self, got_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < _NOTE_EVERY_S or not got_bytes:
            return
        self._told_s = now_s
        rate = got_bytes / (now_s - self._begun_s)
        left_s = (self._needed_bytes - got_bytes) / rate
        self._note(
            f"model {self._name}: {size_text(got_bytes)} of {size_text(self._needed_bytes)} "
            f"({got_bytes / self._needed_bytes:.0%}), {size_text(rate)}/s, {left_s / 60:.0f} min left"
        )

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """One bar, gone when all is here."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)

    def begin(self, name: str, needed_bytes: int) -> None:
        self._task = self._progress.add_task(name, total=needed_bytes)
        self._progress.start()

    def show(self, got_bytes: int) -> None:
        self._progress.update(self._task, completed=got_bytes)

    def close(self) -> None:
        self._progress.stop()
