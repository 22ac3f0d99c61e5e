"""Pages that are written from the code; UPDATE_DOCS=1 writes them anew."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOW = "run `UPDATE_DOCS=1 .venv/bin/pytest tests/docs tests/test_docs.py`"


def is_current(page: str, write: Callable[[], str]) -> bool:
    """Whether the page of this name is what `write` gives."""
    path = DOCS / page
    if os.environ.get("UPDATE_DOCS") == "1":
        path.write_text(write(), encoding="utf-8")
    return path.is_file() and path.read_text(encoding="utf-8") == write()


def row(*cells: str) -> str:
    """A line of a Markdown table; what would end a cell or begin a tag is taken as it is."""
    escaped = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def table(heads: tuple[str, ...], rows: list[str]) -> list[str]:
    """A whole table, with an empty line before and after it."""
    return ["", row(*heads), row(*("---" for _ in heads)), *rows, ""]


def joined(lines: list[str]) -> str:
    """The page; never two empty lines on end."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"
