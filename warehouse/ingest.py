"""From directories to the database: incremental, idempotent, and one broken directory stops nothing.

Directories are read while the database is closed, because DuckDB lets nobody else in while one
process writes; then each batch is one short transaction.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from images.contract.files import find_directories
from warehouse.database import reading, writing
from warehouse.errors import EmptyWarehouse, WarehouseError
from warehouse.records import Broken, Record, Row, name_of, read_directory, signature_of

BATCH = 500
BATCH_BYTES = 256 * 2**20
"""A batch ends with the directory whose sidecars bring it to this, because it is held in memory (bytes)."""
SIDECAR_TABLES = ("requests", "samples")
RESULT_TABLES = ("experiments", "process_results", "warnings", *SIDECAR_TABLES)
FAILURE_TABLES = ("failures",)

_log = logging.getLogger(__name__)
_DATA_ERRORS = (duckdb.Error, pa.ArrowException, ValueError, OverflowError)
"""What can be wrong with the values of one directory, found when they are stored."""


@dataclass(frozen=True)
class Summary:
    """What became of the directories, each counted once."""

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    failures: int = 0
    quarantined: int = 0
    duplicates: int = 0

    def __add__(self, other: Summary) -> Summary:
        return Summary(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __str__(self) -> str:
        text = f"{self.new} new, {self.unchanged} unchanged, {self.failures} failures"
        text += f", {self.quarantined} quarantined, {self.duplicates} duplicates"
        return text + (f", {self.updated} updated" if self.updated else "")


@dataclass(frozen=True)
class _Holder:
    """The directory that an experiment in the database came from."""

    directory: str
    content_sha256: str


@dataclass(frozen=True)
class _Sorted:
    """A batch after a look at what the database has already."""

    taken: list[Record]
    duplicates: list[Record]
    broken: list[Broken]
    moved_from: list[str]


def ingest(
    roots: Sequence[Path],
    database: Path,
    wait_s: float = 30.0,
    report: Callable[[str], object] = _log.info,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Summary:
    """Take every result and failure below `roots` that the database does not have yet.

    Args:
        wait_s: how long to wait for another process to let go of the database (s).
        report: is given one line for each directory that is quarantined or doubled and each warning.

    Raises:
        WarehouseError: a root is not a readable directory, or the database cannot be used.
    """
    roots = [_checked_root(root) for root in roots]
    if not database.absolute().parent.is_dir():
        raise WarehouseError(f"the folder of {database} does not exist. Make it, or give another file with --db.", 2)
    known, quarantined = _bookkeeping(database, wait_s)
    found: set[str] = set()
    summary = Summary()

    def fresh() -> Iterator[Path]:
        nonlocal summary
        for directory in dict.fromkeys(directory for root in roots for directory in find_directories(root)):
            found.add(name_of(directory))
            if _is_unchanged(directory, known):
                summary += Summary(unchanged=1)
            else:
                yield directory

    for batch in _batches(map(read_directory, fresh())):
        for record in batch:
            for note in getattr(record, "notes", ()):
                report(f"warning: {note}")
        summary += _land(batch, database, wait_s, report, now)
    if not found:
        report(f"no result.json or failure.json below {', '.join(map(str, roots))}")
    _forget_removed(database, wait_s, [name for name in quarantined - found if _is_below(name, roots)])
    return summary


def _checked_root(root: Path) -> Path:
    if not root.exists():
        raise WarehouseError(f"{root} does not exist. Give the folder that the runner wrote its results to.", 2)
    if not root.is_dir():
        raise WarehouseError(f"{root} is not a directory. Give the folder that holds the result directories.", 2)
    if not os.access(root, os.R_OK | os.X_OK):
        raise WarehouseError(f"{root} cannot be read (permission denied). Correct its permissions.", 2)
    return root.resolve()


def _bookkeeping(database: Path, wait_s: float) -> tuple[dict[str, str], set[str]]:
    """Signatures of what was read, by directory, and the directories in quarantine."""
    with suppress(EmptyWarehouse), reading(database, wait_s) as connection:
        known = dict(connection.execute("SELECT directory, signature FROM ingested_directories").fetchall())
        quarantined = {name for (name,) in connection.execute("SELECT directory FROM quarantine").fetchall()}
        # A directory that is broken now may be known from better days.
        return {name: signature for name, signature in known.items() if name not in quarantined}, quarantined
    return {}, set()


def _batches(records: Iterable[Record | Broken]) -> Iterator[list[Record | Broken]]:
    batch: list[Record | Broken] = []
    size = 0
    for record in records:
        batch.append(record)
        size += sum(table.nbytes for table in record.sidecars.values()) if isinstance(record, Record) else 0
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _is_unchanged(directory: Path, known: dict[str, str]) -> bool:
    with suppress(OSError):
        return known.get(name_of(directory)) == signature_of(directory)
    return False


def _land(
    batch: Sequence[Record | Broken],
    database: Path,
    wait_s: float,
    report: Callable[[str], object],
    now: Callable[[], datetime],
) -> Summary:
    """Store a batch in one transaction; if the database refuses a value, find the directory that has it by halving."""
    try:
        with writing(database, wait_s) as connection:
            parts = _sort(batch, _holders(connection, batch))
            updated = _replace_old_rows(connection, parts)
            _insert(connection, parts.taken)
            _keep_books(connection, parts, now())
    except _DATA_ERRORS as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            return _land(batch[:middle], database, wait_s, report, now) + _land(
                batch[middle:], database, wait_s, report, now
            )
        if isinstance(batch[0], Broken):
            raise WarehouseError(f"{database} cannot be written: {str(error).splitlines()[0]}") from None
        reason = f"does not fit the tables ({str(error).splitlines()[0]}). Repair or remove it, then ingest again."
        return _land([Broken(batch[0].directory, reason)], database, wait_s, report, now)
    for broken in parts.broken:
        report(f"quarantined: {broken.directory}: {broken.reason.removeprefix(broken.directory + '/')}")
    for record in parts.duplicates:
        report(f"duplicate: {record.directory} has the same content as another directory ({record.experiment_id})")
    failures = sum(record.kind == "failure" for record in parts.taken)
    return Summary(
        new=len(parts.taken) - failures - updated,
        updated=updated,
        failures=failures,
        quarantined=len(parts.broken),
        duplicates=len(parts.duplicates),
    )


def _holders(connection: DuckDBPyConnection, batch: Iterable[Record | Broken]) -> dict[tuple[str, str], _Holder]:
    ids = [record.experiment_id for record in batch if isinstance(record, Record)]
    rows = connection.execute(
        "SELECT kind, experiment_id, directory, content_sha256 FROM ingested_directories "
        "WHERE kind <> 'duplicate' AND experiment_id IN (SELECT unnest(?::VARCHAR[]))",
        [ids],
    ).fetchall()
    return {(kind, experiment_id): _Holder(directory, digest) for kind, experiment_id, directory, digest in rows}


def _sort(batch: Iterable[Record | Broken], known: dict[tuple[str, str], _Holder]) -> _Sorted:
    """The first directory of an experiment stays; the same again is a duplicate, something else a conflict."""
    taken: list[Record] = []
    duplicates: list[Record] = []
    broken: list[Broken] = []
    moved_from: list[str] = []
    holders = dict(known)
    for record in batch:
        if isinstance(record, Broken):
            broken.append(record)
            continue
        key = (record.kind, record.experiment_id)
        holder = holders.get(key)
        if holder is None or holder.directory == record.directory:
            taken.append(record)
            holders[key] = _Holder(record.directory, record.content_sha256)
        elif holder.content_sha256 != record.content_sha256:
            broken.append(Broken(record.directory, _conflict(record, holder)))
        elif not Path(holder.directory).exists():
            taken.append(record)
            moved_from.append(holder.directory)
            holders[key] = _Holder(record.directory, record.content_sha256)
        else:
            duplicates.append(record)
    return _Sorted(taken, duplicates, broken, moved_from)


def _conflict(record: Record, holder: _Holder) -> str:
    return (
        f"has the experiment_id {record.experiment_id} of {holder.directory} but other content. "
        "An id names one cycle; remove the directory that is wrong, then ingest again."
    )


def _replace_old_rows(connection: DuckDBPyConnection, parts: _Sorted) -> int:
    """Delete what the taken directories brought in earlier; how many of the results are not new therefore."""
    directories = [record.directory for record in parts.taken]
    old = connection.execute(
        "SELECT kind, experiment_id, directory FROM ingested_directories "
        "WHERE kind <> 'duplicate' AND directory IN (SELECT unnest(?::VARCHAR[]))",
        [[*directories, *parts.moved_from]],
    ).fetchall()
    for kind, tables in (("result", RESULT_TABLES), ("failure", FAILURE_TABLES)):
        ids = [experiment_id for old_kind, experiment_id, _ in old if old_kind == kind]
        for table in tables if ids else ():
            connection.execute(f"DELETE FROM {table} WHERE experiment_id IN (SELECT unnest(?::VARCHAR[]))", [ids])
    # Copies of what goes may now be the only ones, so they are looked at again next time.
    connection.execute(
        "DELETE FROM ingested_directories WHERE kind = 'duplicate' AND experiment_id IN (SELECT unnest(?::VARCHAR[]))",
        [[experiment_id for _, experiment_id, _ in old]],
    )
    ids_before = {experiment_id for _, experiment_id, _ in old}
    directories_before = {directory for _, _, directory in old}
    return sum(
        record.kind == "result" and (record.directory in directories_before or record.experiment_id in ids_before)
        for record in parts.taken
    )


def _insert(connection: DuckDBPyConnection, records: Sequence[Record]) -> None:
    for table in ("experiments", "process_results", "warnings", "failures"):
        rows = [row for record in records for row in record.rows.get(table, ())]
        _append(connection, table, rows)
    # One dictionary for all: DuckDB then reads each id once, not once for every row.
    ids = pa.array([record.experiment_id for record in records], pa.string())
    for table in SIDECAR_TABLES:
        parts = []
        for index, record in enumerate(records):
            if len(part := record.sidecars.get(table, ())):
                column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(index, pa.int32()), len(part)), ids)
                parts.append(part.append_column("experiment_id", column))
        if parts:
            _append_table(connection, table, pa.concat_tables(parts))


def _keep_books(connection: DuckDBPyConnection, parts: _Sorted, now: datetime) -> None:
    read = [*parts.taken, *parts.duplicates]
    gone = [*(record.directory for record in read), *parts.moved_from]
    seen = [*gone, *(broken.directory for broken in parts.broken)]
    _delete_directories(connection, "quarantine", seen)
    _delete_directories(connection, "ingested_directories", gone)
    doubled = {record.directory for record in parts.duplicates}
    books = [
        {
            "directory": record.directory,
            "kind": "duplicate" if record.directory in doubled else record.kind,
            "experiment_id": record.experiment_id,
            "signature": record.signature,
            "content_sha256": record.content_sha256,
            "ingested_at": now,
        }
        for record in read
    ]
    _append(connection, "ingested_directories", books)
    refused = [
        {"directory": broken.directory, "reason": broken.reason, "quarantined_at": now} for broken in parts.broken
    ]
    _append(connection, "quarantine", refused)


def _append(connection: DuckDBPyConnection, table: str, rows: list[Row]) -> None:
    if rows:
        _append_table(connection, table, pa.Table.from_pylist(rows))


def _append_table(connection: DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    connection.register("batch", rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM batch")
    connection.unregister("batch")


def _delete_directories(connection: DuckDBPyConnection, table: str, names: list[str]) -> None:
    connection.execute(f"DELETE FROM {table} WHERE directory IN (SELECT unnest(?::VARCHAR[]))", [names])


def _is_below(name: str, roots: Iterable[Path]) -> bool:
    return any(Path(name).is_relative_to(root) for root in roots)


def _forget_removed(database: Path, wait_s: float, names: list[str]) -> None:
    """Take directories that are no longer there out of quarantine."""
    if names:
        with writing(database, wait_s) as connection:
            _delete_directories(connection, "quarantine", names)
