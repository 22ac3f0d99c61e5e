"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

database = click.option(
    "--db",
    "database",
    type=click.Path(path_type=Path),
    envvar="JOULEHOUSE_DB",
    default=Path("warehouse.duckdb"),
    show_default=True,
    show_envvar=True,
    metavar="FILE",
    help="The database.",
)
wait = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait while another process uses the database.",
)
