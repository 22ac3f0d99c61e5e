"""`make bench`: what joulehouse costs and how right its energy is, beside the targets. ARGS= picks parts of it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.energy import energy_figures
from tests.bench.fan_out import adaptive_figures, fan_out_figures
from tests.bench.figures import Figure
from tests.bench.images import image_figures
from tests.bench.jobs import job_figures
from tests.bench.open_loop import open_loop_figures
from tests.bench.ranks import rank_figures
from tests.bench.report import report_figures
from tests.bench.sampling import sampling_figures
from tests.bench.statistics import statistics_figures
from tests.bench.storage import storage_figures
from tests.bench.warehouse import ingest_figures

PARTS: dict[str, tuple[str, Callable[[Path], Iterator[Figure]]]] = {
    "jobs": ("what a job costs beside its work (medians of 10)", job_figures),
    "storage": ("what storing costs (medians of 10)", storage_figures),
    "warehouse": ("the warehouse at 10,000 and 100,000 results (medians of 3, views of 5)", ingest_figures),
    "report": ("reports of 200 and 10,000 experiments (medians of 3)", report_figures),
    "statistics": ("intervals: speed, coverage, and how often the gate is wrong", statistics_figures),
    "energy": ("energy against the true joules of simulated GPUs, virtual time", energy_figures),
    "sampling": ("what sampling costs", sampling_figures),
    "fanout": ("what fanning out costs, and planning (medians of 3)", fan_out_figures),
    "adaptive": ("adaptive cycles, simulated", adaptive_figures),
    "openloop": ("an open loop at 5 requests/s for 20 s on the stub, real time", open_loop_figures),
    "ranks": ("energy of whole jobs on simulated GPUs, real time", rank_figures),
    "images": ("what our part of an image weighs", image_figures),
}


def main(wanted: list[str]) -> int:
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        print(f"bench: there is no part '{unknown[0]}'; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    console = Console(width=max(Console().width, 120))
    met = True
    for part in wanted or PARTS:
        title, figures = PARTS[part]
        table = Table("figure", "value", "range", "target", "", title=title)
        with tempfile.TemporaryDirectory() as folder:
            for figure in figures(Path(folder)):
                table.add_row(*figure.cells())
                met = met and figure.met
        console.print(table)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
