"""What campaigns are called on a page: short, and different where they differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from warehouse.plain_text import printable
from warehouse.report.shortened import shortened

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
_IDS = ("commit", "hash", "id")
"""Never shortened."""
_LONGEST = 100
_SHORT = 40
_OF_A_PART = (60, 48, 36, 28, 20, 14)
"""How long a part may be: less and less, until labels are short enough."""


def labels_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each campaign, made of what tells them apart."""
    parts = [name for name in _PARTS if name in _ALWAYS or _differs(name, rows)]
    return _fitting(rows, parts, _PARTS, _LONGEST)


def _differs(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row[name] for row in rows}) > 1


def _fitting(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], parts: Mapping[str, Callable[[Any], str]], longest: int
) -> list[str]:
    """With all their parts, of which the longest are shortened until labels have at most `longest` letters."""
    labels: list[str] = []
    for of_a_part in _OF_A_PART:
        labels = _told_apart(rows, names, parts, of_a_part)
        if all(len(label) <= longest for label in labels):
            break
    return labels


def _told_apart(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], parts: Mapping[str, Callable[[Any], str]], of_a_part: int
) -> list[str]:
    """Of each row these parts, and what else it takes while some are still called the same.

    Args:
        of_a_part: letters that each may have.
    """
    labels = _plain_labels(rows, names, parts, of_a_part)
    for name in _RATHER:
        doubled = {label for label, count in Counter(labels).items() if count > 1}
        if not doubled:
            break
        of_label: dict[str, set[Any]] = defaultdict(set)
        for label, row in zip(labels, rows, strict=True):
            of_label[label].add(row[name])
        told = [label in doubled and len(of_label[label]) > 1 for label in labels]
        words = _texts(name, [row[name] if tell else None for tell, row in zip(told, rows, strict=True)], of_a_part)
        labels = [
            _joined([label, _rather(name, word)]) if tell else label
            for label, tell, word in zip(labels, told, words, strict=True)
        ]
    return labels


def _plain_labels(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    parts: Mapping[str, Callable[[Any], str]],
    of_a_part: int = _OF_A_PART[0],
) -> list[str]:
    texts = [
        _texts(name, [None if row[name] is None else parts[name](row[name]) for row in rows], of_a_part)
        for name in names
    ]
    return [_joined(filter(None, (of_name[at] for of_name in texts))) for at in range(len(rows))]


def _texts(name: str, values: Sequence[Any], longest: int) -> list[str | None]:
    """Printable and shortened; what is not known stays None."""
    texts = [None if value is None else printable(value) for value in values]
    if name in _IDS:
        return texts
    short = shortened((text for text in texts if text is not None), longest)
    return [None if text is None else short[text] for text in texts]


def short_labels(rows: Sequence[Mapping[str, Any]], among: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels for a picture: what is special about these rows of those `among` which they are drawn.

    Colour says the backend, so that it is only there if two would be called the same without it. Nothing else says what
    was simulated, so that it always does.
    """
    names = ["batch", "simulated", *(name for name in ("dtype", "processes", "hardware") if _differs(name, among))]
    hardware = {row["hardware"] for row in among}
    is_enough = len({_kind(one) for one in hardware}) == len(hardware)
    parts = {**_PARTS, "hardware": _kind if is_enough else _PARTS["hardware"]}
    for name in ("backend", "study"):
        if len(set(_plain_labels(rows, names, parts))) < len(rows) and _differs(name, rows):
            names.append(name)
    ordered = [name for name in _PARTS if name in names]
    return _fitting(rows, ordered, parts, _SHORT)


def _kind(hardware: Any) -> str:
    """NVIDIA A100-SXM4-80GB x1 -> A100."""
    return re.split("[ -]", _PARTS["hardware"](hardware), maxsplit=1)[0]


def _rather(name: str, text: str | None) -> str:
    if name == "experiment":
        return text if text is not None else "no experiment"
    return f"{'campaign' if name == 'id' else name} {'not recorded' if text is None else text}"


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
