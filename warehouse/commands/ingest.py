"""``warehouse ingest``."""

from __future__ import annotations

from pathlib import Path

import click

from warehouse.commands import options
from warehouse.ingest import ingest


@click.command("ingest")
@click.argument("roots", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.database
@options.wait
def command(roots: tuple[Path, ...], database: Path, wait_s: float) -> None:
    """Take result directories into the database.

    Looks below each DIR for finished cycles and failed jobs. What is there already is not read again;
    a directory that is broken goes to the table `quarantine` with the reason, and the others go on.
    """
    summary = ingest(roots, database, wait_s, report=lambda line: click.echo(line, err=True))
    click.echo(f"{database}: {summary}")
