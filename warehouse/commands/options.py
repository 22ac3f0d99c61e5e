"""Options that several commands have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click


class File(click.Path):
    """A path, which is never empty: Python would take that for the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A number in a range, in which NaN is not, though no bound of the range is wrong about it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


database = click.option(
    "--db",
    "database",
    type=File(),
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
    type=Number(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait while another process uses the database.",
)
