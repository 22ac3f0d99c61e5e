"""One batch of directories into the database, in one short transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from warehouse.database import attached
from warehouse.database_file import cannot_be_written
from warehouse.intake.records import Broken, Record
from warehouse.intake.rivals import Holder, Key, Rivals, Sorted
from warehouse.intake.rows import Row
from warehouse.intervals import refresh

SIDECAR_TABLES = ("requests", "samples")
ROW_TABLES = ("experiments", "process_results", "warnings", "failures")
_DATA_ERRORS = (duckdb.Error, pa.ArrowException, ValueError, OverflowError)
"""What can be wrong with the values of one directory, found when they are stored."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the directories, each counted once.

    Attributes:
        gone: known, and not there any more.
        pruned: of these, forgotten with all that they had brought.
    """

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    failures: int = 0
    quarantined: int = 0
    duplicates: int = 0
    gone: int = 0
    pruned: int = 0

    def __add__(self, other: Summary) -> Summary:
        return Summary(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __str__(self) -> str:
        text = f"{self.new} new, {self.unchanged} unchanged, {self.failures} failure{'' if self.failures == 1 else 's'}"
        text += f", {self.quarantined} quarantined, {self.duplicates} duplicate{'' if self.duplicates == 1 else 's'}"
        for name in ("updated", "gone", "pruned"):
            if count := getattr(self, name):
                text += f", {count} {name}"
        return text


@dataclass(frozen=True, slots=True)
class Landing:
    """What all batches of one ingest share.

    Attributes:
        wait_s: how long to wait for another process to let go of the database (s).
        rivals: decides between directories with the same experiment.
        report: is given one line for each directory that is quarantined.
        moved: names that the batches found something else for; they are not gone.
        again: directories to be read again once all others were, because what they were compared with changed.
        doubled: experiment_id of what was found to be a copy, by name.
        refused: names that were quarantined.
        replaced: ids of which rows were deleted, because they come from elsewhere or are read anew.
    """

    database: Path
    wait_s: float
    rivals: Rivals
    report: Callable[[str], object]
    now: Callable[[], datetime]
    moved: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    doubled: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Replaced:
    """What became of what the directories of a batch had brought in earlier.

    Attributes:
        updated: results of the batch that are not new therefore.
        touched: campaigns that lost a run.
        ids: of the experiments whose rows went.
        copies: directories that held the same and are to be looked at again.
    """

    updated: int
    touched: set[str]
    ids: set[str]
    copies: set[str]


def land(batch: Sequence[Record | Broken], connection: DuckDBPyConnection, landing: Landing) -> Summary:
    """Store a batch in one transaction; if the database refuses a value, find the directory that has it by halving.

    Args:
        connection: a staging connection, with the batch's requests and samples in temporary tables.

    Raises:
        WarehouseError: the database cannot be used.
    """
    try:
        with attached(connection, landing.database, landing.wait_s):
            parts = landing.rivals.sort(batch, _holders(connection, batch))
            replaced = _replace_old_rows(connection, parts, landing.replaced)
            _insert(connection, parts.taken)
            _keep_books(connection, parts, landing)
            refresh(connection, replaced.touched | {one.campaign_id for one in parts.taken if one.campaign_id})
    except _DATA_ERRORS as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            return land(batch[:middle], connection, landing) + land(batch[middle:], connection, landing)
        if isinstance(batch[0], Broken):
            raise cannot_be_written(landing.database, error) from None
        reason = f"does not fit the tables ({str(error).splitlines()[0]}). Repair or remove it, then ingest again."
        return land([Broken(batch[0].directory, reason)], connection, landing)
    _remember(batch, parts, replaced, landing)
    for broken in parts.broken:
        landing.report(f"quarantined: {broken.directory}: {broken.reason.removeprefix(broken.directory + '/')}")
    failures = sum(record.kind == "failure" for record in parts.taken)
    return Summary(
        new=len(parts.taken) - failures - replaced.updated,
        updated=replaced.updated,
        failures=failures,
        quarantined=len(parts.broken),
        duplicates=len(parts.duplicates),
    )


def _remember(batch: Sequence[Record | Broken], parts: Sorted, replaced: _Replaced, landing: Landing) -> None:
    """Tell the batches to come what became of this one, once it is stored."""
    landing.rivals.remember(batch, parts)
    names = {record.directory for record in batch}
    landing.moved.update(parts.moved_from)
    landing.replaced.update(replaced.ids)
    # What is unread yet will be judged by what this batch left.
    landing.again.update(replaced.copies - names - landing.rivals.unread, (one.directory for one in parts.postponed))
    landing.doubled.update({record.directory: record.experiment_id for record in parts.duplicates})
    landing.refused.update(broken.directory for broken in parts.broken)


def forget(connection: DuckDBPyConnection, directories: Sequence[str]) -> set[str]:
    """Delete what directories brought in, their place in the books included.

    Returns:
        Campaigns that lost a run, which the caller refreshes.
    """
    touched = _delete_rows(connection, _ids_of(connection, directories))
    _delete(connection, "ingested_directories", "directory", directories)
    return touched


def copies_of(connection: DuckDBPyConnection, directories: Sequence[str]) -> list[tuple[str, str]]:
    """Those of `directories` that have copies that were there the last time, each with each of them."""
    return connection.execute(
        "SELECT holder.directory, copy.directory FROM ingested_directories AS holder "
        "JOIN ingested_directories AS copy USING (experiment_id) WHERE holder.kind <> 'duplicate' "
        "AND copy.kind = 'duplicate' AND copy.gone_since IS NULL AND holder.directory IN (SELECT unnest(?::VARCHAR[]))",
        [directories],
    ).fetchall()


def forget_broken(connection: DuckDBPyConnection, directories: Sequence[str]) -> None:
    """Take directories out of quarantine."""
    _delete(connection, "quarantine", "directory", directories)


def mark_gone(connection: DuckDBPyConnection, directories: Sequence[str], since: datetime | None) -> None:
    """Note that directories are not there any more; None: they are there again."""
    connection.execute(
        "UPDATE ingested_directories SET gone_since = ? WHERE directory IN (SELECT unnest(?::VARCHAR[]))",
        [since, directories],
    )


def _holders(connection: DuckDBPyConnection, batch: Iterable[Record | Broken]) -> dict[Key, Holder]:
    ids = [record.experiment_id for record in batch if isinstance(record, Record)]
    rows = connection.execute(
        "SELECT kind, experiment_id, directory, content_digest FROM ingested_directories "
        "WHERE kind <> 'duplicate' AND experiment_id IN (SELECT unnest(?::VARCHAR[]))",
        [ids],
    ).fetchall()
    return {(kind, experiment_id): Holder(directory, digest) for kind, experiment_id, directory, digest in rows}


def _replace_old_rows(connection: DuckDBPyConnection, parts: Sorted, replaced: set[str]) -> _Replaced:
    """Delete what the directories that were read had brought in earlier.

    Args:
        replaced: ids that earlier batches did this to.
    """
    names = [record.directory for record in (*parts.taken, *parts.duplicates)]
    old = _ids_of(connection, [*names, *parts.moved_from])
    touched = _delete_rows(connection, old)
    ids_before = {experiment_id for _, experiment_id, _ in old}
    directories_before = {directory for _, _, directory in old}
    updated = sum(
        record.kind == "result"
        and (
            record.directory in directories_before
            or record.experiment_id in ids_before
            or record.experiment_id in replaced
        )
        for record in parts.taken
    )
    return _Replaced(updated, touched, ids_before, _forget_copies(connection, sorted(ids_before)))


def _forget_copies(connection: DuckDBPyConnection, experiment_ids: Sequence[str]) -> set[str]:
    """Names of the copies of what goes: they may now be the only ones, so they are to be looked at again."""
    rows = connection.execute(
        "DELETE FROM ingested_directories WHERE kind = 'duplicate' AND experiment_id IN (SELECT unnest(?::VARCHAR[])) "
        "RETURNING directory",
        [experiment_ids],
    ).fetchall()
    return {name for (name,) in rows}


def _ids_of(connection: DuckDBPyConnection, directories: Sequence[str]) -> list[tuple[str, str, str]]:
    """Kind, experiment_id and name of those directories that hold something."""
    return connection.execute(
        "SELECT kind, experiment_id, directory FROM ingested_directories "
        "WHERE kind <> 'duplicate' AND directory IN (SELECT unnest(?::VARCHAR[]))",
        [directories],
    ).fetchall()


def _delete_rows(connection: DuckDBPyConnection, old: Sequence[tuple[str, str, str]]) -> set[str]:
    """Delete experiments and failures; the campaigns that lost a run."""
    failures = [experiment_id for kind, experiment_id, _ in old if kind == "failure"]
    results = [experiment_id for kind, experiment_id, _ in old if kind == "result"]
    if failures:
        _delete(connection, "failures", "experiment_id", failures)
    if not results:
        return set()
    found = connection.execute(
        "SELECT experiment_key, campaign_id FROM experiments WHERE experiment_id IN (SELECT unnest(?::VARCHAR[]))",
        [results],
    ).fetchall()
    keys = [key for key, _ in found]
    for table in SIDECAR_TABLES:
        # Rows of one batch lie together, so the range spares most of the table.
        connection.execute(
            f"DELETE FROM {table} WHERE experiment_key BETWEEN ? AND ? "
            "AND experiment_key IN (SELECT unnest(?::INTEGER[]))",
            [min(keys, default=0), max(keys, default=0), keys],
        )
    for table in ("process_results", "warnings", "experiments"):
        _delete(connection, table, "experiment_id", results)
    return {campaign_id for _, campaign_id in found}


def _insert(connection: DuckDBPyConnection, records: Sequence[Record]) -> None:
    (last,) = connection.execute("SELECT coalesce(max(experiment_key), 0) FROM experiments").fetchall()[0]
    keys = {record.place: key for key, record in enumerate(records, start=last + 1) if record.kind == "result"}
    for record in records:
        for row in record.rows.get("experiments", ()):
            row["experiment_key"] = keys[record.place]
    for table in ROW_TABLES:
        _append(connection, table, [row for record in records for row in record.rows.get(table, ())])
    for table in SIDECAR_TABLES:
        of_place = {record.place: keys[record.place] for record in records if table in record.sidecars}
        if of_place:
            _insert_staged(connection, table, of_place)


def _insert_staged(connection: DuckDBPyConnection, table: str, keys: Mapping[int, int]) -> None:
    staged = {place for (place,) in connection.execute(f"SELECT DISTINCT place FROM temp.staged_{table}").fetchall()}
    shifts = {key - place for place, key in keys.items()}
    if len(shifts) == 1 and staged <= keys.keys():  # nothing of the batch is left out: a sum is quicker than a join
        connection.execute(
            f"INSERT INTO {table} BY NAME "
            f"SELECT place + {shifts.pop()} AS experiment_key, * EXCLUDE (place) FROM temp.staged_{table}"
        )
        return
    connection.execute(
        f"""
        INSERT INTO {table} BY NAME
        SELECT experiment_key, staged.* EXCLUDE (place)
        FROM temp.staged_{table} AS staged
        JOIN (SELECT unnest($places) AS place, unnest($keys) AS experiment_key) USING (place)
        """,
        {"places": list(keys), "keys": list(keys.values())},
    )


def _keep_books(connection: DuckDBPyConnection, parts: Sorted, landing: Landing) -> None:
    now = landing.now()
    read = [*parts.taken, *parts.duplicates]
    gone = [*(record.directory for record in read), *parts.moved_from]
    # What lost its place in the books to this batch may have been refused by an earlier one.
    judged = {*gone, *(broken.directory for broken in parts.broken)} - landing.refused
    _delete(connection, "quarantine", "directory", sorted(judged))
    _delete(connection, "ingested_directories", "directory", gone)
    doubled = {record.directory for record in parts.duplicates}
    books: list[Row] = [
        {
            "directory": record.directory,
            "kind": "duplicate" if record.directory in doubled else record.kind,
            "experiment_id": record.experiment_id,
            "signature": record.signature,
            "content_digest": record.content_digest,
            "ingested_at": now,
        }
        for record in read
    ]
    _append(connection, "ingested_directories", books)
    refused: list[Row] = [
        {"directory": broken.directory, "reason": broken.reason, "quarantined_at": now} for broken in parts.broken
    ]
    _append(connection, "quarantine", refused)


def _append(connection: DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    if rows:
        connection.register("batch", pa.table({name: [row[name] for row in rows] for name in rows[0]}))
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM batch")
        connection.unregister("batch")


def _delete(connection: DuckDBPyConnection, table: str, column: str, values: Sequence[str]) -> None:
    connection.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT unnest(?::VARCHAR[]))", [values])
