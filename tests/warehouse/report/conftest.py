"""The study that reports are made of, its page, and a browser if there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.warehouse.report.measured import write_study
from tests.warehouse.results import warehouse


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the study of 200 experiments."""
    folder = tmp_path_factory.mktemp("measured")
    write_study(folder / "results")
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


@pytest.fixture(scope="session")
def report(measured: Path) -> Path:
    target = measured.with_name("report.html")
    assert warehouse("report", "-o", target, db=measured) == 0
    return target


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; without it a skip, or a failure where REQUIRE_BROWSER is set."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail("REQUIRE_BROWSER=1, but there is no Chromium")
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        # Containers run as root, in which Chromium's own sandbox does not start.
        found = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()
