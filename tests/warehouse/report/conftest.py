"""The study that reports are made of, its page, and a browser if there is one."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests import chromium
from tests.warehouse.cookbook_data import write_year
from tests.warehouse.report.measured import write_study
from tests.warehouse.report.opened import PICTURES, NewPage
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
def year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the cookbook's year: few requests a cycle, and GPUs against their fellows in three figures."""
    folder = tmp_path_factory.mktemp("year")
    (folder / "results").mkdir()
    write_year(folder / "results")
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; without it a skip, or a failure where REQUIRE_BROWSER is set."""
    if chromium.executable() is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail("REQUIRE_BROWSER=1, but there is no Chromium")
        pytest.skip(chromium.ABSENT)
    with sync_playwright() as playwright:
        found = chromium.launched(playwright)
        yield found
        found.close()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture
def new_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[NewPage]:
    """What was to be seen when a test failed is left as a picture."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")
    for earlier in PICTURES.glob(f"failed-{name}-*.png"):
        earlier.unlink()
    contexts: list[BrowserContext] = []

    def made(**settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "offline": True, **settings})
        contexts.append(context)
        return context.new_page()

    yield made
    for at, context in enumerate(contexts, start=1):
        if request.node.stash.get(_FAILED, False):
            context.pages[0].screenshot(path=PICTURES / f"failed-{name}-{at}.png", full_page=True)
        context.close()
