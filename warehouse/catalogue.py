"""What there is to ask: tables, views and table macros, their columns, types and comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Column:
    """One column; `comment` says what it is and its unit."""

    name: str
    type: str
    comment: str | None


@dataclass(frozen=True)
class Relation:
    """One that can stand after FROM.

    Attributes:
        kind: table, view or macro.
        parameters: of a macro.
        columns: none of a macro that needs parameters.
        sql: what makes it, without the comments.
    """

    name: str
    kind: str
    comment: str | None
    columns: tuple[Column, ...]
    sql: str
    parameters: tuple[str, ...] = ()

    @property
    def sql_with_comments(self) -> str:
        """Statements that make it, each ended with a semicolon and a line feed."""
        kind = "MACRO TABLE" if self.kind == "macro" else self.kind.upper()
        lines = [self.sql]
        if self.comment is not None:
            lines.append(f"COMMENT ON {kind} {self.name} IS {_literal(self.comment)};")
        lines += [
            f"COMMENT ON COLUMN {self.name}.{column.name} IS {_literal(column.comment)};"
            for column in self.columns
            if column.comment is not None and self.kind != "macro"
        ]
        return "".join(f"{line}\n" for line in lines)


def catalogue(connection: DuckDBPyConnection) -> list[Relation]:
    """Tables, then views, then macros, each in the order they were made.

    A macro's column has the comment of the first column of its name among those of the relations it is made of.
    """
    columns: dict[str, list[Column]] = {}
    for relation, name, kind, comment in connection.execute(_COLUMNS).fetchall():
        columns.setdefault(relation, []).append(Column(name, kind, comment))
    relations = [
        Relation(name, kind, comment, tuple(columns.get(name, ())), sql.strip())
        for name, kind, comment, sql in connection.execute(_RELATIONS).fetchall()
    ]
    for name, parameters, comment, sql in connection.execute(_MACROS).fetchall():
        described = _columns_of_macro(connection, name)
        # DuckDB does not tell what a parameter is that is not given: with ours it is NULL.
        given = [f"{parameter} := NULL" if described else parameter for parameter in parameters]
        made = f"CREATE MACRO {name}({', '.join(given)}) AS TABLE {sql};"
        sources = [relation for relation in relations if _names(sql, relation.name)]
        found = [Column(column, kind, _first_comment(sources, column)) for column, kind in described]
        relations.append(Relation(name, "macro", comment, tuple(found), made, tuple(parameters)))
    return relations


def _columns_of_macro(connection: DuckDBPyConnection, name: str) -> list[tuple[str, str]]:
    """Without parameters; none if it needs some."""
    try:
        return [(column, kind) for column, kind, *_ in connection.execute(f"DESCRIBE FROM {name}()").fetchall()]
    except duckdb.BinderException:
        return []


def _first_comment(sources: Sequence[Relation], column: str) -> str | None:
    found = (one.comment for source in sources for one in source.columns if one.name == column)
    return next((comment for comment in found if comment is not None), None)


def _names(sql: str, relation: str) -> bool:
    return re.search(rf"\b{re.escape(relation)}\b", sql) is not None


_RELATIONS = """
SELECT table_name, 'table', comment, sql FROM (FROM duckdb_tables() ORDER BY table_oid)
WHERE database_name = current_database() AND NOT internal AND NOT temporary
UNION ALL
SELECT view_name, 'view', comment, sql FROM (FROM duckdb_views() ORDER BY view_oid)
WHERE database_name = current_database() AND NOT internal AND NOT temporary
"""
_COLUMNS = """
SELECT table_name, column_name, data_type, comment FROM duckdb_columns()
WHERE database_name = current_database() AND NOT internal
ORDER BY table_oid, column_index
"""
_MACROS = """
SELECT function_name, parameters, comment, macro_definition FROM duckdb_functions()
WHERE database_name = current_database() AND NOT internal AND function_type = 'table_macro'
ORDER BY function_oid
"""


def _literal(text: str | None) -> str:
    return "'" + (text or "").replace("'", "''") + "'"
