"""``warehouse campaign``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warehouse.bootstrap import bootstrap_ci, expected_percentile_coverage, student_t_ci
from warehouse.campaign import CampaignGroup, campaign_groups, count_simulated, known_studies
from warehouse.commands import options
from warehouse.database import reading
from warehouse.errors import EmptyWarehouse, WarehouseError

SHOWN = {
    "energy_per_output_token_j": "energy per output token (J)",
    "output_tokens_per_second": "output tokens/s",
    "total_tokens_per_second": "total tokens/s",
    "ttft_mean_ms": "TTFT mean (ms)",
    "itl_mean_ms": "ITL mean (ms)",
}
NOT_MEASURED = "-"
_COLUMNS = ("mean", "std", "95 % Student t", "95 % percentile bootstrap", "n")
_WIDEST = 1000
# Where nobody looks at a terminal, a table that is cut to 80 columns serves nobody.
_WIDTH_OF_A_FILE = 110


@click.command("campaign")
@options.database
@options.wait
@click.option("--study", metavar="NAME", help="Only this study.")
@click.option("--all", "include_all", is_flag=True, help="Let invalid cycles and simulated GPUs count, too.")
def command(database: Path, wait_s: float, study: str | None, include_all: bool) -> None:
    """Show means with confidence intervals over cycles.

    One block per configuration, hardware and software it ran on. Invalid cycles and failed jobs are
    counted beside; a cycle that a newer run of the same study replaces does not count. Energy on
    simulated GPUs proves nothing: those cycles are left out, and how many they are stands below.
    """
    try:
        with reading(database, wait_s) as connection:
            groups = campaign_groups(connection, study, include_all=include_all)
            n_simulated = 0 if include_all else count_simulated(connection, study)
            studies = known_studies(connection)
    except EmptyWarehouse as error:
        click.echo(str(error))
        return
    if study is not None and studies and study not in studies:
        raise WarehouseError(f"there is no study {study!r} in {database}; there are {', '.join(studies)}.", 2)
    if not groups and not n_simulated:
        click.echo(str(EmptyWarehouse(database)))
        return
    console = Console(highlight=False)
    if not console.is_terminal and not console.is_dumb_terminal and console.width == 80:
        console.width = _WIDTH_OF_A_FILE
    for group in groups:
        _print_group(console, group, include_all)
    for note in _footnotes(groups, n_simulated):
        console.print(Text(note))


def _print_group(console: Console, group: CampaignGroup, include_all: bool) -> None:
    console.print(Text(_title(group), style="bold"))
    if conditions := _conditions(group):
        console.print(Text(conditions))
    console.print(Text(_counts(group, include_all)))
    if group.largest_energy_bound is not None:
        console.print(Text(_bound(group.largest_energy_bound, group.n_bounds, group.n_cycles)))
    if group.warnings:
        console.print(Text("warnings: " + ", ".join(f"{code} ({n})" for code, n in group.warnings.items())))
    if not group.n_cycles:
        console.print()
        return
    rows = {label: _figures((group.samples or {}).get(metric, ())) for metric, label in SHOWN.items()}
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
        group.backend or "unknown backend",
        group.model or "unknown model",
        f"batch {_known(group.batch_size)}",
        f"dtype {_known(group.dtype)}",
        f"config {group.measurement_config_hash[:8] if group.measurement_config_hash else NOT_MEASURED}",
    ]
    return "  ".join(parts)


def _conditions(group: CampaignGroup) -> str:
    parts = []
    if group.hardware is not None:
        parts.append(f"{group.hardware} x{group.gpu_count}" if group.gpu_count else group.hardware)
    if group.is_simulated:
        parts.append("simulated")
    if group.study is not None:
        parts.append(f"study {group.study}")
    if group.image is not None:
        parts.append(f"image {group.image.rpartition(':')[2][:12]}")
    if group.driver_version is not None:
        parts.append(f"driver {group.driver_version}")
    if group.power_limits_w:
        parts.append(f"limit {'/'.join(f'{limit:g}' for limit in group.power_limits_w)} W")
    if group.model_commit is not None:
        parts.append(f"commit {group.model_commit[:8]}")
    return "  ".join(parts)


def _counts(group: CampaignGroup, include_all: bool) -> str:
    text = f"{group.n_cycles} cycle{'' if group.n_cycles == 1 else 's'}"
    invalid = f"{group.n_invalid} invalid"
    if group.n_invalid:
        invalid += " counted" if include_all else " left out"
    notes = [invalid, f"{group.n_failed} failed"]
    if group.n_superseded:
        notes.append(f"{group.n_superseded} replaced by newer runs")
    return f"{text} ({', '.join(notes)})"


def _bound(largest: float, n_bounds: int, n_cycles: int) -> str:
    """The largest, because the meter's error is the same in every cycle or unknown: it does not average out."""
    percent = 100 * largest
    digits = max(0, 1 - _magnitude(percent)) if percent else 0
    # Upwards, because a bound that is rounded down is none. What is left of 0.8 as a binary number is no reason to.
    shown = math.ceil(percent * 10**digits - 1e-6) / 10**digits
    of = f"{n_cycles}" if n_bounds == n_cycles else f"{n_bounds} of {n_cycles}"
    return f"meter bound +-{_number(shown, digits)} % of the energy (largest of {of} cycle{'' if of == '1' else 's'})"


def _figures(samples: Sequence[float]) -> list[str]:
    """mean, std, both intervals, n: all with the same digits."""
    if not samples:
        return [NOT_MEASURED] * 4 + ["0"]
    result = bootstrap_ci(samples)
    interval = student_t_ci(samples)
    digits = _digits(result.mean, result.std)
    n = str(result.n_samples)
    if interval is None or result.ci_lower is None or result.ci_upper is None:
        return [_number(result.mean, digits), NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, n]
    return [
        _number(result.mean, digits),
        _number(result.std, digits),
        _interval(*interval, digits),
        _interval(result.ci_lower, result.ci_upper, digits),
        n,
    ]


def _digits(mean: float, std: float) -> int:
    """Decimals that show four digits of the mean and two of the spread."""
    wanted = [3 - _magnitude(mean)] if mean else []
    # A spread at the level of rounding says nothing about digits.
    wanted += [1 - _magnitude(std)] if std > 1e-6 * abs(mean) else []
    return min(max([0, *wanted]), 9)


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _interval(lower: float, upper: float, digits: int) -> str:
    return f"[{_number(lower, digits)}, {_number(upper, digits)}]"


def _known(value: object) -> str:
    return NOT_MEASURED if value is None else str(value)


def _footnotes(groups: Sequence[CampaignGroup], n_simulated: int) -> Iterator[str]:
    sizes = sorted(
        {len(values) for group in groups for metric, values in (group.samples or {}).items() if metric in SHOWN}
    )
    covered = [
        f"{coverage:.0%} at n = {n}".replace("%", " %")
        for n in sizes
        if n < 10 and (coverage := expected_percentile_coverage(n)) is not None
    ]
    if covered:
        yield (
            "Below 10 cycles the percentile interval holds the true mean less often than 95 %: expected for normal "
            f"data {', '.join(covered)}. Go by Student t."
        )
    if 2 in sizes:
        yield "At n = 2 Student t is wide, because two cycles say little about the spread: run at least 5."
    if 1 in sizes:
        yield "At n = 1 there is no interval: run at least 5 cycles."
    if any(metric not in (group.samples or {}) for group in groups if group.n_cycles for metric in SHOWN):
        yield f'"{NOT_MEASURED}" means not measured.'
    if any("ttft_mean_ms" in (group.samples or {}) for group in groups):
        yield "TTFT counts from the opening of the window, so waiting for a place in a batch is part of it."
    if any(group.largest_energy_bound is not None for group in groups):
        yield "The meter bound is the most that the meter may be off in a cycle; the intervals do not hold it."
    if n_simulated:
        cycles = "1 cycle" if n_simulated == 1 else f"{n_simulated} cycles"
        yield f"{cycles} on simulated GPUs left out: simulated energy proves nothing (--all shows them)."
