"""``warehouse sql``."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warehouse.commands import options
from warehouse.query import Answer, run_query

_WIDEST = 10_000


@click.command("sql")
@click.argument("query")
@options.database
@options.wait
@click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True, help="Output."
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop the query after this long.",
)
def command(query: str, database: Path, wait_s: float, style: str, time_limit_s: float) -> None:
    """Ask the database a question in SQL.

    Tables: experiments, process_results, requests, samples, warnings, failures, quarantine. Views: cycles,
    energy_from_samples, energy_from_samples_per_gpu. NULL is not measured. The query can
    change nothing and sees no other file.
    """
    answer = run_query(database, query, time_limit_s, wait_s)
    if style == "table":
        _print_table(answer)
    else:
        click.echo(_as_csv(answer) if style == "csv" else _as_json(answer), nl=style == "json")


def _print_table(answer: Answer) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(answer.columns):
        numeric = all(isinstance(row[index], int | float | None) for row in answer.rows)
        table.add_column(Text(name), justify="right" if numeric and answer.rows else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text("NULL" if value is None else str(value)) for value in row))
    console = Console(highlight=False)
    if console.measure(table, options=console.options.update(max_width=_WIDEST)).minimum <= console.width:
        console.print(table)
    else:
        _print_stacked(console, answer)
    click.echo(f"{len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'}")


def _print_stacked(console: Console, answer: Answer) -> None:
    """More columns than fit: one line for each value."""
    width = max(map(len, answer.columns))
    for number, row in enumerate(answer.rows, start=1):
        console.print(Text(f"row {number}", style="bold"))
        for name, value in zip(answer.columns, row, strict=True):
            console.print(Text(f"  {name:<{width}}  {'NULL' if value is None else value}"), overflow="fold")


def _as_csv(answer: Answer) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)
    return stream.getvalue()


def _as_json(answer: Answer) -> str:
    names = _distinct(answer.columns)
    rows = [dict(zip(names, map(_json_value, row), strict=True)) for row in answer.rows]
    return json.dumps(rows, indent=1, default=str, allow_nan=False)


def _distinct(columns: list[str]) -> list[str]:
    """A JSON object keeps one of two columns of the same name, so the second gets a number."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    return value
