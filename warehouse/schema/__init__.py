"""The tables and views, as their .sql files have them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from duckdb import DuckDBPyConnection

SCHEMA_VERSION = 4
"""Raised with every change of a table."""
OLDEST_VERSION = 2
"""The first that is brought up to date."""
_DESCRIBING = ["experiments", "campaign_groups", "intervals", "failures", "runs"]
"""Where the comments of views' columns come from, the first that has the name."""
_FOLDER = Path(__file__).parent
_TABLES = _FOLDER / "tables"
_VIEWS = _FOLDER / "views"


def create_all(connection: DuckDBPyConnection) -> None:
    """Make all tables and views in an empty database."""
    create_tables(connection)
    create_views(connection)


def create_tables(connection: DuckDBPyConnection) -> None:
    """Make all tables, as this version has them."""
    for text in _texts(_TABLES):
        connection.execute(text)
    connection.execute("INSERT INTO warehouse_schema VALUES (?, '')", [SCHEMA_VERSION])


def create_views(connection: DuckDBPyConnection) -> None:
    """Make all views and table macros; their columns say what they are, as those of the tables do."""
    for text in _texts(_VIEWS):
        connection.execute(text)
    _describe_views(connection)
    connection.execute("UPDATE warehouse_schema SET views_digest = ?", [views_digest()])


def drop_views(connection: DuckDBPyConnection) -> None:
    """Remove all views and macros, which are in the way of changes to their tables."""
    views = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = current_database()"
    ).fetchall()
    macros = connection.execute(
        "SELECT DISTINCT function_name, function_type FROM duckdb_functions() "
        "WHERE NOT internal AND database_name = current_database()"
    ).fetchall()
    for (name,) in views:
        connection.execute(f'DROP VIEW "{name}"')
    for name, kind in macros:
        connection.execute(f'DROP MACRO {"TABLE " if kind == "table_macro" else ""}"{name}"')


def refresh_text() -> str:
    """SQL that makes true again what is stored of the campaigns in temp.touched."""
    return (_FOLDER / "refresh.sql").read_text(encoding="utf-8")


@cache
def views_digest() -> str:
    """Digest of the views' text, so that a database with those of another day is found out."""
    return hashlib.sha256("".join(_texts(_VIEWS)).encode()).hexdigest()


def _describe_views(connection: DuckDBPyConnection) -> None:
    """A view's column without a comment of its own means what the column of its name in a table means."""
    silent = connection.execute(
        """
        WITH found AS (FROM duckdb_columns() WHERE database_name = current_database()),
        known AS (
            SELECT column_name, arg_min(comment, list_position($sources, table_name)) AS comment
            FROM found
            WHERE comment IS NOT NULL AND list_contains($sources, table_name)
            GROUP BY column_name
        )
        SELECT table_name, column_name, replace(known.comment, chr(39), chr(39) || chr(39))
        FROM found
        JOIN known USING (column_name)
        WHERE found.comment IS NULL
        """,
        {"sources": _DESCRIBING},
    ).fetchall()
    connection.execute(
        ";".join(f'COMMENT ON COLUMN "{view}"."{column}" IS \'{comment}\'' for view, column, comment in silent)
    )


def _texts(folder: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql"))]
