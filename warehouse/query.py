"""One query by anybody, with a limit on its time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from warehouse.database import reading
from warehouse.errors import WarehouseError


@dataclass(frozen=True)
class Answer:
    """Names of the columns and the rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def run_query(database: Path, query: str, time_limit_s: float = 30.0, wait_s: float = 30.0) -> Answer:
    """Run `query` where it can neither change anything nor touch any other file.

    Args:
        time_limit_s: it is stopped after this long (s).
        wait_s: how long to wait for a writer to let go of the database (s).

    Raises:
        EmptyWarehouse: there is nothing to query.
        WarehouseError: with DuckDB's reason.
    """
    with reading(database, wait_s) as connection:
        timer = threading.Timer(time_limit_s, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            result = connection.execute(query)
            # No statement at all gives no result, in spite of its type.
            if result is None or result.description is None:
                raise WarehouseError("the query is empty. Give one, such as: warehouse sql 'SELECT * FROM experiments'")
            return Answer([column[0] for column in result.description], result.fetchall())
        except duckdb.InterruptException:
            raise WarehouseError(
                f"the query ran longer than {time_limit_s:g} s and was stopped. Narrow it, or raise --time-limit."
            ) from None
        except duckdb.Error as error:
            # Up to the first blank line; below it DuckDB draws where in the query it is.
            raise WarehouseError(str(error).split("\n\n")[0]) from None
        finally:
            timer.cancel()
