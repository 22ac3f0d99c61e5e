"""What the user sees while jobs run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from images.contract.files import UnreadableResult
from images.contract.job import ExitCode
from images.contract.progress import JobProgress
from images.contract.result import ExperimentResult
from runner.layout import Attempt
from runner.outcome import Outcome
from runner.studies.study import Job
from runner.view.table import JobRow, Snapshot, clock_text, estimate_s, render, slot_text, summary

_REFRESH_S = 1.0
"""Reading and drawing take CPU time from a host that is being measured; nobody reads faster."""
_SUMMARY_S = 60.0
_WAITING_S = 30.0
_LOG_LINES = 8
_WORTH_A_LOG = ("Bug", "Unexplained", "Crashed")
_ONE_CATCHES_WARNINGS = threading.Lock()
"""Python keeps one list of them for all threads."""

_Key = tuple[str, int]
"""Experiment and cycle."""


class StandardError(Console):
    """Standard error. Once nobody reads it, it is silent.

    rich would end the process, and point standard output, which somebody may still read, to nowhere.
    """

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # What is still in its buffer has to go somewhere, or the interpreter's last flush makes the exit code 120.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


@dataclass(slots=True)
class _Running:
    job: Job
    report_file: Path
    gpu_uuids: tuple[str, ...]
    started_s: float
    report: JobProgress | None = None
    version: tuple[int, int] | None = None
    said_phase: str | None = None

    def read(self) -> None:
        """The latest report; one look at the directory entry where nothing has changed."""
        try:
            status = self.report_file.stat()
        except OSError:
            return
        version = (status.st_ino, status.st_mtime_ns)
        if version != self.version and (report := JobProgress.load(self.report_file)) is not None:
            self.report, self.version = report, version


@dataclass(slots=True)
class _Counts:
    """
    Attributes:
        done_before: jobs that had results when the run began.
        numbers: of jobs, in the order in which they were first started.
        durations_s: of jobs with results, by experiment.
    """

    total: int = 0
    done_before: int = 0
    slots: int = 1
    begun_s: float = 0.0
    done: int = 0
    failed: set[_Key] = field(default_factory=set)
    numbers: dict[_Key, int] = field(default_factory=dict)
    durations_s: dict[str, list[float]] = field(default_factory=dict)

    def number(self, key: _Key) -> int:
        """The job's number of `total`, which it keeps when it is tried again."""
        return self.numbers.setdefault(key, self.done_before + len(self.numbers) + 1)


class Progress:
    """Told by the scheduler, from any thread, what happens. Nothing that it cannot write is an error.

    Args:
        clock: monotonic time (s).
        now: time of day.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._console = console
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._counts = _Counts(begun_s=clock())
        self._running: dict[_Key, _Running] = {}
        self._waiting: str | None = None
        self._said_waiting: str | None = None
        self._waiting_due_s = clock()
        self._summary_due_s = 0.0
        self._live: Live | None = None
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def begin(self, total: int, done: int, slots: int) -> None:
        """
        Args:
            total: jobs of the study.
            done: of these, how many have results already.
            slots: how many can run at the same time.
        """
        now_s = self._clock()
        with self._lock:
            self._counts = _Counts(total, done, slots, now_s, done)
            self._summary_due_s = now_s + _SUMMARY_S
        if self._watcher is not None:
            return
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._open_table()
        self._watcher = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._watcher.start()

    def grow(self, total: int) -> None:
        """Adaptive cycles: the study has this many jobs now."""
        with self._lock:
            self._counts.total = total

    def started(self, job: Job, attempt: Attempt, gpu_uuids: Sequence[str], attempt_number: int) -> None:
        key = (job.experiment.name, job.cycle)
        with self._lock:
            self._running[key] = _Running(job, attempt.progress, tuple(gpu_uuids), self._clock())
            self._counts.failed.discard(key)
            self._said_waiting, self._waiting_due_s = None, self._clock()
            head = self._head(job)
        if self._live is None:
            again = f"  (try {attempt_number})" if attempt_number > 1 else ""
            self._line(f"{head}  on {slot_text(gpu_uuids)}{again}")

    def ended(self, job: Job, outcome: Outcome, again_in_s: float | None) -> None:
        """
        Args:
            again_in_s: how soon it is tried again; None: never.
        """
        key = (job.experiment.name, job.cycle)
        with self._lock:
            running = self._running.pop(key, None)
            elapsed_s = None if running is None else self._clock() - running.started_s
            if outcome.failure is None:
                self._counts.done += 1
                if elapsed_s is not None:
                    self._counts.durations_s.setdefault(job.experiment.name, []).append(elapsed_s)
            elif again_in_s is None and outcome.exit_code != ExitCode.INTERRUPTED:
                self._counts.failed.add(key)
            alone = self._live is None and self._counts.slots <= 1
            head = "     " if alone else self._head(job) + " "
        took = "" if elapsed_s is None else f"{elapsed_s:6.1f} s"
        self._line(f"{head} {took}  {_describe(outcome)}{_again(again_in_s)}")
        if outcome.failure is not None and outcome.failure.error_class in _WORTH_A_LOG:
            for line in outcome.failure.log_tail[-_LOG_LINES:]:
                self._line(f"          | {Text.from_ansi(line).plain}")

    def waiting(self, text: str | None) -> None:
        """Why nothing starts that could, as a sentence; None: nothing is waited for any more.

        May be said again and again, with a temperature in it: lines are kept apart.
        """
        now_s = self._clock()
        with self._lock:
            self._waiting = text
            is_news = text not in (None, self._said_waiting) and now_s >= self._waiting_due_s
            if is_news:
                self._said_waiting, self._waiting_due_s = text, now_s + _WAITING_S
        if is_news and self._live is None:
            self._line(f"      {text}")

    def note(self, text: str) -> None:
        self._line(f"      {text}")

    def stop(self) -> None:
        """Give the terminal back. What is said later is plain lines."""
        self._over.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        self._close_table()

    def refresh(self) -> None:
        """Read what the running jobs report, and draw the table or say what is new; the watcher's own work."""
        with self._lock:
            running = list(self._running.values())
        for one in running:
            one.read()
        if self._live is not None:
            self._draw(self._live)
        elif self._counts.slots <= 1:
            self._say_phases(running)
        elif self._clock() >= self._summary_due_s:
            self._summary_due_s = self._clock() + _SUMMARY_S
            self._line(f"      {summary(self.snapshot())}")

    def snapshot(self) -> Snapshot:
        now_s, now = self._clock(), self._now()
        with self._lock:
            counts, running = self._counts, list(self._running.values())
            left = counts.total - counts.done - len(counts.failed) - len(running)
            elapsed = [(one.job.experiment.name, now_s - one.started_s) for one in running]
            eta_s = estimate_s(counts.durations_s, elapsed, left, counts.slots)
            rows = tuple(JobRow.of(one.job.label, one.gpu_uuids, one.report, now) for one in running)
            return Snapshot(
                done=counts.done,
                failed=len(counts.failed),
                left=max(0, left),
                running=rows,
                elapsed_s=now_s - counts.begun_s,
                eta_s=eta_s,
                waiting=self._waiting,
            )

    def _watch(self) -> None:
        while not self._over.wait(_REFRESH_S):
            self.refresh()

    def _open_table(self) -> None:
        # Drawn by the watcher. Standard output is not ours, and its lines are not for the table's console.
        live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        with _whoever_reads_it():
            live.start()
            self._live = live

    def _draw(self, live: Live) -> None:
        frame = render(self.snapshot())
        try:
            live.update(frame, refresh=True)
        except (OSError, SystemExit):
            # The terminal is gone, and rich keeps every frame that it could not write.
            self._close_table()

    def _close_table(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with _whoever_reads_it():
                live.stop()

    def _say_phases(self, running: Sequence[_Running]) -> None:
        for one in running:
            if one.report is not None and one.report.phase != one.said_phase:
                one.said_phase = one.report.phase
                self._line(f"      {self._clock() - one.started_s:6.1f} s  {one.report.phase}")

    def _head(self, job: Job) -> str:
        number = self._counts.number((job.experiment.name, job.cycle))
        return f"[{number}/{self._counts.total}] {job.label}"

    def _line(self, text: str) -> None:
        with _whoever_reads_it():
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _whoever_reads_it() -> suppress:
    """A closed pipe or a full disk behind standard error is no reason to give up a measurement.

    rich makes a SystemExit of a broken pipe.
    """
    return suppress(OSError, SystemExit)


def _again(again_in_s: float | None) -> str:
    if again_in_s is None:
        return ""
    return f"  It is tried again in {clock_text(again_in_s)}." if again_in_s >= 1 else "  It is tried again."


def _describe(outcome: Outcome) -> str:
    if outcome.failure is not None:
        failure = outcome.failure
        word = "interrupted" if failure.exit_code == ExitCode.INTERRUPTED else "FAILED"
        return f"{word} ({failure.error_class}, exit code {failure.exit_code}): {failure.message} {failure.advice}"
    assert outcome.directory is not None
    with _ONE_CATCHES_WARNINGS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = ExperimentResult.from_json(outcome.directory)
        except UnreadableResult as error:
            return f"published, but it cannot be read: {error}"
    return _figures(result, [str(one.message) for one in caught])


def _figures(result: ExperimentResult, problems: list[str]) -> str:
    figures = [f"window {result.total_inference_time_sec:.1f} s"]
    if result.output_tokens_per_second is not None:
        figures.append(f"{result.output_tokens_per_second:.1f} output tokens/s")
    energy = result.energy_per_output_token_j
    figures.append("energy not measured" if energy is None else f"{energy:.4g} J/output token")
    codes = [text.partition(":")[0] for text in result.measurement_warnings]
    codes = [code for code in codes if code != "no_energy_meter"] + problems
    verdict = f"INVALID ({', '.join(result.invalid_reasons)})" if result.measurement_valid is False else "ok"
    return f"{verdict}: {', '.join(figures)}" + (f"  [{', '.join(codes)}]" if codes else "")
