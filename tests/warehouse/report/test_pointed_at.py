"""What a pointer and keys get from a chart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.results import warehouse


@pytest.fixture(scope="module")
def page_of_a_year(year: Path) -> Path:
    """Of cycles with few requests, and throughput on a logarithmic axis."""
    target = year.with_name("pointed-at.html")
    assert warehouse("report", "-o", target, db=year) == 0
    return target


@pytest.mark.browser
@pytest.mark.parametrize("key", ["-", "+"])
def test_no_zoom_loses_a_chart(page_of_a_year: Path, new_page: NewPage, key: str) -> None:
    opened = Opened(new_page(), page_of_a_year)
    domain = "([name, axis]) => views[name].scale(axis).domain().map(Number)"
    for name, axis in (("speed", "x"), ("energy", "x"), ("energy-speed", "y")):
        whole = opened.page.evaluate(domain, [name, axis])
        opened.page.focus(f"#c-{name}")
        for _ in range(60):
            opened.page.keyboard.press(key)
        opened.page.wait_for_timeout(200)
        low, high = opened.page.evaluate(domain, [name, axis])
        assert [low, high] != whole
        assert 1e-12 < high - low < 1e12
        opened.page.keyboard.press("0")
        opened.page.wait_for_timeout(200)
        assert opened.page.evaluate(domain, [name, axis]) == whole
    assert opened.wrong == []


@pytest.mark.browser
def test_a_pointer_is_told_what_figures_say(page_of_a_year: Path, new_page: NewPage) -> None:
    page = Opened(new_page(), page_of_a_year).page
    page.locator("#c-requests-ttft svg .mark-symbol.role-mark path").last.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = dict(
        [cell.inner_text() for cell in row.locator("td").all()] for row in page.locator("#vg-tooltip-element tr").all()
    )
    page.locator('details[data-of="requests-ttft"] summary').click()
    table = page.locator('details[data-of="requests-ttft"] table')
    names = table.locator("thead th").all_inner_texts()
    rows = [
        dict(zip(names, row.locator("td").all_inner_texts(), strict=True)) for row in table.locator("tbody tr").all()
    ]
    (row,) = (row for row in rows if row["configuration"] == told["configuration"])
    assert row["p99 (ms)"] == "-"
    assert {name: told[name] for name in names if name.endswith("(ms)")} == {
        name: text for name, text in row.items() if name.endswith("(ms)")
    }
