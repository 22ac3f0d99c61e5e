"""What campaigns are called on a page: short, and different where they differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from warehouse.commands.plain_text import clipped

SEPARATOR = " · "
LETTER = 6.8
"""Width of a letter of a label (px), as good as wide ones."""
LINE_HEIGHT = 13
"""Of a line of its text (px)."""
MARGIN = 20
"""What of a chart's width its labels do not have (px)."""
_PARTS: Mapping[str, Callable[[Any], str]] = {
    "model": lambda value: str(value).rstrip("/").rpartition("/")[2] or str(value),
    "backend": str,
    "batch": lambda value: f"batch {value}",
    "dtype": str,
    "processes": lambda value: f"{value} processes",
    "hardware": lambda value: str(value).removeprefix("NVIDIA "),
    "study": str,
    "simulated": lambda value: "simulated" if value else "",
}
"""Shown where they differ, in this order."""
_RATHER = ("experiment", "driver", "image", "limit", "commit", "hash", "id")
"""Added one by one while some are still called the same."""
_ALWAYS = ("backend", "batch")
_LONGEST = 100
_SHORT = 40


def labels_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each campaign, made of what tells them apart."""
    parts = [name for name in _PARTS if name in _ALWAYS or _differs(name, rows)]
    return [clipped(label, _LONGEST) for label in _told_apart(rows, parts, _PARTS)]


def _differs(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row[name] for row in rows}) > 1


def _told_apart(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], parts: Mapping[str, Callable[[Any], str]]
) -> list[str]:
    """Of each row these parts, and what else it takes while some are still called the same."""
    labels = _plain_labels(rows, names, parts)
    for name in _RATHER:
        doubled = {label for label, count in Counter(labels).items() if count > 1}
        if not doubled:
            break
        of_label: dict[str, set[Any]] = defaultdict(set)
        for label, row in zip(labels, rows, strict=True):
            of_label[label].add(row[name])
        labels = [
            _joined([label, _rather(name, row[name])]) if label in doubled and len(of_label[label]) > 1 else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return labels


def _plain_labels(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], parts: Mapping[str, Callable[[Any], str]]
) -> list[str]:
    return [_joined(parts[name](row[name]) for name in names if row[name] is not None) for row in rows]


def short_labels(rows: Sequence[Mapping[str, Any]], among: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels for a picture: what is special about these rows of those `among` which they are drawn.

    Colour says the backend, so that it is only there if two would be called the same without it.
    """
    names = ["batch", *(name for name in ("dtype", "processes", "hardware") if _differs(name, among))]
    hardware = {row["hardware"] for row in among}
    is_enough = len({_kind(one) for one in hardware}) == len(hardware)
    parts = {**_PARTS, "hardware": _kind if is_enough else _PARTS["hardware"]}
    for name in ("backend", "study"):
        if len(set(_plain_labels(rows, names, parts))) < len(rows) and _differs(name, rows):
            names.append(name)
    ordered = [name for name in _PARTS if name in names]
    return [clipped(label, _SHORT) for label in _told_apart(rows, ordered, parts)]


def _kind(hardware: Any) -> str:
    """NVIDIA A100-SXM4-80GB x1 -> A100."""
    return re.split("[ -]", _PARTS["hardware"](hardware), maxsplit=1)[0]


def _rather(name: str, value: Any) -> str:
    if name == "experiment":
        return str(value) if value is not None else "no experiment"
    return f"{'campaign' if name == 'id' else name} {'not recorded' if value is None else value}"


def _joined(parts: Sequence[str] | Iterator[str]) -> str:
    return SEPARATOR.join(filter(None, parts))


def lines_of(label: str, width: float) -> list[str]:
    """A label in as many lines as it takes in a chart of this width (px), each of whole parts; views.js does the same.

    A part that is longer than a line has one of its own, where the chart cuts it.
    """
    longest = (width - MARGIN) // LETTER
    lines: list[str] = []
    for part in label.split(SEPARATOR):
        if lines and len(lines[-1] + SEPARATOR + part) <= longest:
            lines[-1] += SEPARATOR + part
        else:
            lines.append(part)
    return lines
