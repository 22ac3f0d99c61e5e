"""One query by anybody, with a limit on its time and on its memory."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection, StatementType

from warehouse.calls import Call, StillRunning
from warehouse.database import reading
from warehouse.errors import WarehouseError

ROWS_AT_ONCE = 10_000
MOST_MEMORY = 4 * 2**30
"""More than this a query cannot take (bytes): DuckDB's own limit does not count what a single function makes."""

_KINDS = (StatementType.SELECT, StatementType.EXPLAIN, StatementType.MULTI)
"""Statements that ask. PIVOT is several to DuckDB."""
_WRITES = frozenset({b"copy", b"export"})
_REFUSED = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException)
_REFUSED_INPUT = re.compile("read-only mode|configuration has been locked|Values were not provided")
"""Of errors that a query may also end with."""
_ABOUT_SETTINGS = re.compile(r'\s*Use "SET [^"]*"[^.]*\.?')
"""Advice that nobody can follow here."""
_ARROW_ERRORS = (pa.ArrowException, OSError, MemoryError)
"""What Arrow makes of an error in DuckDB, of any kind."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """Names of the columns and the rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Rows:
    """Names of the columns, and the rows as they come, in lists of `ROWS_AT_ONCE`. To be gone through once."""

    columns: list[str]
    batches: Iterator[list[tuple[Any, ...]]]


@dataclass(frozen=True)
class ArrowRows:
    """The Arrow schema of the columns, whose names may repeat, and the rows as they come. To be gone through once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def run_query(database: Path, query: str, time_limit_s: float = 30.0, wait_s: float = 30.0) -> Answer:
    """Run `query` where it can neither change anything nor touch any other file, and fetch all rows.

    Args:
        time_limit_s: it is stopped after this long (s).
        wait_s: how long to wait for a writer to let go of the database (s).

    Raises:
        EmptyWarehouse: there is nothing to query.
        StillRunning: it ran too long, or Ctrl-C came, and DuckDB is at something that it does not stop. A thread goes
            on with it and holds the database, until that is done or the process ends.
        WarehouseError: with DuckDB's reason; or it is not one statement that asks something. Exit code 2 if it never
            ran, else 1.
    """
    with streamed(database, query, time_limit_s, wait_s) as rows:
        return Answer(rows.columns, [row for batch in rows.batches for row in batch])


@contextmanager
def streamed(database: Path, query: str, time_limit_s: float = 30.0, wait_s: float = 30.0) -> Iterator[Rows]:
    """As `run_query`, but only some rows are in memory at once; the time between two batches does not count.

    The database is let go of before the last batch is handed out, so that whoever looks at a short answer keeps no
    ingest waiting.
    """
    with _asked(database, query, time_limit_s, wait_s) as (connection, limits, let_go):
        result = limits.run(lambda: connection.execute(query))

        def batches() -> Iterator[list[tuple[Any, ...]]]:
            following = fetch()
            while batch := following:
                following = fetch()
                if not following:
                    let_go()
                yield batch

        def fetch() -> list[tuple[Any, ...]]:
            return limits.run(lambda: result.fetchmany(ROWS_AT_ONCE))

        yield Rows([column[0] for column in result.description or ()], batches())


@contextmanager
def streamed_arrow(database: Path, query: str, time_limit_s: float = 30.0, wait_s: float = 30.0) -> Iterator[ArrowRows]:
    """As `streamed`, in Arrow's types."""
    with _asked(database, query, time_limit_s, wait_s) as (connection, limits, _):
        reader = limits.run(lambda: connection.sql(query).to_arrow_reader(ROWS_AT_ONCE))

        def batches() -> Iterator[pa.RecordBatch]:
            with suppress(StopIteration):
                while True:
                    yield limits.run(reader.read_next_batch)

        yield ArrowRows(reader.schema, batches())


@contextmanager
def _asked(
    database: Path, query: str, time_limit_s: float, wait_s: float
) -> Iterator[tuple[DuckDBPyConnection, _Limits, Any]]:
    with ExitStack() as stack:
        connection = stack.enter_context(reading(database, wait_s))
        limits = _Limits(connection, time_limit_s)
        limits.run(lambda: _require_question(connection, query))
        yield connection, limits, stack.close


def _require_question(connection: DuckDBPyConnection, query: str) -> None:
    """One statement, and one that only asks.

    The connection refuses all else by itself, but for a COPY into DuckDB's own temporary folder, which EXPLAIN ANALYZE,
    PIVOT and WITH would run as well.
    """
    if not query.isprintable() and any("\ud800" <= character <= "\udfff" for character in query):
        raise WarehouseError("the query is not UTF-8 text. Give it as UTF-8.", 2)
    statements = connection.extract_statements(query)
    if not statements:
        raise WarehouseError("the query is empty. Give one, such as: warehouse sql 'SELECT * FROM runs'", 2)
    if len(statements) > 1:
        raise WarehouseError(f"these are {len(statements)} statements. Give one at a time.", 2)
    if not _asks(statements[0]) or _WRITES & _keywords(query):
        raise _no_question()


def _asks(statement: duckdb.Statement) -> bool:
    try:
        return statement.type in _KINDS
    except ValueError:  # a kind that DuckDB's Python does not know, such as UPDATE EXTENSIONS
        return False


def _no_question() -> WarehouseError:
    return WarehouseError(
        "only a question can be asked: SELECT, FROM, WITH, VALUES, PIVOT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN. "
        "The database is changed by `warehouse ingest` alone.",
        2,
    )


def _keywords(query: str) -> set[bytes]:
    raw = query.encode()
    tokens = duckdb.tokenize(query)
    ends = [start for start, _ in tokens[1:]] + [len(raw)]
    return {
        raw[start:end].strip().lower()
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind == duckdb.token_type.keyword
    }


class _Limits:
    """What all calls for one query may take together.

    Attributes:
        expired: the time is over, and the query was stopped.
    """

    def __init__(self, connection: DuckDBPyConnection, time_limit_s: float) -> None:
        self._connection = connection
        self._time_limit_s = time_limit_s
        self._left_s = time_limit_s
        self.expired = False

    def run(self, function: Callable[[], Result]) -> Result:
        """One of them; its errors become a `WarehouseError`."""
        call = Call(function, self._connection.interrupt)
        began_s = time.monotonic()
        try:
            with _memory_limit():
                self.expired = not call.ends_within(self._left_s)
                if self.expired and not call.stops():
                    raise StillRunning(self._too_long())
                return call.result()
        except KeyboardInterrupt:
            if call.stops():
                raise
            raise StillRunning("interrupted.", 130) from None
        except (duckdb.Error, *_ARROW_ERRORS) as error:
            raise self._explained(error) from None
        finally:
            self._left_s = max(0.0, self._left_s - (time.monotonic() - began_s))

    def _too_long(self) -> str:
        return f"the query ran longer than {self._time_limit_s:g} s and was stopped. Narrow it, or raise --time-limit."

    def _explained(self, error: Exception) -> WarehouseError:
        if self.expired:
            return WarehouseError(self._too_long())
        # Up to the first blank line; below it DuckDB draws where in the query it is.
        reason = _ABOUT_SETTINGS.sub("", str(error).split("\n\n")[0])
        if isinstance(error, duckdb.OutOfMemoryException | MemoryError) or reason.startswith("Out of Memory"):
            return WarehouseError(f"{reason or 'out of memory'}. The query takes too much memory: narrow it.")
        if "read-only mode" in reason:
            return _no_question()
        refused = isinstance(error, _REFUSED) or _REFUSED_INPUT.search(reason) is not None
        return WarehouseError(f"{_sentence(reason)} {_advice(error, reason)}", 2 if refused else 1)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _advice(error: Exception, reason: str) -> str:
    if isinstance(error, duckdb.PermissionException) or "configuration has been locked" in reason:
        return "A query sees nothing but the database: ask for its tables and views."
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
        return "Correct the query; `warehouse schema` shows tables, views and columns."
    if isinstance(error, duckdb.ConversionException):
        return "Correct the query; TRY_CAST gives NULL for what cannot be converted."
    return "Nest the query less deeply." if "depth limit" in reason else "Correct the query."


@contextmanager
def _memory_limit() -> Iterator[None]:
    """A wall for the process at `MOST_MEMORY` above what it has, because DuckDB's own limit can be stepped over."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wall = _data_bytes() + MOST_MEMORY
    known = [limit for limit in (wall, *before) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Of this process: heap, stacks and other private memory that can be written."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    return pages * os.sysconf("SC_PAGE_SIZE")
