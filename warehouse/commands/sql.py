"""``warehouse sql``."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warehouse.commands import options
from warehouse.commands.standard_output import PipedConsole, unless_nobody_reads
from warehouse.errors import WarehouseError
from warehouse.export import new_file
from warehouse.numerals import counted
from warehouse.plain_text import clipped, cut, printable
from warehouse.query import Answer, Rows, streamed, streamed_arrow

_WIDEST = 10_000
_LONGEST_TABLE = 10_000
"""Rows of a table for reading; its widths need all of them in memory."""
_LONGEST_VALUE = 1000
"""Characters of a value in a table for reading: what others wrote may be without end, and takes its time to draw."""
_LONGEST_PLAN = 1_000_000
_PLAN = ["explain_key", "explain_value"]
"""The columns of EXPLAIN, whose values are drawings."""
_SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


@click.command("sql")
@click.argument("query", required=False)
@click.option("--file", "script", type=options.File(), metavar="FILE", help="Read the query from FILE.")
@options.database
@options.wait
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="What to write. By default a FILE of -o says it by its name, and otherwise it is a table.",
)
@click.option("-o", "--output", "target", type=options.File(), metavar="FILE", help="Write into FILE.")
@click.option(
    "--time-limit",
    "time_limit_s",
    type=options.Number(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop the query after this long.",
)
def command(
    query: str | None,
    script: Path | None,
    database: Path,
    wait_s: float,
    style: str | None,
    target: Path | None,
    time_limit_s: float,
) -> None:
    """Ask the database a question in SQL.

    QUERY is one statement that asks; - reads it from the standard input. Tables and views: see `warehouse schema`.
    NULL is not measured. The query can change nothing and sees no other file.

    A table is for reading: 10,000 rows and 1,000 characters of a value at most, control characters spelled out. CSV,
    JSON and Parquet hold all as it was found, but for NaN and infinity, which are null in JSON; a CSV has control
    characters as they are. What stops half-way leaves no FILE.

    The time limit counts what the database works, not how long its answer takes to be written or read. Exit code: 0, 1
    if the query failed or was stopped, 2 if it could not be run at all.
    """
    style = _style(style, target)
    text = _text(query, script)
    if style == "parquet":
        with streamed_arrow(database, text, time_limit_s, wait_s) as arrow, _output(target, database) as stream:
            _write_parquet(arrow.schema, arrow.batches, stream)
        return
    with streamed(database, text, time_limit_s, wait_s) as rows:
        if style == "table":
            with unless_nobody_reads():
                _print_table(rows)
            return
        with _output(target, database) as stream:
            (_write_csv if style == "csv" else _write_json)(rows, stream)


def _style(style: str | None, target: Path | None) -> str:
    if target is None:
        if style == "parquet" and sys.stdout.isatty():
            raise WarehouseError("Parquet is nothing to read on a terminal. Give a file with -o.", 2)
        return style or "table"
    style = style or _SUFFIXES.get(target.suffix.lower())
    if style is None:
        raise WarehouseError(f"the name {target} does not say what to write. Give --format csv, json or parquet.", 2)
    if style == "table":
        raise WarehouseError("a table is for reading. Write a file with --format csv, json or parquet.", 2)
    return style


def _text(query: str | None, script: Path | None) -> str:
    if (query is None) == (script is None):
        raise WarehouseError("give one QUERY, or --file. See `warehouse sql --help`.", 2)
    try:
        if script is not None:
            return script.read_text(encoding="utf-8")
        return sys.stdin.buffer.read().decode() if query == "-" else str(query)
    except UnicodeDecodeError:
        raise WarehouseError(f"{script or 'the standard input'} is not UTF-8 text. Save it as UTF-8.", 2) from None
    except OSError as error:
        raise WarehouseError(f"{script} cannot be read ({error.strerror}). Give another --file.", 2) from None


@contextmanager
def _output(target: Path | None, database: Path) -> Iterator[BinaryIO]:
    if target is None:
        with unless_nobody_reads():
            stream = sys.stdout.buffer
            yield stream
            stream.flush()
        return
    if os.path.realpath(target) == os.path.realpath(database):
        raise WarehouseError(f"{target} is the database itself. Give another file with -o.", 2)
    with new_file(target) as stream:
        yield stream


def _print_table(rows: Rows) -> None:
    shown: list[tuple[Any, ...]] = []
    for batch in rows.batches:
        shown += batch
        if len(shown) > _LONGEST_TABLE:
            break
    longer = len(shown) > _LONGEST_TABLE
    answer = Answer(rows.columns, shown[:_LONGEST_TABLE])
    longest = _LONGEST_PLAN if answer.columns == _PLAN else _LONGEST_VALUE
    texts = [["NULL" if value is None else str(value) for value in row] for row in answer.rows]
    n_cut = sum(len(text) > longest for row in texts for text in row)
    names = list(map(clipped, answer.columns))
    lines = [[_printable_lines(cut(text, longest)) for text in row] for row in texts]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(names):
        numeric = all(isinstance(row[index], int | float | None) for row in answer.rows)
        table.add_column(Text(name), justify="right" if numeric and answer.rows else "left", overflow="fold")
    for row in lines:
        table.add_row(*map(Text, row))
    console = PipedConsole()
    if console.measure(table, options=console.options.update(max_width=_WIDEST)).minimum <= console.width:
        console.print(table)
    else:
        _print_stacked(console, names, lines)
    click.echo(_count(len(lines), n_cut, longer=longer))


def _print_stacked(console: Console, names: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """More columns than fit: one line for each value."""
    width = max(map(len, names))
    for number, row in enumerate(lines, start=1):
        console.print(Text(f"row {number}", style="bold"))
        for name, text in zip(names, row, strict=True):
            console.print(Text(f"  {name:<{width}}  {text}"), overflow="fold")


def _count(n_rows: int, n_cut: int, *, longer: bool) -> str:
    text = f"{'the first ' if longer else ''}{counted(n_rows, 'row')}"
    if n_cut:
        text += f", {counted(n_cut, 'value')} cut in the middle"
    return f"{text}; --format csv, json or parquet gives all" if longer or n_cut else text


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _write_csv(rows: Rows, stream: BinaryIO) -> None:
    """As it is, for programs: with control characters, and without a mark before what a spreadsheet may take for a
    formula, which `warehouse export` makes."""
    with _text_of(stream) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.columns)
        for batch in rows.batches:
            writer.writerows([_csv_value(value) for value in row] for row in batch)


def _write_json(rows: Rows, stream: BinaryIO) -> None:
    names = _distinct(rows.columns)
    separator = "[\n"
    with _text_of(stream) as text:
        for batch in rows.batches:
            for row in batch:
                record = dict(zip(names, map(_json_value, row), strict=True))
                text.write(separator + json.dumps(record, default=str, allow_nan=False, ensure_ascii=False))
                separator = ",\n"
        text.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_parquet(schema: pa.Schema, batches: Iterator[pa.RecordBatch], stream: BinaryIO) -> None:
    schema = pa.schema([pa.field(name, kind) for name, kind in zip(_distinct(schema.names), schema.types, strict=True)])
    try:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    except pa.ArrowNotImplementedError as error:
        raise WarehouseError(
            f"Parquet has no such type ({str(error).splitlines()[0]}). Cast it in the query."
        ) from None


@contextmanager
def _text_of(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()  # or it would close the stream


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


def _csv_value(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return json.dumps(_json_value(value), default=str, allow_nan=False, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else value


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    return value
