"""The report of 200 experiments in headless Chromium: drawn, filtered, readable for all, and right."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from images.contract.config import ExperimentConfig
from tests.warehouse.report.measured import BACKENDS, BATCHES, GPUS, MODELS, N_EXPERIMENTS
from tests.warehouse.report.opened import PICTURES, NewPage, Opened
from tests.warehouse.results import make_result, rows, samples_table, save, save_failure, warehouse
from warehouse.database import prepare, reading
from warehouse.numerals import digits, interval, number
from warehouse.report.charts import Chart
from warehouse.report.data import read_report
from warehouse.report.gallery import gallery, rows_of
from warehouse.report.page import columns

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

_KINDS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 360, "height": 800}},
}
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
def opened(new_page: NewPage, report: Path) -> Opened:
    return Opened(new_page(), report)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_chart_is_drawn_without_an_error_and_axe_finds_nothing_serious(
    new_page: NewPage, report: Path, kind: str
) -> None:
    opened = Opened(new_page(**_KINDS[kind]), report)
    page = opened.page
    page.screenshot(path=PICTURES / f"{kind}.png", full_page=True)
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
    opened.tick("vllm")
    opened.settle()
    half = N_EXPERIMENTS // len(BACKENDS)
    assert opened.drawn("drift-cycle") == half
    assert (
        page.locator("#shown").text_content() == f"{_N_CONFIGURATIONS // 2} of 40 configurations, {half} of 200 cycles"
    )
    opened.tick("NVIDIA L4")
    opened.tick("org/small-1b")
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
    assert page.locator("#rows tbody").inner_text() == "No configuration is left with these filters."
    assert page.locator("#rows tbody td").get_attribute("colspan") == str(page.locator("#rows thead th").count())
    assert opened.wrong == []


_CLICK_WHILE_DRAWING = """
let real, calls = 0;
Object.defineProperty(window, 'vegaEmbed', {
  set(embed) { real = embed; },
  get: () => (...given) => {
    calls += 1;
    if (calls === 3) document.querySelector('#filters [value=vllm]').click();
    return real(...given);
  },
});
"""


def test_a_filter_that_is_set_while_charts_are_drawn_is_on_all_of_them(new_page: NewPage, report: Path) -> None:
    """Of one that is drawn, one that is being drawn and those to come."""
    page = new_page()
    page.add_init_script(_CLICK_WHILE_DRAWING)
    opened = Opened(page, report)
    opened.settle()
    backends = opened.page.evaluate(
        "Object.entries(about.charts).flatMap(([name, chart]) => chart.sources.filter("
        "source => source.fields.includes('backend')).map(source => "
        "[name, ...new Set(views[name].data(source.name).map(row => row.backend))]))"
    )
    assert len(backends) == 16
    assert [one for one in backends if one[1:] != ["vllm"]] == []
    assert opened.wrong == []


def test_an_unfiltered_page_first_draws_what_stands_in_the_specifications(opened: Opened, measured: Path) -> None:
    with reading(measured, 5) as connection:
        data = read_report(connection, measured, [], include_all=False, made_at=datetime.now(UTC))
    drawn = opened.page.evaluate(
        "Object.fromEntries(Object.entries(about.charts).map(([name, chart]) => [name, chart.sources.map(rowsOf)]))"
    )
    for chart in gallery(data):
        assert isinstance(chart, Chart)
        expected = [[_as_on_page(row) for row in rows_of(source, data)] for source in chart.sources]
        assert drawn[chart.name] == expected, chart.name


def _as_on_page(row: dict[str, Any]) -> dict[str, Any]:
    packed = columns([row])
    return {name: one["names"][0] if isinstance(one, dict) else one[0] for name, one in packed.items()}


def test_runs_and_works_that_a_filter_leaves_out_give_way_and_come_back(opened: Opened) -> None:
    page = opened.page
    trace, work = page.locator("#trace"), page.locator("#work")
    trace.select_option(index=1)
    work.select_option(index=1)
    opened.settle()
    gpu = page.evaluate("tables.campaigns[tables.runs[1].c].gpu")
    model = page.evaluate("tables.campaigns.find(row => row.work === 1).model")
    opened.tick(page.evaluate(f"tables.campaigns.find(row => row.gpu !== {gpu!r}).gpu"))
    opened.tick(next(one for one in MODELS if one != model))
    opened.settle()
    kept = page.evaluate("tables.runs.filter(row => now.keptPlaces.has(row.c)).map(row => row.trace)")
    assert trace.input_value() == str(kept[0]) != "1"
    assert trace.locator("option:not(:disabled)").count() == len(kept)
    assert page.evaluate("views.power.data('samples').map(row => row.power)") == page.evaluate(
        f"tables.samples.filter(row => row.trace === {kept[0]}).map(row => row.power)"
    )
    assert work.input_value() == "0"
    assert opened.drawn("energy-speed") > 0

    page.get_by_label("Find").fill("no such thing")
    expect(page.locator("#f-power .nothing")).to_have_text("Nothing is left to draw with these filters.")
    page.get_by_role("button", name="Show all").click()
    opened.settle()
    assert (trace.input_value(), work.input_value()) == ("1", "1")


def test_ticks_are_counted_sent_as_a_link_and_cleared(opened: Opened) -> None:
    page = opened.page
    for at in (0, 2, 3):
        page.locator("#rows tbody input").nth(at).check()
    opened.settle()
    labels = page.evaluate("views.energy.data('campaigns').map(row => row.label)")
    assert len(labels) == 3
    count = page.locator("#metrics .n-ticked")
    assert count.text_content() == "3 ticked"
    assert page.evaluate("document.activeElement.dataset.pick") is not None, "the keyboard stays in the table"

    address = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    assert page.evaluate("views.energy.data('campaigns').map(row => row.label)") == labels
    assert page.locator("#s-energy .whole").is_visible()
    assert not page.locator("#s-drift-cycle .whole").is_visible()

    opened.tick("org/large-8b")
    expect(page.locator("#f-energy .nothing")).to_have_text(
        "None of the 3 ticked configurations is left with these filters."
    )
    expect(count).to_have_text("3 ticked, none of them left with these filters")

    page.locator("#metrics").get_by_role("button", name="Clear ticks").press("Enter")
    page.get_by_role("button", name="Show all").click()
    opened.settle()
    assert opened.drawn("energy") > 3
    assert "tick=" not in page.evaluate("location.href")
    assert page.get_by_role("button", name="Clear ticks").count() == 0


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


def test_every_cycle_that_is_drawn_is_in_the_figures_too(opened: Opened, measured: Path) -> None:
    page = opened.page
    page.locator("#f-energy details").evaluate("details => { details.open = true; }")
    means, cycles = page.locator("#f-energy details table").all()
    assert [table.locator("caption").text_content() for table in (means, cycles)] == ["16 rows", "80 cycles"]
    assert cycles.locator("th").all_text_contents()[1:] == ["cycle", "energy per output token (J)", "experiment_id"]
    stored = dict(rows(measured, "SELECT experiment_id, energy_per_output_token_j FROM cycles"))
    for line in cycles.locator("tbody tr").evaluate_all(
        "lines => lines.map(one => [...one.cells].map(c => c.innerText))"
    ):
        assert float(line[2]) == pytest.approx(stored[line[3]], rel=1e-3)
    page.locator("#rows tbody input").first.check()
    opened.settle()
    expect(page.locator("#f-energy details table caption").last).to_have_text("5 cycles")


def test_a_mark_says_what_it_is_of(opened: Opened) -> None:
    page = opened.page
    page.locator("#c-energy-speed .mark-symbol.role-mark path").first.hover(force=True)
    expect(page.locator("#vg-tooltip-element")).to_contain_text("95 % interval")


HOSTILE = "</script><img src=x onerror='window.foreign=1'>\"<b>"


@pytest.mark.parametrize("case", ["nothing", "only failures", "one run", "hostile names"])
def test_a_page_with_little_on_it_is_whole(new_page: NewPage, tmp_path: Path, case: str) -> None:
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
    opened = Opened(new_page(), target)
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
