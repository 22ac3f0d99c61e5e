"""The report of 200 experiments in headless Chromium: drawn, filtered, readable for all, and right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from images.contract.config import ExperimentConfig
from tests.warehouse.report.measured import BACKENDS, BATCHES, GPUS, MODELS, N_EXPERIMENTS
from tests.warehouse.report.opened import Opened
from tests.warehouse.results import make_result, rows, samples_table, save, save_failure, warehouse
from warehouse.database import prepare
from warehouse.numerals import digits, interval, number

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

_KINDS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 360, "height": 800}},
}
_PICTURES = Path(__file__).parents[3] / ".cache" / "report"
_N_CONFIGURATIONS = N_EXPERIMENTS // 5
_MARKS = """
() => Object.fromEntries(Object.entries(views).map(([name, view]) => {
  let count = 0;
  const walk = item => {
    if (item.marktype && ['symbol', 'rule', 'line', 'rect'].includes(item.marktype) && item.role === 'mark') {
      count += item.items.length;
    }
    (item.items || []).forEach(walk);
  };
  walk(view.scenegraph().root);
  return [name, count];
}))
"""
_CELLS = """
() => [...document.querySelectorAll('#rows tbody [data-metric]')].map(cell => [
  cell.closest('tr').dataset.campaign, cell.dataset.metric, [...cell.children].map(one => one.textContent).join(' '),
])
"""


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    with browser.new_context(viewport={"width": 1280, "height": 900}, offline=True) as context:
        yield Opened(context.new_page(), report)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_chart_is_drawn_without_an_error_and_axe_finds_nothing_serious(
    browser: Browser, report: Path, kind: str
) -> None:
    settings = {"viewport": {"width": 1280, "height": 900}} | _KINDS[kind]
    with browser.new_context(**settings, offline=True) as context:
        opened = Opened(context.new_page(), report)
        page = opened.page
        _PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=_PICTURES / f"{kind}.png", full_page=True)
        marks = page.evaluate(_MARKS)
        assert opened.wrong == []
        assert len(marks) == page.locator("figure").count() == 15
        assert [name for name, count in marks.items() if count < 3] == []
        assert opened.serious_findings() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"


def test_axe_would_find_a_control_without_a_name(opened: Opened) -> None:
    opened.page.evaluate("document.getElementById('theme').textContent = ''")
    assert [one for one in opened.serious_findings() if "button-name" in one]


def test_a_script_that_is_not_the_pages_own_does_not_run(opened: Opened) -> None:
    opened.page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; document.body.append(s)"
    )
    assert opened.page.evaluate("window.foreign") is None


def test_a_filter_changes_what_is_drawn_and_it_comes_back(opened: Opened) -> None:
    page = opened.page
    assert (opened.drawn("drift-cycle"), opened.drawn("energy-speed")) == (N_EXPERIMENTS, _N_CONFIGURATIONS // 2)
    _tick(page, "vllm")
    opened.settle()
    half = N_EXPERIMENTS // len(BACKENDS)
    assert opened.drawn("drift-cycle") == half
    assert (
        page.locator("#shown").text_content() == f"{_N_CONFIGURATIONS // 2} of 40 configurations, {half} of 200 cycles"
    )
    _tick(page, "NVIDIA L4")
    _tick(page, "org/small-1b")
    opened.settle()
    quarter = half // len(GPUS) // len(MODELS)
    assert opened.drawn("drift-cycle") == quarter
    assert page.locator("#rows tbody tr").count() == len(BATCHES)
    assert page.evaluate("views.energy.data('campaigns').every(row => row.backend === 'vllm')")

    address = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    assert opened.drawn("drift-cycle") == quarter, "the address keeps what was chosen"

    page.get_by_role("button", name="Show all").click()
    opened.settle()
    assert opened.drawn("drift-cycle") == N_EXPERIMENTS
    page.get_by_label("Find").fill("no such thing")
    expect(page.locator("#shown")).to_have_text("0 of 40 configurations, 0 of 200 cycles")
    opened.settle()
    assert opened.drawn("energy") == 0
    assert page.locator("#f-energy .nothing").is_visible()
    assert opened.wrong == []


def _tick(page: Page, value: str) -> None:
    page.locator("#filters").get_by_role("checkbox", name=value).check()


def test_lines_of_configurations_go_on_where_a_chart_ends(opened: Opened) -> None:
    page = opened.page
    names = "views.energy.data('campaigns').map(row => row.label)"
    first = page.evaluate(names)
    assert page.locator("#window").text_content() == "1 to 16 of 40"
    page.locator("#later").click()
    opened.settle()
    assert set(page.evaluate(names)).isdisjoint(first)
    page.locator("#rows tbody input").nth(2).check()
    opened.settle()
    assert opened.page.evaluate(f"{names}.length") == 1


def test_a_chart_is_zoomed_by_keys_alone(opened: Opened) -> None:
    page = opened.page
    domain = "views['energy-speed'].scale('x').domain()"
    settled = "views['energy-speed'].runAsync().then(() => true)"
    before = page.evaluate(domain)
    page.locator("#c-energy-speed").focus()
    page.keyboard.press("+")
    assert page.evaluate(settled)
    after = page.evaluate(domain)
    assert before[0] < after[0] < after[1] < before[1]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(settled)
    assert page.evaluate(domain)[0] > after[0]
    page.keyboard.press("0")
    assert page.evaluate(settled)
    assert page.evaluate(domain) == before


@pytest.mark.parametrize(("kind", "beginning"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_a_chart_is_saved(opened: Opened, tmp_path: Path, kind: str, beginning: bytes) -> None:
    with opened.page.expect_download() as download:
        opened.page.locator(f"button[data-save={kind}][data-of=energy]").click()
    download.value.save_as(tmp_path / "chart")
    assert (tmp_path / "chart").read_bytes().startswith(beginning)


def test_a_mark_says_what_it_is_of(opened: Opened) -> None:
    page = opened.page
    page.locator("#c-energy-speed .mark-symbol.role-mark path").first.hover(force=True)
    expect(page.locator("#vg-tooltip-element")).to_contain_text("95 % interval")


HOSTILE = "</script><img src=x onerror='window.foreign=1'>\"<b>"


@pytest.mark.parametrize("case", ["nothing", "only failures", "one run", "hostile names"])
def test_a_page_with_little_on_it_is_whole(browser: Browser, tmp_path: Path, case: str) -> None:
    db, target = tmp_path / "w.duckdb", tmp_path / "r.html"
    if case == "nothing":
        prepare(db, 5)
    elif case == "only failures":
        save_failure(tmp_path / "results", message=HOSTILE)
    else:
        config = ExperimentConfig(backend="stub", model="m" if case == "one run" else HOSTILE)
        for number in (1,) if case == "one run" else (1, 2):
            result = make_result(number, energy_j=30.0 + number, config=config, study="s")
            save(tmp_path / "results", result, samples=samples_table([(0.5, 15.0), (1.5, 15.0)]))
    if case != "nothing":
        assert warehouse("ingest", tmp_path / "results", db=db) == 0
    assert warehouse("report", "-o", target, db=db) == 0
    with browser.new_context(offline=True) as context:
        opened = Opened(context.new_page(), target)
        page = opened.page
        if case == "hostile names":
            page.locator("#c-energy .mark-symbol.role-mark path").last.hover(force=True)
            expect(page.locator("#vg-tooltip-element")).to_contain_text(HOSTILE)
            page.locator("#f-energy details").evaluate("details => { details.open = true; }")
        assert page.locator("img, body b[onerror]").count() == 0
        assert page.evaluate("window.foreign") is None
        assert opened.wrong == []
        assert opened.serious_findings() == []


def test_the_switch_repaints_charts(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("views.energy.signal('dark')") is False
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("views.energy.signal('dark')") is True
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 24)"


def test_numbers_on_the_page_are_those_of_sql(opened: Opened, measured: Path) -> None:
    """From the table's own cells to the stored intervals, and from the tiles to what views count."""
    page = opened.page
    shown: dict[tuple[str, str], str] = {}
    while True:
        shown |= {(row, key): text for row, key, text in page.evaluate(_CELLS)}
        if page.locator("#page-on").is_disabled():
            break
        page.locator("#page-on").click()
    columns = {
        "energy": "energy_per_output_token_j",
        "speed": "output_tokens_per_second",
        "ttft": "ttft_mean_ms",
        "itl": "itl_mean_ms",
    }
    stored = rows(measured, "SELECT campaign_id, metric, mean, std, t_lower, t_upper FROM campaign_intervals")
    keys = {column: key for key, column in columns.items()}
    expected = {
        (campaign, keys[metric]): f"{number(mean, digits(mean, std))} {interval(lower, upper, digits(mean, std))}"
        for campaign, metric, mean, std, lower, upper in stored
        if metric in keys
    }
    assert len(shown) == 4 * _N_CONFIGURATIONS
    assert shown == expected

    counted = rows(
        measured,
        """
        SELECT (SELECT count(*) FROM campaigns), (SELECT sum(n_cycles) FROM campaigns),
            (SELECT sum(n_invalid) FROM campaigns), (SELECT count(*) FROM standing_failures),
            (SELECT count(*) FROM quarantine)
        """,
    )[0]
    tiles = [
        page.locator(f"#n-{name}").text_content()
        for name in ("campaigns", "cycles", "invalid", "failed", "quarantined")
    ]
    assert tiles == [str(int(one)) for one in counted]
    front = rows(measured, "SELECT campaign_id FROM pareto_front WHERE on_throughput_front ORDER BY ALL")
    marked = page.evaluate("tables.campaigns.filter(row => row.speed_front).map(row => row.id).sort()")
    assert [(one,) for one in marked] == front
    dots = dict(rows(measured, "SELECT experiment_id, energy_per_output_token_j FROM cycles"))
    for run, energy in page.evaluate("tables.cycles.map(row => [row.run, row.energy])"):
        assert energy == pytest.approx(dots.pop(run), rel=1e-5)
    assert dots == {}


def test_it_prints(opened: Opened) -> None:
    printed = opened.page.pdf(format="A4", path=_PICTURES / "print.pdf")
    assert printed.startswith(b"%PDF")
    assert opened.wrong == []
