"""``warehouse schema``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

import click
import duckdb
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from warehouse.catalogue import Relation, catalogue
from warehouse.commands import options
from warehouse.commands.standard_output import PipedConsole, unless_nobody_reads
from warehouse.database import reading, upgrade
from warehouse.errors import EmptyWarehouse, WarehouseError
from warehouse.plain_text import printable
from warehouse.schema import SCHEMA_VERSION, create_all

_WIDTH_OF_A_FILE = 140


@click.command("schema")
@click.argument("name", metavar="[TABLE|VIEW]", required=False)
@click.option(
    "--format", "style", type=click.Choice(["table", "json", "sql"]), default="table", show_default=True, help="Output."
)
@click.option("--upgrade", "wants_upgrade", is_flag=True, help="Bring the tables of an earlier version up to date.")
@options.database
@options.wait
def command(name: str | None, style: str, wants_upgrade: bool, database: Path, wait_s: float) -> None:
    """Show tables, views and their columns; upgrade an old database.

    Each column with its type, and what it is with its unit. Without a database: as it would be made.
    """
    if wants_upgrade:
        _upgrade(database, wait_s)
        return
    relations = _relations(database, wait_s)
    if name is not None:
        relations = [_named(name, relations)]
    with unless_nobody_reads():
        if style == "json":
            click.echo(json.dumps([asdict(relation) for relation in relations], indent=1, ensure_ascii=False))
        elif style == "sql":
            click.echo("\n".join(relation.sql_with_comments for relation in relations), nl=False)
        else:
            _print_tables(relations)


def _upgrade(database: Path, wait_s: float) -> None:
    found = upgrade(database, wait_s)
    if found is None:
        raise EmptyWarehouse(database)
    if found == SCHEMA_VERSION:
        click.echo(f"{printable(database)}: up to date (version {SCHEMA_VERSION})")
    else:
        click.echo(f"{printable(database)}: version {found} became version {SCHEMA_VERSION}")


def _relations(database: Path, wait_s: float) -> list[Relation]:
    try:
        with reading(database, wait_s) as connection:
            return catalogue(connection)
    except EmptyWarehouse:
        with duckdb.connect() as connection:
            create_all(connection)
            return catalogue(connection)


def _named(name: str, relations: Sequence[Relation]) -> Relation:
    names = {relation.name: relation for relation in relations}
    if name.lower() in names:
        return names[name.lower()]
    near = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    raise WarehouseError(f"there is no table or view {name!r}; there are {', '.join(near or names)}.", 2)


def _print_tables(relations: Sequence[Relation]) -> None:
    console = PipedConsole(_WIDTH_OF_A_FILE)
    for relation in relations:
        parameters = f"({', '.join(relation.parameters)})" if relation.kind == "macro" else ""
        console.print(Text(printable(f"{relation.kind} {relation.name}{parameters}"), style="bold"), soft_wrap=True)
        if relation.comment:
            console.print(Text(printable(relation.comment)))
        if relation.columns:
            table = Table(box=SIMPLE_HEAD, pad_edge=False)
            table.add_column("column", no_wrap=True)
            table.add_column("type", overflow="fold")
            table.add_column("what it is", overflow="fold")
            for column in relation.columns:
                table.add_row(
                    Text(printable(column.name)), Text(printable(column.type)), Text(printable(column.comment or ""))
                )
            console.print(table)
        else:
            console.print()
