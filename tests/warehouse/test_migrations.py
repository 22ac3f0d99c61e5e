"""A database of an earlier version is brought up to date with all that is in it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.warehouse.results import make_result, rows, samples_table, save, save_failure, warehouse
from warehouse.schema import SCHEMA_VERSION

RELEASED = Path(__file__).parent / "released"
TABLES = (
    "experiments",
    "process_results",
    "requests",
    "samples",
    "warnings",
    "failures",
    "campaign_groups",
    "intervals",
)
GPU = {"gpu_names": ["NVIDIA H100"], "gpu_uuids": ["GPU-1"], "power_limits_w": [700.0], "driver_version": "570.1"}


@pytest.fixture
def results(root: Path) -> Path:
    for number in (1, 2, 3):
        result = make_result(number, energy_j=100.0 + number, environment=GPU, study="s", attempt=1)
        save(root, result, samples=samples_table([(0.0, 50.0), (1.0, 51.0)]))
    save(root, make_result(4, n_requests=None, study="s", measurement_valid=False, invalid_reasons=["gpu_lost"]))
    save(root, make_result(5, n_requests=None, environment={"simulated": True}))
    save_failure(root)
    (root / "broken").mkdir()
    (root / "broken" / "result.json").write_text("{")
    return root


def as_version_2(current: Path, old: Path) -> None:
    """What the first version that is still read had of the same directories."""
    with duckdb.connect(str(old)) as connection:
        connection.execute((RELEASED / "schema_2.sql").read_text())
        connection.execute("INSERT INTO warehouse_schema VALUES (2)")
        connection.execute((RELEASED / "views_2.sql").read_text())
        connection.execute(f"ATTACH '{current}' AS current (READ_ONLY)")
        for (table,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old'"
        ).fetchall():
            columns = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]
            there = [row[0] for row in connection.execute(f"DESCRIBE current.{table}").fetchall()]
            source = f"current.{table}"
            if "experiment_key" in there and table != "experiments":
                source += " JOIN (SELECT experiment_key, experiment_id FROM current.experiments) USING (experiment_key)"
                there.append("experiment_id")
            if table == "ingested_directories":
                source, there = (
                    f"(SELECT *, content_digest AS content_sha256 FROM {source})",
                    [*there, "content_sha256"],
                )
            if table != "warehouse_schema":
                kept = ", ".join(f'"{name}"' for name in columns if name in there)
                connection.execute(f"INSERT INTO {table} BY NAME SELECT {kept} FROM {source}")


def shape(db: Path) -> list[tuple[object, ...]]:
    return rows(
        db,
        "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal "
        "UNION ALL SELECT table_name, constraint_text, '', false, '' FROM duckdb_constraints() ORDER BY ALL",
    )


def content(db: Path, table: str) -> list[tuple[object, ...]]:
    by_id = table in ("requests", "samples")
    keyed = f"{table} JOIN experiments USING (experiment_key)" if by_id else table
    columns = f"experiment_id, {table}.* EXCLUDE (experiment_key)" if by_id else "*"
    return rows(db, f"SELECT {columns} FROM {keyed} ORDER BY ALL")


def test_version_2_becomes_what_a_fresh_ingest_makes(results: Path, tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    assert warehouse("ingest", results, db=fresh) == 0
    as_version_2(fresh, old)

    assert warehouse("schema", "--upgrade", db=old) == 0
    assert shape(old) == shape(fresh)
    assert rows(old, "SELECT version FROM warehouse_schema") == [(SCHEMA_VERSION,)]
    for table in TABLES:
        if table == "experiments":
            same = "experiment_id, campaign_id, hardware, image, is_simulated, is_invalid, superseded, total_energy_j"
            query = f"SELECT {same}, effective_config FROM experiments ORDER BY ALL"
            assert rows(old, query) == rows(fresh, query)
        else:
            assert content(old, table) == content(fresh, table), table

    assert warehouse("ingest", results, db=old) == 0, "reads again what it did not take before"
    for table in TABLES:
        assert content(old, table) == content(fresh, table), table
    assert rows(old, "SELECT directory, signature, content_digest FROM ingested_directories ORDER BY ALL") == rows(
        fresh, "SELECT directory, signature, content_digest FROM ingested_directories ORDER BY ALL"
    )


def test_what_is_gone_from_disk_is_kept_by_an_upgrade(results: Path, tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    warehouse("ingest", results, db=fresh)
    as_version_2(fresh, old)
    (tmp_path / "empty").mkdir()
    assert warehouse("ingest", tmp_path / "empty", db=old) == 0
    assert content(old, "intervals") == content(fresh, "intervals")


def test_a_reader_says_how_an_old_database_is_brought_up_to_date(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    warehouse("ingest", results, db=fresh)
    as_version_2(fresh, old)
    capsys.readouterr()
    assert warehouse("campaign", db=old) == 2
    assert capsys.readouterr().err == (
        f"warehouse: {old} has tables of version 2; this joulehouse has version {SCHEMA_VERSION}. "
        f"Run `warehouse schema --upgrade --db {old}`, or ingest into it: both bring it up to date.\n"
    )


@pytest.mark.parametrize(("version", "says"), [(1, "from before the first release"), (99, "Use a newer joulehouse")])
def test_tables_that_cannot_be_brought_up_to_date_are_left_alone(
    results: Path, db: Path, capsys: pytest.CaptureFixture[str], version: int, says: str
) -> None:
    warehouse("ingest", results, db=db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("UPDATE warehouse_schema SET version = ?", [version])
    before = content(db, "experiments")
    capsys.readouterr()
    assert warehouse("ingest", results, db=db) == 2
    assert says in capsys.readouterr().err
    assert content(db, "experiments") == before
