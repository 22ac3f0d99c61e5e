"""``warehouse campaign``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Literal

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warehouse.bootstrap import expected_percentile_coverage
from warehouse.campaign import MIXED, POOLED, CampaignGroup, Figures, campaign_groups, count_simulated, known_studies
from warehouse.commands import options
from warehouse.commands.campaign_table import CYCLES, NOT_MEASURED, campaign_table
from warehouse.commands.standard_output import PipedConsole
from warehouse.comparison.selection import require_studies
from warehouse.comparison.words import SIMULATED_NOTE, WHERE_MEASURED, with_unit
from warehouse.database import reading
from warehouse.errors import EmptyWarehouse
from warehouse.export import export_campaigns_to_csv
from warehouse.numerals import counted, digits, interval, number, upper_percent
from warehouse.plain_text import clipped, printable
from warehouse.typeset import TYPESET, Typeset, typeset

_SHOWN = {
    metric: with_unit(metric)
    for metric in (
        "energy_per_output_token_j",
        "output_tokens_per_second",
        "total_tokens_per_second",
        "ttft_mean_ms",
        "itl_mean_ms",
    )
}
_EVERYTHING = "all"
_GROUP_COLUMNS = [one.name for one in fields(CampaignGroup) if one.name not in ("figures", "warnings")]
_FIGURE_COLUMNS = [one.name for one in fields(Figures)]
_FILE_COLUMNS = [*_GROUP_COLUMNS, "metric", *_FIGURE_COLUMNS]
_COLUMNS = ("mean", "std", "95 % Student t", "95 % percentile bootstrap", "n")
_MOST_CODES = 20
_TABLE_NOTE = "Mean [95 % interval by Student's t] over cycles."
_WIDEST = 1000
# Where nobody looks at a terminal, a table that is cut to 80 columns serves nobody.
_WIDTH_OF_A_FILE = 110

_WHERE = {
    "energy_per_output_token_j": f"energy is, {WHERE_MEASURED['energy']}",
    "itl_mean_ms": f"ITL is, {WHERE_MEASURED['itl']}",
}
"""Where a figure is measured that is missing."""


@click.command("campaign")
@options.database
@options.wait
@click.option("--study", metavar="NAME", help="Only this study.")
@click.option("--all", "include_all", is_flag=True, help="Let invalid cycles and simulated GPUs count, too.")
@click.option(
    "--pool",
    multiple=True,
    type=click.Choice([*POOLED, _EVERYTHING]),
    help="Merge groups that differ in this condition only; may be given several times. The row is marked mixed.",
)
@click.option(
    "--export-csv",
    "csv_file",
    type=options.File(),
    metavar="FILE",
    help="Write the figures to FILE instead.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["blocks", *TYPESET]),
    default="blocks",
    show_default=True,
    help="blocks: for a terminal; markdown, latex (with booktabs): one table, means with t intervals.",
)
def command(
    database: Path,
    wait_s: float,
    study: str | None,
    include_all: bool,
    pool: tuple[str, ...],
    csv_file: Path | None,
    style: Literal["blocks"] | Typeset,
) -> None:
    """Show means with confidence intervals over cycles.

    One block per configuration, hardware and software it ran on (a campaign). Invalid cycles and failed jobs are
    counted beside; a cycle that a newer run of the same study replaces does not count. Energy on
    simulated GPUs proves nothing: those cycles are left out, and how many they are stands below.
    """
    try:
        with reading(database, wait_s) as connection:
            merged = POOLED if _EVERYTHING in pool else pool
            groups = campaign_groups(connection, study, include_all=include_all, pool=merged)
            n_simulated = 0 if include_all else count_simulated(connection, study)
            studies = known_studies(connection)
    except EmptyWarehouse as error:
        click.echo(printable(error))
        return
    if study is not None and studies:
        require_studies(studies, database, [study])
    if not groups and not n_simulated:
        click.echo(printable(EmptyWarehouse(database)))
        return
    if csv_file is not None:
        export_campaigns_to_csv(_FILE_COLUMNS, _file_rows(groups), csv_file)
        return
    if style != "blocks":
        names, rows = campaign_table(groups, _SHOWN, _mean_and_interval)
        notes = [_TABLE_NOTE, *_table_notes(groups, include_all), *_footnotes(groups, n_simulated, percentile=False)]
        click.echo(typeset(style, names, rows, notes, names.index(CYCLES)))
        return
    console = PipedConsole(_WIDTH_OF_A_FILE)
    for group in groups:
        _print_group(console, group, include_all)
    for note in _footnotes(groups, n_simulated):
        console.print(Text(note))


def _file_rows(groups: Sequence[CampaignGroup]) -> Iterator[list[object]]:
    """A row for each figure of each group; a group without any has one with its counts."""
    for group in groups:
        own = [getattr(group, name) for name in _GROUP_COLUMNS]
        for metric, figures in group.figures.items():
            yield [*own, metric, *(getattr(figures, name) for name in _FIGURE_COLUMNS)]
        if not group.figures:
            yield [*own, *([None] * (1 + len(_FIGURE_COLUMNS)))]


def _print_group(console: Console, group: CampaignGroup, include_all: bool) -> None:
    console.print(Text(_title(group), style="bold"))
    if conditions := _conditions(group):
        console.print(Text(conditions))
    console.print(Text(_counts(group, include_all)))
    if group.largest_energy_bound is not None:
        console.print(Text(_bound(group.largest_energy_bound, group.n_bounds, group.n_cycles)))
    if group.warnings:
        console.print(Text(_warnings(group.warnings)))
    if not group.n_cycles:
        console.print()
        return
    rows = {label: _cells(group.figures.get(metric)) for metric, label in _SHOWN.items()}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for label, figures in rows.items():
        table.add_row(label, *figures)
    if console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum <= console.width:
        console.print(table)
    else:
        _print_stacked(console, rows)


def _print_stacked(console: Console, rows: Mapping[str, Sequence[str]]) -> None:
    """A figure is never cut: on a narrow terminal the intervals stand below each other."""
    for label, (mean, std, student, percentile, n) in rows.items():
        console.print(Text(f" {label:<28} mean {mean}  std {std}  n {n}"))
        if student != NOT_MEASURED:
            console.print(Text(f"     {_COLUMNS[2]:<26} {student}"))
            console.print(Text(f"     {_COLUMNS[3]:<26} {percentile}"))
    console.print()


def _title(group: CampaignGroup) -> str:
    parts = [
        *([group.experiment] if group.experiment else []),
        group.backend or "unknown backend",
        group.model or "unknown model",
        f"batch {_known(group.batch_size)}",
        f"dtype {_known(group.dtype)}",
        f"config {group.measurement_config_hash[:8] if group.measurement_config_hash else NOT_MEASURED}",
    ]
    return "  ".join(map(clipped, parts))


def _conditions(group: CampaignGroup) -> str:
    parts = []
    if group.hardware is not None:
        parts.append(f"{group.hardware} x{group.gpu_count}" if group.gpu_count else group.hardware)
    if group.study is not None:
        parts.append(f"study {group.study}")
    if group.campaign_id is not None:
        parts.append(f"campaign {group.campaign_id}")
    if group.image is not None:
        parts.append(f"image {group.image.rpartition(':')[2][:12]}")
    if group.driver_version is not None:
        parts.append(f"driver {group.driver_version}")
    if group.power_limits_w == MIXED:
        parts.append(f"limit {MIXED}")
    elif group.power_limits_w:
        parts.append(f"limit {'/'.join(f'{limit:g}' for limit in group.power_limits_w)} W")
    if group.model_commit is not None:
        parts.append(f"commit {group.model_commit[:8]}")
    if group.is_simulated:
        parts.append("simulated")
    return "  ".join(map(clipped, parts))


def _counts(group: CampaignGroup, include_all: bool) -> str:
    text = counted(group.n_cycles, "cycle")
    invalid = f"{group.n_invalid} invalid"
    if group.n_invalid:
        invalid += " counted" if include_all else " left out"
    notes = [invalid, f"{group.n_failed} failed"]
    if group.n_superseded:
        notes.append(f"{group.n_superseded} replaced by newer runs")
    return f"{text} ({', '.join(notes)})"


def _warnings(counts: Mapping[str, int]) -> str:
    shown = [f"{clipped(code)} ({n})" for code, n in islice(counts.items(), _MOST_CODES)]
    more = f' and {len(counts) - _MOST_CODES} more (warehouse sql "FROM warnings")' if len(counts) > _MOST_CODES else ""
    return f"warnings: {', '.join(shown)}{more}"


def _bound(largest: float, n_bounds: int, n_cycles: int) -> str:
    """The largest, because the meter's error is the same in every cycle or unknown: it does not average out."""
    of = f"{n_cycles}" if n_bounds == n_cycles else f"{n_bounds} of {n_cycles}"
    return f"meter bound +-{upper_percent(largest)} of the energy (largest of {of} cycle{'' if of == '1' else 's'})"


def _cells(figures: Figures | None) -> list[str]:
    """mean, std, both intervals, n: all with the same digits."""
    if figures is None:
        return [NOT_MEASURED] * 4 + ["0"]
    decimals = digits(figures.mean, figures.std)
    n = str(figures.n_samples)
    if figures.n_samples < 2:
        return [number(figures.mean, decimals), NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, n]
    student = interval(figures.t_lower, figures.t_upper, decimals) or NOT_MEASURED
    return [
        number(figures.mean, decimals),
        number(figures.std, decimals),
        student + ("*" if figures.t_method == "stein" else ""),
        interval(figures.percentile_lower, figures.percentile_upper, decimals) or NOT_MEASURED,
        n,
    ]


def _mean_and_interval(figures: Figures) -> str:
    mean, _, student, _, _ = _cells(figures)
    return mean if student == NOT_MEASURED else f"{mean} {student}"


def _known(value: object) -> str:
    return NOT_MEASURED if value is None else str(value)


def _table_notes(groups: Sequence[CampaignGroup], include_all: bool) -> Iterator[str]:
    """What the blocks say at each count."""
    if any(group.n_invalid for group in groups):
        yield "Invalid cycles are among those counted." if include_all else "Invalid cycles are left out."


def _footnotes(groups: Sequence[CampaignGroup], n_simulated: int, *, percentile: bool = True) -> Iterator[str]:
    """
    Args:
        percentile: whether that interval is shown, too.
    """
    if any(group.is_simulated for group in groups):
        yield SIMULATED_NOTE
    shown = [group.figures[metric] for group in groups for metric in _SHOWN if metric in group.figures]
    sizes = sorted({figures.n_samples for figures in shown})
    covered = [
        f"{coverage:.0%} at n = {n}".replace("%", " %")
        for n in sizes
        if n < 10 and (coverage := expected_percentile_coverage(n)) is not None
    ]
    if covered and percentile:
        yield (
            "Below 10 cycles the percentile interval holds the true mean less often than 95 %: expected for normal "
            f"data {', '.join(covered)}. Go by Student t."
        )
    if 2 in sizes:
        yield "At n = 2 Student t is wide, because two cycles say little about the spread: run at least 5."
    if 1 in sizes:
        yield "At n = 1 there is no interval: run at least 5 cycles."
    if any(figures.t_method == "stein" for figures in shown):
        yield "* the metric that an adaptive study stopped by: with the spread and the degrees of freedom of its pilot."
    if any(metric not in group.figures for group in groups if group.n_cycles for metric in _SHOWN):
        missing = {metric for group in groups if group.n_cycles for metric in _SHOWN if metric not in group.figures}
        yield f'"{NOT_MEASURED}" means not measured{"".join(f"; {_WHERE[one]}" for one in _WHERE if one in missing)}.'
    if any("ttft_mean_ms" in group.figures for group in groups):
        yield "TTFT counts from the opening of the window, so waiting for a place in a batch is part of it."
    if any(group.largest_energy_bound is not None for group in groups):
        yield "The meter bound is the most that the meter may be off in a cycle; the intervals do not hold it."
    if any(group.n_failed for group in groups):
        yield 'Why jobs failed: warehouse sql "FROM failure_summary".'
    if any(group.n_invalid for group in groups):
        yield 'Why runs are invalid: warehouse sql "FROM invalid_runs".'
    if n_simulated:
        yield (
            f"{counted(n_simulated, 'cycle')} on simulated GPUs left out: simulated energy proves nothing "
            "(--all shows them)."
        )
