"""The sidecars of many directories at once, prepared in memory while the database is closed.

DuckDB reads a thousand small Parquet files in one query several times faster than anybody could one by one. One file
that is broken then fails the query for all; it is found by halving. So does one that lacks the columns that came later;
such files are read apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from images.contract import files
from warehouse.errors import first_line
from warehouse.intake.sources import storable

_COLUMNS = {
    "requests": {
        "process_index": "INTEGER",
        "request_index": "INTEGER",
        "input_tokens": "INTEGER",
        "output_tokens": "INTEGER",
        "finish_reason": "VARCHAR",
        "output_sha256": "VARCHAR",
        "arrival_s": "DOUBLE",
        "ttft_ms": "DOUBLE",
        "e2e_ms": "DOUBLE",
        "queue_ms": "DOUBLE",
        "itl_ms": "DOUBLE[]",
        "lag_ms": "DOUBLE",
        "cached_input_tokens": "INTEGER",
        "delivery_tokens": "INTEGER[]",
    },
    "samples": {
        "gpu_index": "INTEGER",
        "timestamp_s": "DOUBLE",
        "gpu_power_w": "DOUBLE",
        "gpu_temperature_c": "DOUBLE",
    },
}
_LATER = {
    "requests": files.LATER_COLUMNS[files.REQUESTS_FILE],
    "samples": files.LATER_COLUMNS[files.TIMESERIES_FILE],
}
_NEEDED = {
    "requests": ("process_index", "request_index", "input_tokens", "output_tokens"),
    "samples": ("gpu_index", "timestamp_s"),
}
"""Columns that no row may lack."""
_FINITE = {
    "requests": {name: name for name in ("arrival_s", "ttft_ms", "e2e_ms", "queue_ms", "lag_ms")}
    | {"itl_ms": "list_sum(itl_ms)"},
    "samples": {name: name for name in ("timestamp_s", "gpu_power_w", "gpu_temperature_c")},
}
"""What may be NULL, but neither NaN nor infinite, because it would spoil every sum."""
_GLOBBED = frozenset("*?[")
Columns = tuple[str, ...]


def stage(connection: DuckDBPyConnection, table: str, paths: Mapping[int, Path]) -> dict[int, str]:
    """Make the temporary table ``staged_{table}`` of the rows of all `paths`, each with its `place`.

    Args:
        table: requests or samples.
        paths: Parquet files by the place of their directory in the batch.

    Returns:
        Why a file was left out, by its place.
    """
    columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS[table].items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE staged_{table} (place INTEGER, {columns})")
    broken = _read(connection, table, sorted(paths.items()), _LATER[table])
    return broken | _wrong_rows(connection, table, paths)


def _read(
    connection: DuckDBPyConnection, table: str, paths: Sequence[tuple[int, Path]], later: Columns
) -> dict[int, str]:
    """
    Args:
        later: which of the columns that came later these files are taken to have; at first all, because to look costs
            as much as a tenth of the reading.
    """
    if not paths:
        return {}
    try:
        if any(_GLOBBED.intersection(str(path)) or storable(str(path)) != str(path) for _, path in paths):
            _read_one_by_one(connection, table, paths)
        else:
            _read_together(connection, table, paths, later)
    except (duckdb.Error, files.UnreadableResult, OSError) as error:
        if len(paths) == 1:
            return _read_alone(connection, table, *paths[0], error)
        groups = _by_columns(connection, table, paths) if later == _LATER[table] else {}
        if groups.keys() - {later}:
            return _merged(_read(connection, table, group, has) for has, group in groups.items())
        middle = len(paths) // 2
        return _merged(_read(connection, table, half, later) for half in (paths[:middle], paths[middle:]))
    return {}


def _read_together(
    connection: DuckDBPyConnection, table: str, paths: Sequence[tuple[int, Path]], later: Columns
) -> None:
    missing = set(_LATER[table]) - set(later)
    columns = ", ".join(f"{name}::{kind} AS {name}" for name, kind in _COLUMNS[table].items() if name not in missing)
    # file_index is the file's place in the list. Its name would be another text for every row.
    connection.execute(
        f"""
        INSERT INTO temp.staged_{table} BY NAME
        SELECT place, {columns}
        FROM read_parquet($names, hive_partitioning = false)
        JOIN (SELECT unnest(range(len($places))) AS file_index, unnest($places) AS place) USING (file_index)
        """,
        {"names": [str(path) for _, path in paths], "places": [place for place, _ in paths]},
    )


def _by_columns(
    connection: DuckDBPyConnection, table: str, paths: Sequence[tuple[int, Path]]
) -> dict[Columns, list[tuple[int, Path]]]:
    """The files by which of the later columns they have; empty if one of them cannot be read at all."""
    try:
        rows = connection.execute(
            "SELECT file_name, list(name) FROM parquet_schema($names) "
            "WHERE name IN (SELECT unnest($later::VARCHAR[])) GROUP BY file_name",
            {"names": [str(path) for _, path in paths], "later": _LATER[table]},
        ).fetchall()
    except duckdb.Error:
        return {}
    there = {name: set(found) for name, found in rows}
    groups: dict[Columns, list[tuple[int, Path]]] = {}
    for place, path in paths:
        has = tuple(name for name in _LATER[table] if name in there.get(str(path), ()))
        groups.setdefault(has, []).append((place, path))
    return groups


def _merged(parts: Iterable[dict[int, str]]) -> dict[int, str]:
    return {place: reason for part in parts for place, reason in part.items()}


def _read_one_by_one(connection: DuckDBPyConnection, table: str, paths: Sequence[tuple[int, Path]]) -> None:
    """For paths that DuckDB would take for patterns, or that are not UTF-8."""
    parts = []
    for place, path in paths:
        part = files.load_table(path.parent, path.name)
        parts.append(part.append_column("place", pa.repeat(pa.scalar(place, pa.int32()), len(part))))
    connection.register("parts", pa.concat_tables(parts))
    connection.execute(f"INSERT INTO temp.staged_{table} BY NAME SELECT * FROM parts")
    connection.unregister("parts")


def _read_alone(connection: DuckDBPyConnection, table: str, place: int, path: Path, error: Exception) -> dict[int, str]:
    """What DuckDB does not read may still be good, and if it is not, the contract says better what is wrong."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return {place: f"{path} is too large"}
    try:
        _read_one_by_one(connection, table, [(place, path)])
    except (duckdb.Error, files.UnreadableResult, OSError) as again:
        return {place: _reason(again, path)}
    return {}


def _wrong_rows(connection: DuckDBPyConnection, table: str, paths: Mapping[int, Path]) -> dict[int, str]:
    wrong = {f"no {name}": f"{name} IS NULL" for name in _NEEDED[table]}
    wrong |= {f"{name} that is not a finite number": f"NOT isfinite({value})" for name, value in _FINITE[table].items()}
    if table == "samples":
        wrong["gpu_index below 0"] = "gpu_index < 0"
    else:
        wrong["a time below 0"] = "least(ttft_ms, e2e_ms) < 0"
    tests = ", ".join(f"bool_or({test})" for test in wrong.values())
    found = connection.execute(f"SELECT place, {tests} FROM temp.staged_{table} GROUP BY place").fetchall()
    reasons = {
        place: reason for place, *seen in found for reason, is_wrong in zip(wrong, seen, strict=True) if is_wrong
    }
    if table == "requests":
        doubled = connection.execute(
            "SELECT DISTINCT place FROM temp.staged_requests "
            "GROUP BY place, process_index, request_index HAVING count(*) > 1"
        ).fetchall()
        reasons |= {place: "the same process_index and request_index" for (place,) in doubled}
    return {place: f"{paths[place]} has rows with {reason}" for place, reason in reasons.items()}


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, files.UnreadableResult):
        return str(error)
    if isinstance(error, OSError):
        return f"{path} cannot be read ({error.strerror})"
    return f"{path} is damaged ({first_line(error)})"
