"""From the tables of an earlier version to this one's, with all that is in them.

Every table is copied without its constraints; each version's step, `{version}.sql`, turns the copies into what that
version has; campaigns and works are named again; then the tables are made as they are today and filled from the copies.
A step says only how data changes.
"""

from __future__ import annotations

from pathlib import Path

from duckdb import DuckDBPyConnection
from pydantic_core import from_json

from warehouse.intake.rows import CONDITIONS, campaign_id, work_id
from warehouse.intervals import refresh
from warehouse.schema import SCHEMA_VERSION, create_tables, create_views, drop_views

_FOLDER = Path(__file__).parent
_DERIVED = ("campaign_groups", "intervals", "warehouse_schema")
"""Tables that are made anew and not copied."""


def migrate(connection: DuckDBPyConnection, found: int) -> None:
    """Bring the tables of version `found` up to date, in the transaction that is open."""
    drop_views(connection)
    for table in _tables(connection):
        if table not in _DERIVED:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE old_{table} AS FROM {table}")
        connection.execute(f"DROP TABLE {table}")
    for version in range(found + 1, SCHEMA_VERSION + 1):
        connection.execute((_FOLDER / f"{version}.sql").read_text(encoding="utf-8"))
    _name_campaigns(connection)
    create_tables(connection)
    for table in _tables(connection):
        if table not in _DERIVED:
            connection.execute(f"INSERT INTO {table} BY NAME FROM temp.old_{table}")
            connection.execute(f"DROP TABLE temp.old_{table}")
    create_views(connection)
    refresh(connection, None)


def _tables(connection: DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND NOT temporary ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def _name_campaigns(connection: DuckDBPyConnection) -> None:
    """Anew after every version: what names them is not SQL."""
    names = ["experiment_key", *CONDITIONS, "model", "prompts_sha256", "measurement_methodology", "effective_config"]
    found = connection.execute(f"SELECT {', '.join(names)} FROM temp.old_experiments").fetchall()
    rows = [dict(zip(names, row, strict=True)) for row in found]
    connection.execute(
        """
        UPDATE temp.old_experiments SET campaign_id = named.campaign_id, work_id = named.work_id
        FROM (
            SELECT unnest($keys) AS experiment_key, unnest($ids) AS campaign_id, unnest($works::VARCHAR[]) AS work_id
        ) AS named
        WHERE named.experiment_key = old_experiments.experiment_key
        """,
        {
            "keys": [row["experiment_key"] for row in rows],
            "ids": [campaign_id(row) for row in rows],
            "works": [work_id(row, from_json(row["effective_config"])) for row in rows],
        },
    )
