"""The warehouse's tables as files: one as CSV or JSON, or all as a folder of Parquet that Spark and Trino read.

DuckDB writes them itself, streaming, into a folder of this module's own beside the target: nothing else can be written,
whatever a view of the database says. A rename ends it, so that the target is never half.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import duckdb
from duckdb import DuckDBPyConnection
from pydantic_core import to_json

from warehouse.campaign import known_studies
from warehouse.comparison.selection import require_studies
from warehouse.database import MEMORY_LIMIT, exporting
from warehouse.database_file import cannot_be_written
from warehouse.errors import WarehouseError
from warehouse.export import FORMULA_STARTS, can_be_replaced, scratch_beside
from warehouse.schema import SCHEMA_VERSION

MANIFEST = "_joulehouse_export.json"
"""In a folder of Parquet: what it is. Spark, Trino and DuckDB pass over names with an underscore."""
PARTITIONED_BY = ("study", "backend")
_LONGEST_PARTITION = 240
"""Bytes of an escaped value: with the column's name the folder's must not pass 255."""
_ESCAPED_UTF8 = re.compile("(%[89A-F][0-9A-F])+")

_CHOSEN_RUNS = """
CREATE TEMP TABLE chosen AS
SELECT experiment_key, experiment_id, {study} AS study, {backend} AS backend
FROM (SELECT * REPLACE (nullif(study, '') AS study) FROM runs)
WHERE ($study IS NULL OR study = $study) AND ($include_all OR counts)
"""
_CHOSEN_CAMPAIGNS = """
CREATE TEMP TABLE chosen_campaigns AS
SELECT campaign_id, {study} AS study, {backend} AS backend
FROM (SELECT * REPLACE (nullif(study, '') AS study) FROM campaign_groups)
WHERE ($study IS NULL OR study = $study) AND ($include_all OR NOT is_simulated)
"""
_CHOSEN_FAILURES = """
CREATE TEMP TABLE chosen_failures AS
SELECT experiment_id FROM failures WHERE $study IS NULL OR study = $study
"""
# Hive has one partition for NULL and for the empty text.
_STUDY = "REPLACE (nullif({0}.study, '') AS study) FROM {0}"
_OF_A_RUN = """
SELECT chosen.experiment_id, chosen.study, chosen.backend, {0}.* EXCLUDE ({1}) FROM {0} JOIN chosen USING ({2})
"""
TABLES = {
    "runs": f"SELECT runs.* EXCLUDE (experiment_key) {_STUDY.format('runs')} JOIN chosen USING (experiment_id)",
    "process_results": _OF_A_RUN.format("process_results", "experiment_id, backend", "experiment_id"),
    "requests": _OF_A_RUN.format("requests", "experiment_key", "experiment_key"),
    "samples": _OF_A_RUN.format("samples", "experiment_key", "experiment_key"),
    "warnings": _OF_A_RUN.format("warnings", "experiment_id", "experiment_id"),
    "failures": f"SELECT failures.* {_STUDY.format('failures')} JOIN chosen_failures USING (experiment_id)",
    "campaigns": f"SELECT campaigns.* {_STUDY.format('campaigns')} JOIN chosen_campaigns USING (campaign_id)",
    "intervals": """
        SELECT campaign_id, chosen_campaigns.study, chosen_campaigns.backend, intervals.* EXCLUDE (campaign_id)
        FROM intervals JOIN chosen_campaigns USING (campaign_id)
    """,
}
"""What can be exported, each with the id of its run or campaign, study and backend."""
_NAMED_IN = {
    "process_results": "runs",
    "requests": "runs",
    "samples": "runs",
    "warnings": "runs",
    "intervals": "campaigns",
}
"""Where the names of a table's partitions stand whole; in its own many rows they are short already."""
_ORDER = {
    "runs": "start_time, experiment_id",
    "process_results": "experiment_id, process_index",
    "warnings": "experiment_id, warning_index",
    "failures": "failed_at, experiment_id",
    "campaigns": "study, campaign_id",
    "intervals": "study, campaign_id, metric",
}
"""Of a CSV or JSON. Requests and samples are too many to be sorted."""

_PLAIN = {
    "JSON": "VARCHAR",
    "UUID": "VARCHAR",
    "BIT": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "TIME": "VARCHAR",
    "TIME WITH TIME ZONE": "VARCHAR",
    "UTINYINT": "SMALLINT",
    "USMALLINT": "INTEGER",
    "UINTEGER": "BIGINT",
    "UBIGINT": "DECIMAL(20, 0)",
    "HUGEINT": "DECIMAL(38, 0)",
    "UHUGEINT": "DECIMAL(38, 0)",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP",
}
"""For a type of DuckDB's that Spark or Trino does not know, one that they do."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        rows: by table (rows).
        left_out: runs that are invalid, simulated or replaced by a newer one (runs).
    """

    rows: dict[str, int]
    left_out: int


def export_table(
    database: Path, target: Path, style: str, table: str, study: str | None, *, include_all: bool, wait_s: float
) -> Exported:
    """One of `TABLES` as a file of `style` csv or json (a list of objects), in place of `target`.

    A CSV has a header, times in UTC, lists as JSON, and an apostrophe before what a spreadsheet would take for a
    formula. A number that is not finite is as not measured.

    Args:
        study: only this one.
        include_all: also runs that are invalid, simulated or replaced by a newer one.
        wait_s: how long to wait for a writer to let go of the database (s).

    Raises:
        WarehouseError: no such study; or it cannot be read or written, and `target` is as it was.
    """
    place = Path(os.path.realpath(target))
    is_file = can_be_replaced(target)
    if place.is_dir():
        raise WarehouseError(f"{target} is a folder. Give a file with -o, or --format parquet.", 2)
    _refuse_database(database, place, target)
    if not is_file:
        raise WarehouseError(f"{target} is no file. Give the name of one with -o.", 2)
    with _scratch(place, target) as scratch, _chosen(database, scratch, study, include_all, wait_s, str) as connection:
        columns = _columns(connection, table, _as_csv if style == "csv" else _as_json)
        order = f" ORDER BY {_ORDER[table]}" if table in _ORDER else ""
        options = "FORMAT csv, HEADER" if style == "csv" else "FORMAT json, ARRAY true"
        n_rows = _copy(connection, f"SELECT {columns} FROM ({TABLES[table]}){order}", scratch / "table", options)
        exported = Exported({table: n_rows}, _left_out(connection, study))
        (scratch / "table").replace(place)
    return exported


def export_lake(
    database: Path,
    target: Path,
    tables: Sequence[str],
    study: str | None,
    *,
    include_all: bool,
    overwrite: bool,
    wait_s: float,
) -> Exported:
    """A folder with one folder for each of `tables`, partitioned as Hive does: ``runs/study=S/backend=B/*.parquet``.

    A table without rows has no folder. NULL is ``__HIVE_DEFAULT_PARTITION__``. JSON is text, times are UTC in us. A
    study whose name is too long for a folder's gets a shorter one with a digest; the manifest has the whole name.

    Args:
        overwrite: replace an earlier export that is there; any other folder with something in it never is.

    Raises:
        WarehouseError: as `export_table`; or there is something already.
    """
    place = Path(os.path.realpath(target))
    _refuse_full_folder(place, target, overwrite)
    _refuse_database(database, place, target)
    with (
        _scratch(place, target) as scratch,
        _chosen(database, scratch, study, include_all, wait_s, _as_partition) as connection,
    ):
        made = scratch / "export"
        made.mkdir()
        rows: dict[str, int] = {}
        shortened: dict[str, str] = {}
        for table in tables:
            query = f"SELECT {_columns(connection, table, _as_plain)} FROM ({TABLES[table]})"
            shortened |= _shortened(connection, table)
            options = f"FORMAT parquet, COMPRESSION zstd, PARTITION_BY ({', '.join(PARTITIONED_BY)})"
            rows[table] = _copy(connection, query, made / table, options)
            if rows[table]:
                _escape_as_hive(made / table)
            else:
                shutil.rmtree(made / table, ignore_errors=True)
        exported = Exported(rows, _left_out(connection, study))
        about = {
            "schema_version": SCHEMA_VERSION,
            "exported_at": datetime.now(UTC),
            "study": study,
            "include_all": include_all,
            "rows": rows,
            "shortened_names": shortened,
        }
        (made / MANIFEST).write_bytes(to_json(about, indent=1))
        _put_in_place(made, place, scratch)
    return exported


@contextmanager
def _scratch(place: Path, target: Path) -> Iterator[Path]:
    """A folder beside `place`, which goes whatever happens."""
    scratch = scratch_beside(place)
    try:
        scratch.mkdir()
    except OSError as error:
        raise WarehouseError(
            f"{target} cannot be written ({error.strerror}). Give a name in a folder that exists and can be written.", 2
        ) from None
    try:
        yield scratch
    except duckdb.OutOfMemoryException:
        raise WarehouseError(
            f"{target} cannot be written: it takes more than the {MEMORY_LIMIT} of memory that are for it. Export less "
            "at once with --table or --study, or only some columns with `warehouse sql QUERY -o FILE`."
        ) from None
    except duckdb.Error as error:
        raise cannot_be_written(target, error) from None
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # DuckDB's word for Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except UnicodeEncodeError:
        raise WarehouseError(f"{target!a} is not UTF-8. Give another name with -o.", 2) from None
    except OSError as error:
        raise WarehouseError(f"{target} cannot be written ({error.strerror}). Give another one with -o.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _chosen(
    database: Path,
    scratch: Path,
    study: str | None,
    include_all: bool,
    wait_s: float,
    named: Callable[[str], str],
) -> Iterator[DuckDBPyConnection]:
    """The warehouse, with what is to be exported in temporary tables.

    Args:
        named: from a column of names to what stands for it in each of the many rows of a run.
    """
    with exporting(database, wait_s, scratch) as connection:
        if study is not None:
            require_studies(known_studies(connection), database, [study])
        names = {name: named(name) for name in PARTITIONED_BY}
        connection.execute(_CHOSEN_RUNS.format(**names), {"study": study, "include_all": include_all})
        connection.execute(_CHOSEN_CAMPAIGNS.format(**names), {"study": study, "include_all": include_all})
        connection.execute(_CHOSEN_FAILURES, {"study": study})
        yield connection


def _left_out(connection: DuckDBPyConnection, study: str | None) -> int:
    ((n_runs,),) = connection.execute(
        "SELECT (SELECT count(*) FROM runs WHERE $study IS NULL OR study = $study) - (SELECT count(*) FROM chosen)",
        {"study": study},
    ).fetchall()
    return int(n_runs)


def _columns(connection: DuckDBPyConnection, table: str, converted: Callable[[str, str], str]) -> str:
    described = connection.execute(f"DESCRIBE {TABLES[table]}").fetchall()
    quoted = [(f'"{name}"', kind) for name, kind, *_ in described]
    return ", ".join(f"{converted(name, kind)} AS {name}" for name, kind in quoted)


def _shortened(connection: DuckDBPyConnection, table: str) -> dict[str, str]:
    """Names of partitions that are too long, by what stands for them."""
    found: dict[str, str] = {}
    source = TABLES[_NAMED_IN.get(table, table)]
    for name in PARTITIONED_BY:
        query = f"SELECT DISTINCT {_as_partition(name)}, {name} FROM ({source}) WHERE {_is_too_long(name)}"
        found |= dict(connection.execute(query).fetchall())
    return found


def _is_too_long(name: str) -> str:
    return f"strlen(url_encode({name})) > {_LONGEST_PARTITION}"


def _as_partition(name: str) -> str:
    # 16 characters are 192 bytes at most when they are escaped.
    short = f"left({name}, 16) || '~' || left(sha256({name}), 16)"
    return f"CASE WHEN {_is_too_long(name)} THEN {short} ELSE {name} END"


def _as_plain(name: str, kind: str) -> str:
    if name.strip('"') in PARTITIONED_BY:
        return _as_partition(name)
    wanted = "VARCHAR" if kind.startswith("ENUM") else _PLAIN.get(kind)
    return name if wanted is None else f"{name}::{wanted}"


def _as_json(name: str, kind: str) -> str:
    """No JSON has NaN or infinity."""
    if kind == "DOUBLE":
        return f"CASE WHEN isfinite({name}) THEN {name} END"
    if kind == "DOUBLE[]":
        return f"list_transform({name}, lambda x: CASE WHEN isfinite(x) THEN x END)"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return name


def _as_csv(name: str, kind: str) -> str:
    if kind.endswith("[]"):
        return f"to_json({_as_json(name, kind)})::VARCHAR"
    if kind in ("VARCHAR", "JSON"):
        starts = ", ".join(f"chr({ord(start)})" for start in FORMULA_STARTS)
        return f"CASE WHEN left({name}, 1) IN ({starts}) THEN chr(39) || {name} ELSE {name} END"
    return _as_json(name, kind)


def _copy(connection: DuckDBPyConnection, query: str, file: Path, options: str) -> int:
    name = str(file).replace("'", "''")
    ((n_rows,),) = connection.execute(f"COPY ({query}) TO '{name}' ({options})").fetchall()
    return int(n_rows)


def _escape_as_hive(folder: Path) -> None:
    """Only ASCII stays escaped in the names of partitions: Spark takes each escaped byte for a letter of its own."""
    for partition in [*folder.glob("*/*"), *folder.glob("*")]:
        plain = _ESCAPED_UTF8.sub(lambda found: unquote(found[0]), partition.name)
        if partition.is_dir() and plain != partition.name:
            partition.rename(partition.with_name(plain))


def _put_in_place(made: Path, place: Path, scratch: Path) -> None:
    """An earlier export moves into `scratch`, and back if the new one cannot take its place."""
    earlier = scratch / "earlier"
    if not place.is_dir() or not any(place.iterdir()):
        made.rename(place)
        return
    place.rename(earlier)
    try:
        made.rename(place)
    except OSError:
        earlier.rename(place)
        raise


def _refuse_full_folder(place: Path, target: Path, overwrite: bool) -> None:
    try:
        full = place.exists() and any(place.iterdir())
    except OSError as error:
        raise WarehouseError(
            f"{target} cannot be used ({error.strerror}). Give a folder that is new or empty with -o.", 2
        ) from None
    if full and not (place / MANIFEST).is_file():
        raise WarehouseError(f"{target} holds other things than an export. Give a folder that is new or empty.", 2)
    if full and not overwrite:
        raise WarehouseError(f"{target} holds an export already. Give --overwrite to replace it, or another folder.", 2)


def _refuse_database(database: Path, place: Path, target: Path) -> None:
    if Path(os.path.realpath(database)).is_relative_to(place):
        raise WarehouseError(f"{target} is where the database itself lies. Give another name with -o.", 2)
