"""``warehouse export``."""

from __future__ import annotations

from pathlib import Path

import click

from warehouse.commands import options
from warehouse.errors import WarehouseError
from warehouse.lake import TABLES, Exported, export_lake, export_table
from warehouse.numerals import counted
from warehouse.plain_text import printable

_SUFFIXES = {"": "parquet", ".parquet": "parquet", ".csv": "csv", ".json": "json"}


@click.command("export")
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=options.File(),
    metavar="PATH",
    help="File of CSV or JSON, or folder of Parquet.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["csv", "json", "parquet"]),
    help="What to write. By default a PATH that ends in .csv or .json says it, and a name of a folder is Parquet.",
)
@click.option(
    "--table",
    "tables",
    type=click.Choice(list(TABLES)),
    multiple=True,
    help="Only this table; again for more of them in Parquet. By default runs in CSV and JSON, and all in Parquet.",
)
@click.option("--study", metavar="NAME", help="Only this study.")
@click.option("--all", "include_all", is_flag=True, help="Also runs that are invalid, simulated or replaced.")
@click.option("--overwrite", is_flag=True, help="Replace the folder of an earlier export.")
@options.database
@options.wait
def command(
    target: Path,
    style: str | None,
    tables: tuple[str, ...],
    study: str | None,
    include_all: bool,
    overwrite: bool,
    database: Path,
    wait_s: float,
) -> None:
    """Write tables as CSV, JSON or a Parquet lake.

    CSV and JSON are one table in one file, which is replaced. Parquet is a folder with one folder per table,
    partitioned by study and backend as Hive does, for Spark, Trino, DuckDB and pyarrow. Only runs that count are
    written, unless --all. In a CSV an apostrophe stands before text that a spreadsheet would take for a formula.
    """
    style = style or _style(target)
    if style == "parquet":
        wanted = list(dict.fromkeys(tables)) or list(TABLES)
        exported = export_lake(
            database, target, wanted, study, include_all=include_all, overwrite=overwrite, wait_s=wait_s
        )
    else:
        if len(tables) > 1:
            raise WarehouseError(f"a file of {style} holds one table. Give --table once, or --format parquet.", 2)
        table = tables[0] if tables else "runs"
        exported = export_table(database, target, style, table, study, include_all=include_all, wait_s=wait_s)
    click.echo(_summary(target, exported))


def _style(target: Path) -> str:
    style = _SUFFIXES.get(target.suffix.lower(), "parquet" if target.is_dir() else None)
    if style is None:
        raise WarehouseError(
            f"the name {target} does not say what to write. Give --format csv or json for a file, or --format parquet "
            "for a folder of that name.",
            2,
        )
    return style


def _summary(target: Path, exported: Exported) -> str:
    text = f"{printable(target)}: " + ", ".join(
        counted(n, table.replace("_", " ").removesuffix("s")) for table, n in exported.rows.items()
    )
    if exported.left_out:
        text += f" ({counted(exported.left_out, 'run')} left out: invalid, simulated or replaced; --all has them)"
    return text
