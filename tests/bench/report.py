"""What a report costs: to write, to keep, and until a browser has drawn it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import chromium
from tests.bench.figures import Figure
from tests.bench.lake import Study, write_failures, write_results
from tests.bench.recordings import make_recordings
from warehouse.cli import main

_ROOT = Path(__file__).parents[2]
_CYCLES = range(1, 6)
_N_STUDIES = 4
_REPEATS = 3
_COMMAND = "import sys; from warehouse.cli import main; sys.exit(main())"


def report_figures(scratch: Path) -> Iterator[Figure]:
    """Of 200 and of 10,000 experiments, with 200 requests and 600 samples each."""
    recordings = make_recordings(scratch / "recordings", 100, n_processes=2, n_requests=100, n_samples=300)
    for n_configs in (40, 2000):
        lake, database = scratch / f"lake-{n_configs}", scratch / f"{n_configs}.duckdb"
        part = n_configs // _N_STUDIES
        for number in range(_N_STUDIES):
            study = Study(number, part, first_config=number * part)
            write_results(lake, study, recordings, _CYCLES, link=True)
            write_failures(lake, study, 5)
        assert main(["ingest", "--db", str(database), str(lake)]) == 0
        shutil.rmtree(lake)
        count = n_configs * len(_CYCLES)
        page = scratch / f"{count}.html"
        times = [_written_s(database, page) for _ in range(_REPEATS)]
        yield Figure(f"report of {count:,} experiments, whole process", "s", times, 10.0)
        yield Figure("  its size", "MB", [page.stat().st_size / 1e6], 6.0)
        yield from _browser_figures(page)
        yield Figure(
            "  its pictures alone, SVG and PNG, whole process", "s", [_pictured_s(database, scratch / "pictures")]
        )


def _written_s(database: Path, page: Path) -> float:
    return _took_s("--db", str(database), "-o", str(page))


def _took_s(*arguments: str) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-c", _COMMAND, "report", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT)
    assert ran.returncode == 0, ran.stderr
    return time.perf_counter() - started


def _pictured_s(database: Path, folder: Path) -> float:
    return _took_s("--db", str(database), "--pictures", str(folder))


def _browser_figures(page: Path) -> Iterator[Figure]:
    """In headless Chromium; nothing where there is none."""
    if chromium.executable() is None:
        return
    drawn, filtered = [], []
    with sync_playwright() as playwright:
        browser = chromium.launched(playwright)
        for _ in range(_REPEATS):
            with browser.new_context(offline=True) as context:
                view = context.new_page()
                started = time.perf_counter()
                view.goto(page.as_uri())
                view.wait_for_selector("body[data-ready=yes]", timeout=60_000)
                drawn.append(time.perf_counter() - started)
                started = time.perf_counter()
                view.locator("#filters input[type=checkbox]").first.check()
                view.evaluate("updating")
                filtered.append(time.perf_counter() - started)
        browser.close()
    yield Figure("  until Chromium has drawn all charts", "s", drawn, 10.0)
    yield Figure("  until a filter is on all of them", "s", filtered, 2.0)
