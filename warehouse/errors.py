"""The one exception that a command shows to its user."""

from __future__ import annotations

from pathlib import Path


class WarehouseError(Exception):
    """What is wrong and what to do about it, in one line.

    Args:
        exit_code: 1 the work failed, 2 it was asked for wrongly.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


def first_line(error: Exception) -> str:
    """What DuckDB says before it explains where in its own code that is."""
    return str(error).splitlines()[0].rstrip(".!")


class EmptyWarehouse(WarehouseError):
    """Nothing has been ingested into `path` yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"nothing has been ingested into {path} yet. Run `warehouse ingest DIR --db {path}` first.", 2)
