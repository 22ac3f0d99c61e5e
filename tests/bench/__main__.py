"""`make bench`: what joulehouse itself costs. Prints medians of 10 beside their targets."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure
from tests.bench.jobs import docker_overhead, stub_alone, stub_crowd
from tests.bench.storage import storage_figures
from tests.docker_engine import engine_problem


def main() -> int:
    console = Console(width=max(Console().width, 110))
    table = Table("figure", "median", "range", "target", "", title="joulehouse's own cost (medians of 10)")
    problem = engine_problem()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        figures: list[Figure] = [stub_alone(scratch), stub_crowd(scratch)]
        if problem is None:
            figures.append(docker_overhead(scratch))
        figures += storage_figures(scratch)
    for figure in figures:
        table.add_row(*figure.cells())
    console.print(table)
    if problem is not None:
        console.print(f"docker overhead: not measured, no engine answers ({problem})")
    return 0 if all(figure.met for figure in figures) else 1


sys.exit(main())
