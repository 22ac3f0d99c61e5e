"""``warehouse ingest``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from warehouse.commands import options
from warehouse.ingest import ingest
from warehouse.plain_text import clipped, printable

_LONGEST_LINE = 2000


@click.command("ingest")
@click.argument("roots", metavar="DIR...", nargs=-1, required=True)
@options.database
@options.wait
@click.option("--prune", is_flag=True, help="Forget what came from directories that are not there any more.")
def command(roots: tuple[str, ...], database: Path, wait_s: float, prune: bool) -> None:
    """Take result directories into the database.

    Looks below each DIR, a folder or s3://bucket/prefix, for finished cycles and failed jobs. What is there already
    is not read again; a directory that is broken goes to the table `quarantine` with the reason, is tried again the
    next time, and the others go on. What came from a directory that is gone stays, unless --prune is given.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("ingest", total=None)
        summary = ingest(
            roots,
            database,
            wait_s,
            report=lambda line: console.print(clipped(line, _LONGEST_LINE), markup=False),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            prune=prune,
        )
    click.echo(f"{printable(database)}: {summary}")
