"""A database of an earlier version is brought up to date with all that is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from images.contract.parts import ExtendedEfficiencyMetrics
from images.contract.result import ExperimentResult
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


OF_NEW_JOBS: dict[str, Any] = {"lag_ms": 0.5, "cached_input_tokens": 7, "delivery_tokens": [4, 6]}
METRICS = ExtendedEfficiencyMetrics(tpot_mean_ms=2.0, goodput_requests_per_second=1.5, prefill_energy_j=30.0)


@pytest.fixture
def results(root: Path) -> Path:
    for number in (1, 2, 3):
        result = make_result(
            number, energy_j=100.0 + number, environment=GPU, study="s", attempt=1, extended_metrics=METRICS
        )
        save(root, result, samples=samples_table([(0.0, 50.0), (1.0, 51.0)]), **OF_NEW_JOBS)
    save(root, make_result(4, n_requests=None, study="s", measurement_valid=False, invalid_reasons=["gpu_lost"]))
    save(root, of_an_older_job(make_result(5, n_requests=None, environment={"simulated": True})))
    save_failure(root)
    (root / "broken").mkdir()
    (root / "broken" / "result.json").write_text("{")
    return root


def of_an_older_job(result: ExperimentResult) -> ExperimentResult:
    """As one from before requests could arrive on a schedule."""
    workload = {name: value for name, value in result.effective_config["workload"].items() if name != "arrivals"}
    return result.model_copy(update={"effective_config": {**result.effective_config, "workload": workload}})


def as_version(version: int, current: Path, old: Path) -> None:
    """What that version had of the same directories; the first is the first that is still read."""
    with duckdb.connect(str(old)) as connection:
        connection.execute((RELEASED / f"schema_{version}.sql").read_text())
        marks = {2: "(2)", 3: "(3, 'of its views')"}
        connection.execute(f"INSERT INTO warehouse_schema VALUES {marks[version]}")
        connection.execute((RELEASED / f"views_{version}.sql").read_text())
        connection.execute(f"ATTACH '{current}' AS current (READ_ONLY)")
        for (table,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old'"
        ).fetchall():
            columns = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]
            there = [row[0] for row in connection.execute(f"DESCRIBE current.{table}").fetchall()]
            source = f"current.{table}"
            if "experiment_key" in there and "experiment_key" not in columns and table != "experiments":
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
    if table == "experiments":
        columns = "* EXCLUDE (experiment_key)"  # given anew to what is read again
    return rows(db, f"SELECT {columns} FROM {keyed} ORDER BY ALL")


def before_4(db: Path, table: str) -> list[tuple[object, ...]]:
    """Of `content` what version 2 had already."""
    queries = {
        "experiments": "SELECT experiment_id, campaign_id, work_id, hardware, image, is_simulated, is_invalid, "
        "superseded, total_energy_j, tpot_mean_ms, effective_config FROM experiments ORDER BY ALL",
        "requests": f"SELECT experiment_id, requests.* EXCLUDE (experiment_key, {', '.join(OF_NEW_JOBS)}) "
        "FROM requests JOIN experiments USING (experiment_key) ORDER BY ALL",
        "intervals": "FROM intervals WHERE metric NOT IN ('goodput_requests_per_second', 'prefill_energy_j') "
        "ORDER BY ALL",
    }
    return rows(db, queries[table]) if table in queries else content(db, table)


@pytest.mark.parametrize("version", [2, 3])
def test_an_earlier_version_becomes_what_a_fresh_ingest_makes(version: int, results: Path, tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    assert warehouse("ingest", results, db=fresh) == 0
    as_version(version, fresh, old)

    assert warehouse("schema", "--upgrade", db=old) == 0
    assert shape(old) == shape(fresh)
    assert rows(old, "SELECT version FROM warehouse_schema") == [(SCHEMA_VERSION,)]
    for table in TABLES:
        assert before_4(old, table) == before_4(fresh, table), table

    assert warehouse("ingest", results, db=old) == 0, "reads again what it did not take before"
    for table in TABLES:
        assert content(old, table) == content(fresh, table), table
    assert rows(old, "SELECT directory, signature, content_digest FROM ingested_directories ORDER BY ALL") == rows(
        fresh, "SELECT directory, signature, content_digest FROM ingested_directories ORDER BY ALL"
    )


def test_of_version_3_only_what_newer_jobs_measured_is_read_again(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    warehouse("ingest", results, db=fresh)
    as_version(3, fresh, old)
    capsys.readouterr()
    assert warehouse("ingest", results, db=old) == 0
    # The run of an older job, and the failure.
    assert "2 unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_gone_from_disk_is_kept_by_an_upgrade(version: int, results: Path, tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    warehouse("ingest", results, db=fresh)
    as_version(version, fresh, old)
    (tmp_path / "empty").mkdir()
    assert warehouse("ingest", tmp_path / "empty", db=old) == 0
    assert before_4(old, "intervals") == before_4(fresh, "intervals")


def test_a_reader_says_how_an_old_database_is_brought_up_to_date(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, old = tmp_path / "fresh.duckdb", tmp_path / "old.duckdb"
    warehouse("ingest", results, db=fresh)
    as_version(2, fresh, old)
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
