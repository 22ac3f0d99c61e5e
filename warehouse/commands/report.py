"""``warehouse report``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click
import duckdb

from warehouse.commands import options
from warehouse.commands.plain_text import printable
from warehouse.database import reading
from warehouse.errors import WarehouseError, first_line
from warehouse.export import new_file
from warehouse.report.data import ReportData, read_report
from warehouse.report.page import page


@click.command("report")
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=options.File(),
    metavar="FILE",
    help="The page to write, such as report.html; one that is there is replaced.",
)
@click.option("--study", "studies", multiple=True, metavar="NAME", help="Only this study; again for more of them.")
@click.option("--all", "include_all", is_flag=True, help="Let invalid cycles and simulated GPUs count, too.")
@options.database
@options.wait
def command(target: Path, studies: tuple[str, ...], include_all: bool, database: Path, wait_s: float) -> None:
    """Write everything measured as one page for a browser.

    The page is one file that needs no network: tables and charts with every interval and every cycle, Pareto fronts,
    traces of power and temperature, latencies, drift, what failed, and where it all came from. Figures are those of
    `warehouse campaign`. Charts can be zoomed, filtered and saved as SVG or PNG.
    """
    if os.path.realpath(target) == os.path.realpath(database):
        raise WarehouseError(f"{target} is the database itself. Give another file with -o.", 2)
    with new_file(target) as stream:
        data = _read(database, studies, include_all, wait_s)
        content = page(data)
        stream.write(content)
    click.echo(_summary(target, data, len(content)))


def _read(database: Path, studies: tuple[str, ...], include_all: bool, wait_s: float) -> ReportData:
    with reading(database, wait_s) as connection:
        try:
            return read_report(connection, database, studies, include_all=include_all, made_at=datetime.now(UTC))
        except duckdb.Error as error:
            raise WarehouseError(f"{database} cannot be read: {first_line(error)}.") from None


def _summary(target: Path, data: ReportData, size: int) -> str:
    counts = data.counts
    configurations = "1 configuration" if counts.campaigns == 1 else f"{counts.campaigns:,} configurations"
    cycles = "1 cycle" if counts.cycles == 1 else f"{counts.cycles:,} cycles"
    text = f"{printable(target)}: {configurations}, {cycles}, {size / 1e6:.1f} MB"
    if counts.left_out:
        left = "1 cycle" if counts.left_out == 1 else f"{counts.left_out:,} cycles"
        text += f" ({left} on simulated GPUs left out; --all shows them)"
    return text
