"""What campaigns are called on a page: short, and different where they differ."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse.plain_text import printable
from warehouse.report.shortened import Names

SEPARATOR = " · "
LETTER = 6.8
"""Width of a letter of a label (px), as good as wide ones."""
LINE_HEIGHT = 13
"""Of a line of its text (px)."""
MARGIN = 20
"""What of a chart's width its labels do not have (px)."""
_LONGEST = 100
_SHORT = 40
_PARTS: Mapping[str, Callable[[Any], str]] = {
    "model": lambda value: str(value).rstrip("/"),
    "backend": str,
    "batch": lambda value: f"batch {value}",
    "dtype": str,
    "processes": lambda value: "1 process" if value == 1 else f"{value} processes",
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


@dataclass(frozen=True)
class _Part:
    """Of a label: which it is, and what it says, of which only the text may be shortened."""

    name: str
    prefix: str
    text: str


def labels_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each campaign, made of what tells them apart."""
    names = [name for name in _PARTS if name in _ALWAYS or _differs(name, rows)]
    return _fitting(_told_apart(_plain(rows, names, _PARTS), rows), _LONGEST)


def short_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels for a picture: what is special about each of the rows that are drawn together.

    Colour says the backend, so that it is only there if two would be called the same without it. Nothing else says what
    was simulated, so that it always does.
    """
    names = ["batch", "simulated", *(name for name in ("dtype", "processes", "hardware") if _differs(name, rows))]
    hardware = {row["hardware"] for row in rows}
    is_enough = len({_kind(one) for one in hardware}) == len(hardware)
    words = {**_PARTS, "hardware": _kind if is_enough else _PARTS["hardware"]}
    for name in ("backend", "study"):
        if len(set(map(_joined, _plain(rows, names, words)))) < len(rows) and _differs(name, rows):
            names.append(name)
    ordered = [name for name in _PARTS if name in names]
    return _fitting(_told_apart(_plain(rows, ordered, words), rows), _SHORT)


def _differs(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row[name] for row in rows}) > 1


def _kind(hardware: Any) -> str:
    """NVIDIA A100-SXM4-80GB x1 -> A100."""
    return re.split("[ -]", _PARTS["hardware"](hardware), maxsplit=1)[0]


def _plain(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], words: Mapping[str, Callable[[Any], str]]
) -> list[list[_Part]]:
    """Of each row these parts, as far as they are known."""
    found: list[list[_Part]] = [[] for _ in rows]
    for name in names:
        texts = [None if row[name] is None else printable(words[name](row[name])) for row in rows]
        called = _without_owners(texts) if name == "model" else {}
        for parts, text in zip(found, texts, strict=True):
            if text:
                parts.append(_Part(name, "", called.get(text, text)))
    return found


def _without_owners(models: Iterable[str | None]) -> dict[str, str]:
    """The last part of each model's name, the whole of it if another model has the same last part."""
    last = {model: model.rpartition("/")[2] or model for model in models if model is not None}
    shared = Counter(last.values())
    return {model: name if shared[name] == 1 else model for model, name in last.items()}


def _told_apart(labels: Sequence[list[_Part]], rows: Sequence[Mapping[str, Any]]) -> list[list[_Part]]:
    """With what else it takes while some are still called the same."""
    found = list(labels)
    for name in _RATHER:
        texts = [_joined(parts) for parts in found]
        doubled = {text for text, count in Counter(texts).items() if count > 1}
        if not doubled:
            break
        values: dict[str, set[Any]] = defaultdict(set)
        for text, row in zip(texts, rows, strict=True):
            values[text].add(row[name])
        found = [
            [*parts, _rather(name, row[name])] if text in doubled and len(values[text]) > 1 else parts
            for parts, text, row in zip(found, texts, rows, strict=True)
        ]
    return found


def _rather(name: str, value: Any) -> _Part:
    prefix = {"experiment": "", "id": "campaign "}.get(name, f"{name} ")
    if value is None:
        return _Part(name, "", "no experiment" if name == "experiment" else f"{prefix}not recorded")
    return _Part(name, prefix, printable(value))


def _fitting(labels: Sequence[Sequence[_Part]], longest: int) -> list[str]:
    """With all their parts; of a label that is longer, the longest part is shortened, and the next, until it fits.

    What was shortened is called the same in all labels. Where nothing can be shortened any more a label stays longer.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for part in itertools.chain.from_iterable(labels):
        texts[part.name].append(part.text)
    called = {name: Names(of_name) for name, of_name in texts.items()}
    for parts in labels:
        while len(_joined(parts, called)) > longest and _shorten(parts, called):
            pass
    return [_joined(parts, called) for parts in labels]


def _shorten(parts: Sequence[_Part], called: Mapping[str, Names]) -> bool:
    """One of these by one step, the longest that can be; False if none can."""
    by_length = sorted(parts, key=lambda part: -len(called[part.name][part.text]))
    return any(called[part.name].shorten(part.text) for part in by_length if part.name not in _IDS)


def _joined(parts: Iterable[_Part], called: Mapping[str, Names] | None = None) -> str:
    texts = (part.prefix + (called[part.name][part.text] if called else part.text) for part in parts)
    return SEPARATOR.join(texts)


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
