"""Opening the DuckDB file: waiting for its lock, keeping its tables, refusing what is not a warehouse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from warehouse.errors import EmptyWarehouse, WarehouseError

SCHEMA_VERSION = 2
MEMORY_LIMIT = "2GB"
"""Of a reader. Beyond it DuckDB uses a temporary folder beside the database, or ends the query."""

_FOLDER = Path(__file__).parent
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
# DuckDB would otherwise try to download an extension when it is given, say, a SQLite file.
_NO_EXTENSIONS = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}


@contextmanager
def writing(path: Path, wait_s: float) -> Iterator[DuckDBPyConnection]:
    """One transaction on the warehouse in `path`, which is made if missing; nobody else can open it meanwhile.

    Args:
        wait_s: how long to wait for other processes to let go of it (s).

    Raises:
        WarehouseError: in use for longer than that, not a warehouse, or it cannot be written.
    """
    connection = _open(path, wait_s, read_only=False, config=_NO_EXTENSIONS)
    try:
        connection.begin()
        _ensure_tables(connection, path)
        yield connection
        connection.commit()
    except duckdb.OperationalError as error:
        raise WarehouseError(f"{path} cannot be written: {_first_line(error)}") from None
    finally:
        connection.close()  # what is not committed is rolled back


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
    if not path.exists():
        raise EmptyWarehouse(path)
    config: dict[str, str | bool] = {**_NO_EXTENSIONS, "enable_external_access": False, "memory_limit": MEMORY_LIMIT}
    connection = _open(path, wait_s, read_only=True, config=config)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        if not _has_tables(connection, path):
            raise EmptyWarehouse(path)
        yield connection
    finally:
        connection.close()


def _open(path: Path, wait_s: float, *, read_only: bool, config: Mapping[str, str | bool]) -> DuckDBPyConnection:
    retrying = Retrying(
        retry=retry_if_exception(_is_locked),
        wait=wait_random_exponential(multiplier=0.05, max=1),
        stop=stop_before_delay(wait_s),
        reraise=True,
    )
    try:
        _refuse_other_formats(path)
        # An absolute path, because DuckDB gives a meaning of its own to names like :memory: and md:x.
        return retrying(duckdb.connect, str(path.absolute()), read_only=read_only, config=dict(config))
    except OSError as error:
        raise WarehouseError(f"{path} cannot be opened ({error.strerror}). Give another file with --db.", 2) from None
    except duckdb.Error as error:
        raise _explained(error, path, wait_s) from None


def _refuse_other_formats(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb") as stream:
        head = stream.read(12)
    # A shorter file may be one that another process is just creating; DuckDB knows.
    if len(head) == 12 and head[8:] != b"DUCK":
        raise _not_a_database(path)


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
        return _not_a_database(path)
    return WarehouseError(f"{path} cannot be opened: {_first_line(error)}. Give another file with --db.", 2)


def _not_a_database(path: Path) -> WarehouseError:
    return WarehouseError(f"{path} is not a DuckDB database. Give another file with --db.", 2)


def _ensure_tables(connection: DuckDBPyConnection, path: Path) -> None:
    if not _has_tables(connection, path):
        connection.execute((_FOLDER / "schema.sql").read_text(encoding="utf-8"))
        connection.execute("INSERT INTO warehouse_schema VALUES (?)", [SCHEMA_VERSION])
        connection.execute((_FOLDER / "views.sql").read_text(encoding="utf-8"))


def _has_tables(connection: DuckDBPyConnection, path: Path) -> bool:
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if not tables:
        return False
    if "warehouse_schema" not in tables:
        raise WarehouseError(f"{path} holds other tables and is not a warehouse. Give another file with --db.", 2)
    found = [version for (version,) in connection.execute("SELECT version FROM warehouse_schema").fetchall()]
    if found != [SCHEMA_VERSION]:
        raise WarehouseError(
            f"{path} has tables of version {', '.join(map(str, found))}; this joulehouse has version {SCHEMA_VERSION}. "
            "Ingest the result directories into a new file.",
            2,
        )
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".!")
