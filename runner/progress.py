"""What the user sees while jobs run: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress

from rich.console import Console
from rich.status import Status

from images.contract.files import UnreadableResult
from images.contract.result import ExperimentResult
from runner.outcome import Outcome
from runner.study import Job

_LOG_LINES = 8


class Progress:
    """Told by the scheduler what happens; writes to standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._started_s = 0.0

    def started(self, job: Job, number: int, total: int) -> None:
        self._started_s = time.monotonic()
        self._line(f"[{number}/{total}] {job.label}  {job.config.model}")
        if self._console.is_terminal:
            with _whoever_reads_it():
                self._status = self._console.status("starting")
                self._status.start()

    def phase(self, phase: str) -> None:
        elapsed = time.monotonic() - self._started_s
        if self._status is not None:
            with _whoever_reads_it():
                self._status.update(f"{phase} (since {elapsed:.1f} s)")
        else:
            self._line(f"      {elapsed:6.1f} s  {phase}")

    def ended(self, outcome: Outcome) -> None:
        self.stop()
        elapsed = time.monotonic() - self._started_s
        self._line(f"      {elapsed:6.1f} s  {_describe(outcome)}")
        if outcome.failure is not None and outcome.failure.error_class in ("Bug", "Unexplained"):
            for line in outcome.failure.log_tail[-_LOG_LINES:]:
                self._line(f"          | {line}")

    def note(self, text: str) -> None:
        self._line(f"      {text}")

    def stop(self) -> None:
        """Give the terminal back."""
        if self._status is not None:
            with _whoever_reads_it():
                self._status.stop()
            self._status = None

    def _line(self, text: str) -> None:
        with _whoever_reads_it():
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _whoever_reads_it() -> suppress:
    """A closed pipe or a full disk behind standard error is no reason to give up a measurement.

    rich makes a SystemExit of a broken pipe.
    """
    return suppress(OSError, SystemExit)


def _describe(outcome: Outcome) -> str:
    if outcome.failure is not None:
        failure = outcome.failure
        return f"FAILED ({failure.error_class}, exit code {failure.exit_code}): {failure.message} {failure.advice}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = ExperimentResult.from_json(outcome.directory)
        except UnreadableResult as error:
            return f"published, but it cannot be read: {error}"
    figures = [f"window {result.total_inference_time_sec:.1f} s"]
    if result.output_tokens_per_second is not None:
        figures.append(f"{result.output_tokens_per_second:.1f} output tokens/s")
    energy = result.energy_per_output_token_j
    figures.append("energy not measured" if energy is None else f"{energy:.4g} J/output token")
    codes = [text.partition(":")[0] for text in result.measurement_warnings]
    codes = [code for code in codes if code != "no_energy_meter"] + [str(one.message) for one in caught]
    verdict = f"INVALID ({', '.join(result.invalid_reasons)})" if result.measurement_valid is False else "ok"
    return f"{verdict}: {', '.join(figures)}" + (f"  [{', '.join(codes)}]" if codes else "")
