"""Lines of the acceptance table: what was seen, what it has to be, and whether it is."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

Verdict = Literal["", "met", "MISSED", "NOT MEASURED"]
_HEAD = ("row", "seen", "criterion", "")


@dataclass(frozen=True)
class Row:
    """One line; a row without a criterion only informs."""

    name: str
    seen: str
    criterion: str = ""
    verdict: Verdict = ""

    def cells(self) -> tuple[str, str, str, str]:
        return self.name, self.seen, self.criterion, self.verdict


class Rows:
    """The rows of one GPU, in the order in which they were measured.

    Args:
        title: which GPU, when, and whether it is a simulated one.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row] = []

    def inform(self, name: str, seen: str) -> None:
        """Something that the reader should know and that is neither right nor wrong."""
        self.rows.append(Row(name, seen))

    def judge(self, name: str, seen: str, criterion: str, *, met: bool) -> None:
        """Something that has to be so."""
        self.rows.append(Row(name, seen, criterion, "met" if met else "MISSED"))

    def miss(self, names: Iterable[str], reason: str) -> None:
        """What could not be measured, and why."""
        self.rows += [Row(name, reason, "", "NOT MEASURED") for name in names]

    def passed(self, *, simulated: bool) -> bool:
        """Whether every criterion is met; what could not be measured counts only where there is a real GPU."""
        failures = {"MISSED"} if simulated else {"MISSED", "NOT MEASURED"}
        return all(row.verdict not in failures for row in self.rows)

    def show(self) -> None:
        """Print the table."""
        console = Console(width=max(Console().width, 150))
        table = Table(*_HEAD, title=self.title)
        for row in self.rows:
            table.add_row(*row.cells())
        console.print(table, markup=False)

    def append_to(self, file: Path) -> None:
        """Write the table behind what is in `file`, as Markdown."""
        lines = [f"### {self.title}", "", f"| {' | '.join(_HEAD)} |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in self.rows]
        with file.open("a") as opened:
            opened.write("\n".join(lines) + "\n\n")


def tell(phase: str) -> None:
    """What is being done now, on standard error: standard output is the table's."""
    print(f"  {phase} ...", file=sys.stderr, flush=True)


def spread(values: Sequence[float], unit: str) -> str:
    """Median, range and number of some values in `unit`."""
    if not values:
        return "none seen"
    low, high = min(values), max(values)
    return f"median {statistics.median(values):.4g} {unit} ({low:.4g} to {high:.4g}; {len(values)} seen)"
