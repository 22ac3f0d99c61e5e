"""What a page holds, as a browser's parser would find it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """Elements with their attributes, and the texts of scripts by id.

    Attributes:
        elements: (tag, attributes) in their order.
        text: all that is to be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._inside: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append((tag, dict(attrs).get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1][0] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data
        elif self._inside[-1][0] == "script":
            self.scripts[self._inside[-1][1]] = self.scripts.get(self._inside[-1][1], "") + data

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of the page's tables, as its own program unpacks them."""
        columns = {
            column: [None if code < 0 else values["names"][code] for code in values["codes"]]
            if isinstance(values, dict)
            else values
            for column, values in json.loads(self.scripts["tables"])[name].items()
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def charts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts["about"])["charts"]
        return found
