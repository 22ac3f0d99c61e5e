"""Saving, loading and ingesting 1,000 results of 100 requests each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from images.contract import files
from images.contract.result import ExperimentResult
from tests.bench.figures import REPEATS, Figure
from tests.bench.results import N_REQUESTS, made_requests, made_result

_COUNT = 1000


def storage_figures(scratch: Path) -> Iterator[Figure]:
    saves, loads, floors, ingests, again = [], [], [], [], []
    for number in range(REPEATS):
        folder = scratch / f"saved-{number}"
        saves.append(_save(folder))
        loads.append(_load(folder))
        floors.append(_read_bytes(folder))
        database = scratch / f"{number}.duckdb"
        ingests.append(_ingest(folder, database))
        again.append(_ingest(folder, database))
    count = f"{_COUNT:,} results of {N_REQUESTS} requests"
    yield Figure(f"save {count} (synced)", "s", saves)
    yield Figure(f"load {count}", "s", loads)
    yield Figure("  over reading their bytes", "x", [load / floor for load, floor in zip(loads, floors, strict=True)])
    yield Figure(f"ingest {count}, whole process", "s", ingests)
    yield Figure("  over loading them", "x", [one / load for one, load in zip(ingests, loads, strict=True)])
    yield Figure("ingest again, nothing new, whole process", "s", again)


def _save(folder: Path) -> float:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    table = made_requests()
    results = [made_result(number, start + timedelta(seconds=number)) for number in range(_COUNT)]
    started = time.perf_counter()
    for result in results:
        result.save(folder, requests=table)
    return time.perf_counter() - started


def _load(folder: Path) -> float:
    started = time.perf_counter()
    for directory in files.find_directories(folder):
        result = ExperimentResult.from_json(directory)
        assert result.requests is not None
        files.load_table(directory, result.requests)
    return time.perf_counter() - started


def _read_bytes(folder: Path) -> float:
    started = time.perf_counter()
    for path in folder.glob("*/*"):
        path.read_bytes()
    return time.perf_counter() - started


def _ingest(folder: Path, database: Path) -> float:
    code = "import sys; from warehouse.cli import main; sys.exit(main())"
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, "ingest", "--db", str(database), str(folder)], check=True, capture_output=True
    )
    return time.perf_counter() - started
