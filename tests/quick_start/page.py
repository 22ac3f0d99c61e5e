"""docs/quick-start.md as a list of steps, and whether a step gave what the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quick-start.md"
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# What differs from one run or machine to the next, in the order in which it is taken out.
_VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.-]+(?:Z|\+00(?::00)?)?"), "TIME"),
    (re.compile(r"run-\d{8}-\d{6}-\d+"), "STUDY"),
    (re.compile(r"because no Docker engine answers.*"), "because no Docker engine answers"),
    (re.compile(r"(?<=campaign )[0-9a-f]{16}"), "ID"),
    (re.compile(r"(?<=^[AB]  )[0-9a-f]{8}"), "ID"),
    (re.compile(r"CPU, .*?(?=  |$)"), "CPU"),
    (re.compile(r"^(warnings: ).*"), r"\1CODES"),
    (re.compile(r"  \[[a-z0-9_, ]+\]$"), ""),
)
_FIGURE = re.compile(r"(?<![\w=-])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?(?: %| times)?(?![\w/])")
_MEASURED_ROW = re.compile(r"^\s*(?:[a-z_]+_per_second|[a-z]+_mean_ms|output tokens/s|total tokens/s|\w+ mean \(ms\)) ")
_DECIMAL = re.compile(r"(?<![\w.])\d+(?:,\d{3})*\.\d+(?:e[+-]\d+)?(?![\w.])")


@dataclass(frozen=True)
class Step:
    """Commands of one block, and the lines that the page shows below it."""

    commands: str
    shown: tuple[str, ...]


def steps(page: str) -> list[Step]:
    """Every block of commands of the page, in order."""
    found: list[Step] = []
    for kind, text in _BLOCK.findall(page):
        if kind == "sh":
            found.append(Step(text, ()))
        elif found and not found[-1].shown:
            found[-1] = Step(found[-1].commands, tuple(text.splitlines()))
        else:
            raise ValueError(f"a block of output without commands before it: {text[:60]!r}")
    return found


def missing(shown: Sequence[str], output: Sequence[str]) -> list[str]:
    """Lines that the page shows and the output lacks, or has elsewhere; a line `...` stands for any others.

    Names and counts have to be the same; measured figures, times and names of this machine only have to be there.
    """
    rest = iter([_shape(line) for line in output])
    lacking = []
    for line in shown:
        if line.strip() != "..." and _shape(line) and not any(_shape(line) == other for other in rest):
            lacking.append(line)
            rest = iter([_shape(line) for line in output])
    return lacking


def _shape(line: str) -> str:
    for pattern, name in _VARIES:
        line = pattern.sub(name, line)
    line = (_FIGURE if _MEASURED_ROW.match(line) else _DECIMAL).sub("#", line)
    return " ".join(line.replace("─", " ").split())


def indented(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"    {line}" for line in lines)
