"""Opening the DuckDB file: waiting for its lock, keeping its tables, refusing what is not a warehouse."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from warehouse.calls import StillRunning
from warehouse.database_file import (
    NO_EXTENSIONS,
    cannot_be_opened,
    cannot_be_written,
    is_made,
    locked,
    make,
    not_a_database,
    queue_of,
    refuse_other_formats,
)
from warehouse.errors import EmptyWarehouse, WarehouseError, first_line
from warehouse.migrations import migrate
from warehouse.schema import (
    OLDEST_VERSION,
    SCHEMA_VERSION,
    create_all,
    create_views,
    drop_views,
    views_digest,
)
from warehouse.scratch import remove_orphans, scratch_folder

MEMORY_LIMIT = "2GB"
"""Of a reader. Beyond it DuckDB uses a scratch folder, or ends the query."""

WRITER_MEMORY_LIMIT = "600MB"
"""Of each staging connection; ingest has two."""
_MOST_SPILLED = "16GB"
_GIVES_WAY_S = 5.0
"""How long a reader lets a writer that waits go first (s), but at most half of its own patience.

Not for ever, for that one may wait for a slow query."""
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")


@contextmanager
def staging() -> Iterator[DuckDBPyConnection]:
    """A database in memory, to prepare what `attached` will store. What does not fit goes to a scratch folder.

    With one thread: ingest reads, stages and stores side by side, and several are slower on small files.
    """
    with scratch_folder() as scratch:
        config: dict[str, str | bool] = {
            **NO_EXTENSIONS,
            "memory_limit": WRITER_MEMORY_LIMIT,
            "temp_directory": str(scratch),
            "max_temp_directory_size": _MOST_SPILLED,
            "preserve_insertion_order": False,
            "threads": "1",
        }
        with duckdb.connect(config=dict(config)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection


@contextmanager
def attached(connection: DuckDBPyConnection, path: Path, wait_s: float) -> Iterator[None]:
    """One transaction of a staging connection on the warehouse in `path`, which is made, or brought up to date, first.

    Nobody else can open it meanwhile. Inside, plain table names are the warehouse's, and `temp.x` what was staged.

    Args:
        wait_s: how long to wait for other processes to let go of it (s).

    Raises:
        WarehouseError: in use for longer than that, not a warehouse, of a newer version, or it cannot be written.
    """
    # An absolute path, because DuckDB gives a meaning of its own to names like :memory: and md:x.
    name = str(path.absolute()).replace("'", "''")
    if not is_made(path):
        make(path)
    with _announced(path):
        _patiently(path, wait_s, lambda: connection.execute(f"ATTACH '{name}' AS warehouse (TYPE duckdb)"))
    try:
        connection.execute("USE warehouse")
        _bring_up_to_date(connection, path)
        connection.begin()
        yield
        connection.commit()
    except duckdb.OperationalError as error:
        raise cannot_be_written(path, error) from None
    finally:
        _let_go(connection, path)


@contextmanager
def writing(path: Path, wait_s: float) -> Iterator[DuckDBPyConnection]:
    """One transaction on the warehouse in `path`; as `attached`, with nothing staged."""
    with staging() as connection, attached(connection, path, wait_s):
        yield connection


def prepare(path: Path, wait_s: float) -> None:
    """Make the tables where there is no file yet; it takes a while, in which other things can be done.

    Raises:
        WarehouseError: as `attached`.
    """
    if not is_made(path):
        with writing(path, wait_s):
            pass


def upgrade(path: Path, wait_s: float) -> int | None:
    """Bring the tables of an earlier version up to date.

    Returns:
        The version that they had; None if there are none yet.

    Raises:
        WarehouseError: in use, not a warehouse, from before the first release, or of a newer version.
    """
    if not is_made(path):
        return None
    remove_orphans(path.resolve().parent)
    connection = _open(path, wait_s, NO_EXTENSIONS)
    try:
        found = _version(connection, path)
    finally:
        connection.close()
    if found is not None and found < SCHEMA_VERSION:
        with writing(path, wait_s):
            pass
    return found


@contextmanager
def reading(path: Path, wait_s: float) -> Iterator[DuckDBPyConnection]:
    """The warehouse in `path` for queries by anybody: no writing, no other files, no change of settings.

    read_only alone would still let a query read and write any file of the user's.

    Args:
        wait_s: how long to wait for a writer to finish (s).

    Raises:
        EmptyWarehouse: there is no such file, or nothing was ever ingested into it.
        WarehouseError: in use for longer than that, or not a warehouse.
    """
    if not is_made(path):
        raise EmptyWarehouse(path)
    with scratch_folder() as scratch:
        connection = _open(path, wait_s, _reader_config(scratch))
        is_free = True
        try:
            _lock_settings(connection)
            _require_this_version(connection, path)
            yield connection
        except StillRunning:
            is_free = False
            raise
        finally:
            if is_free:
                connection.close()


@contextmanager
def exporting(path: Path, wait_s: float, folder: Path) -> Iterator[DuckDBPyConnection]:
    """As `reading`, and COPY may write into `folder`, where also goes what does not fit into memory.

    For our own queries alone.

    Raises:
        EmptyWarehouse, WarehouseError: as `reading`.
    """
    if not is_made(path):
        raise EmptyWarehouse(path)
    connection = _open(path, wait_s, _reader_config(folder / "spilled"))
    try:
        name = str(folder.absolute()).replace("'", "''")
        connection.execute(f"SET allowed_directories = ['{name}']")
        _lock_settings(connection)
        _require_this_version(connection, path)
        yield connection
    finally:
        connection.close()


def _reader_config(scratch: Path) -> dict[str, str | bool]:
    """What does not fit into memory goes to `scratch`: DuckDB lets every query write where it spills."""
    return {
        **NO_EXTENSIONS,
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(scratch),
        "max_temp_directory_size": _MOST_SPILLED,
    }


def _lock_settings(connection: DuckDBPyConnection) -> None:
    """The last settings; that of external access is not among those of the opening, which could then set no folder."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET lock_configuration = true")


def _require_this_version(connection: DuckDBPyConnection, path: Path) -> None:
    found = _version(connection, path)
    if found is None:
        raise EmptyWarehouse(path)
    if found != SCHEMA_VERSION:
        raise WarehouseError(
            f"{path} has tables of version {found}; this joulehouse has version {SCHEMA_VERSION}. "
            f"Run `warehouse schema --upgrade --db {path}`, or ingest into it: both bring it up to date.",
            2,
        )


def _open(path: Path, wait_s: float, config: Mapping[str, str | bool]) -> DuckDBPyConnection:
    gives_way_until = time.monotonic() + min(_GIVES_WAY_S, wait_s / 2)

    def connect() -> DuckDBPyConnection:
        if time.monotonic() < gives_way_until:
            _give_way(path)
        return duckdb.connect(str(path.absolute()), read_only=True, config=dict(config))

    return _patiently(path, wait_s, connect)


@contextmanager
def _announced(path: Path) -> Iterator[None]:
    """Tell readers that a writer waits: a few that poll without a pause would never leave it a gap."""
    with locked(queue_of(path), fcntl.LOCK_SH):
        yield


def _give_way(path: Path) -> None:
    """
    Raises:
        duckdb.IOException: a writer waits for the database; as if it were locked already.
    """
    with suppress(OSError), queue_of(path).open("rb") as queue:  # without a queue, or where nothing can be locked
        try:
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise duckdb.IOException("Could not set lock: a writer waits") from None


def _patiently(path: Path, wait_s: float, open_: Callable[[], DuckDBPyConnection]) -> DuckDBPyConnection:
    retrying = Retrying(
        retry=retry_if_exception(_is_locked),
        # Short enough for one more attempt after a reader has given way.
        wait=wait_random_exponential(multiplier=0.05, max=min(1.0, wait_s / 4)),
        stop=stop_before_delay(wait_s),
        reraise=True,
    )
    try:
        refuse_other_formats(path)
        return retrying(open_)
    except OSError as error:
        raise cannot_be_opened(path, error) from None
    except duckdb.Error as error:
        raise _explained(error, path, wait_s) from None


def _let_go(connection: DuckDBPyConnection, path: Path) -> None:
    try:
        with suppress(duckdb.TransactionException):  # nothing to roll back
            connection.rollback()
        connection.execute("USE memory")
        connection.execute("DETACH warehouse")
    except duckdb.Error as error:
        raise cannot_be_written(path, error) from None


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and "Could not set lock" in str(error)


def _explained(error: duckdb.Error, path: Path, wait_s: float) -> WarehouseError:
    if _is_locked(error):
        holder = _HOLDER.search(str(error))
        who = f"process {holder['pid']} ({Path(holder['program']).name})" if holder else "another process"
        return WarehouseError(
            f"{path} is in use by {who}; waited {wait_s:g} s. Try again when it has finished, or give a longer --wait."
        )
    if "not a valid DuckDB" in str(error):
        return not_a_database(path)
    return WarehouseError(f"{path} cannot be opened: {first_line(error)}. Give another file with --db.", 2)


def _bring_up_to_date(connection: DuckDBPyConnection, path: Path) -> None:
    """Make the tables, or those of an earlier version into this one's, or the views anew, each in one transaction."""
    found = _version(connection, path)
    if found is None:
        connection.begin()
        create_all(connection)
        connection.commit()
        return
    if found < SCHEMA_VERSION:
        connection.begin()
        migrate(connection, found)
        connection.commit()
    if connection.execute("SELECT views_digest FROM warehouse_schema").fetchall() != [(views_digest(),)]:
        connection.begin()
        drop_views(connection)
        create_views(connection)
        connection.commit()


def _version(connection: DuckDBPyConnection, path: Path) -> int | None:
    """Of the tables; None if there are none.

    Raises:
        WarehouseError: other tables, or those of a version that is too old or too new.
    """
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()")
    names = {name for (name,) in tables.fetchall()}
    if not names:
        return None
    if "warehouse_schema" not in names:
        raise WarehouseError(f"{path} holds other tables and is not a warehouse. Give another file with --db.", 2)
    found = [int(version) for (version,) in connection.execute("SELECT version FROM warehouse_schema").fetchall()]
    if len(found) != 1 or found[0] < OLDEST_VERSION:
        raise WarehouseError(
            f"{path} has tables of version {', '.join(map(str, found))}, from before the first release. "
            "Ingest the result directories into a new file.",
            2,
        )
    if found[0] > SCHEMA_VERSION:
        raise WarehouseError(
            f"{path} has tables of version {found[0]}; this joulehouse knows them up to {SCHEMA_VERSION}. "
            "Use a newer joulehouse, or ingest the result directories into a new file.",
            2,
        )
    return found[0]
