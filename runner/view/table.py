"""Running jobs as a table, and how long the rest of a study will take. Pure: it is told what time it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Self

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from images.contract.progress import JobProgress

_SHORT_UUID = len("GPU-1234abcd")


@dataclass(frozen=True, slots=True)
class JobRow:
    """One running job.

    Attributes:
        phase: that it reported last; None before its first report.
        phase_s: since that phase began (s).
        output_tokens_per_second: None where the engine does not tell (tokens/s).
        power_w: of all its GPUs; None without a meter (W).
    """

    label: str
    gpu_uuids: tuple[str, ...]
    phase: str | None
    phase_s: float | None
    output_tokens_per_second: float | None
    power_w: float | None

    @classmethod
    def of(cls, label: str, gpu_uuids: Sequence[str], report: JobProgress | None, now: datetime) -> Self:
        if report is None:
            return cls(label, tuple(gpu_uuids), None, None, None, None)
        phase_s = max(0.0, (now - report.time).total_seconds())
        return cls(label, tuple(gpu_uuids), report.phase, phase_s, report.output_tokens_per_second, report.power_w)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run of a study at one moment.

    Attributes:
        failed: jobs that are not tried again.
        left: jobs that neither run nor have ended.
        eta_s: until the last one ends; None where nobody can say (s).
        waiting: why nothing starts that could.
    """

    done: int
    failed: int
    left: int
    running: tuple[JobRow, ...]
    elapsed_s: float
    eta_s: float | None
    waiting: str | None = None


def render(snapshot: Snapshot) -> RenderableType:
    """What a terminal shows: the counts first, because a small terminal cuts off the last lines."""
    parts: list[RenderableType] = [Text(summary(snapshot), style="bold")]
    if snapshot.running:
        parts.append(jobs_table(snapshot.running))
    if snapshot.waiting is not None:
        parts.append(Text(snapshot.waiting, style="dim"))
    return Group(*parts)


def jobs_table(rows: Sequence[JobRow]) -> Table:
    """One line per job. Cells are Text: a name in square brackets is no markup."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("job", "slot", "phase"):
        table.add_column(heading, no_wrap=True)
    for heading in ("tokens/s", "W"):
        table.add_column(heading, no_wrap=True, justify="right")
    for row in rows:
        phase = "starting" if row.phase is None else f"{row.phase}  {clock_text(row.phase_s)}"
        figures = (_figure(row.output_tokens_per_second, 1), _figure(row.power_w, 0))
        table.add_row(*map(Text, (row.label, slot_text(row.gpu_uuids), phase, *figures)))
    return table


def summary(snapshot: Snapshot) -> str:
    failed = f"{snapshot.failed} failed, " if snapshot.failed else ""
    return (
        f"{snapshot.done} done, {failed}{len(snapshot.running)} running, {snapshot.left} left; "
        f"{clock_text(snapshot.elapsed_s)} so far, {clock_text(snapshot.eta_s)} to go"
    )


def estimate_s(
    durations_s: Mapping[str, Sequence[float]], running: Sequence[tuple[str, float]], left: int, slots: int
) -> float | None:
    """Seconds until the last job ends; None before the first one has ended.

    Jobs that have not started weigh every experiment alike, as blocks do; otherwise the short ones, which end
    first, would promise too much.

    Args:
        durations_s: of jobs with results, by experiment.
        running: experiment, and seconds since it was started.
        left: jobs that have not started.
    """
    if not durations_s:
        return None
    means = {name: fmean(seconds) for name, seconds in durations_s.items()}
    typical_s = fmean(means.values())
    running_s = [max(0.0, means.get(name, typical_s) - elapsed_s) for name, elapsed_s in running]
    shared_s = (sum(running_s) + left * typical_s) / max(1, slots)
    return max([shared_s, *running_s, typical_s if left else 0.0])


def slot_text(gpu_uuids: Sequence[str]) -> str:
    return " ".join(uuid[:_SHORT_UUID] for uuid in gpu_uuids) or "CPU"


def clock_text(seconds: float | None) -> str:
    """0:42, 12:05, 3:00:12; a dash for None."""
    if seconds is None:
        return "-"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
