"""What a page does with its reader's choice, in headless Chromium: fronts, addresses, and a chart that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from playwright.sync_api import expect

from images.contract.parts import EnergyBreakdown
from tests.warehouse.report.measured import BACKENDS, N_EXPERIMENTS
from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.results import make_result, save, warehouse
from warehouse.report.fronts import logarithmic, mark_fronts, name_fronts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def opened(new_page: NewPage, report: Path) -> Opened:
    return Opened(new_page(), report)


_ONE_FAILS = """
let real;
Object.defineProperty(window, 'vegaEmbed', {
  set(embed) { real = embed; },
  get: () => async (...given) => {
    if (given[0].id === 'c-speed') {
      const tools = document.querySelectorAll('#f-ttft .tools button');
      window.early = [...tools].map(one => one.disabled);
      for (const one of tools) one.click();
      throw new Error('no chart today');
    }
    return real(...given);
  },
});
"""


def test_a_chart_that_cannot_be_drawn_says_so_and_the_others_are_drawn(new_page: NewPage, report: Path) -> None:
    page = new_page()
    page.add_init_script(_ONE_FAILS)
    opened = Opened(page, report)
    assert page.locator("#f-speed .nothing").inner_text() == "This chart could not be drawn."
    assert page.evaluate("Object.keys(views).length") == len(page.locator(".chart").all()) - 1
    assert page.evaluate("early") == [True] * 5, "there is nothing yet to zoom or save"
    disabled = page.locator(".tools button:disabled").evaluate_all("all => all.map(one => one.dataset.of)")
    assert disabled == ["speed"] * 5
    opened.tick("vllm")
    opened.settle()
    assert opened.drawn("drift-cycle") == N_EXPERIMENTS // len(BACKENDS)
    assert len(opened.wrong) == 1
    assert "no chart today" in opened.wrong[0]


def test_find_leaves_what_has_the_words_that_were_typed(opened: Opened) -> None:
    page = opened.page
    hash_, campaign = page.evaluate("[tables.campaigns[0].hash, tables.campaigns[0].id]")
    for typed, n_left in (
        ("batch 8", 8),
        ("Large-8b batch 1", 4),
        ("batch 1", 8),
        ("vllm l4", 10),
        ("l4 vllm", 10),
        ("8", 8),
        ("batch", 40),
        ("arge", 0),
        ("8b (", 0),
        ("batch 8 · L4", 4),
        (campaign[:3], 0),
        (campaign[:8], 1),
        (hash_[:4], 2),
        ("32 org/small", 4),
        ("vllm 8", 0),
    ):
        page.get_by_label("Find").fill(typed)
        expect(page.locator("#shown"), typed).to_contain_text(f"{n_left} of 40 configurations")


def test_find_says_what_it_searches(opened: Opened) -> None:
    """Whole words or their beginnings, of names, models and studies; a setting that all have stands in no name."""
    page = opened.page
    assert page.get_by_label("Find").get_attribute("placeholder") == "words of a name, model or study"
    assert page.locator("#common").inner_text() == "All configurations: dtype bfloat16"
    found = "typed => tables.campaigns.filter(row => wantedBy(typed).every(isIn => isIn(row))).length"
    first = page.evaluate("tables.campaigns[0]")
    assert [page.evaluate(found, first[name]) > 0 for name in ("label", "model", "study")] == [True] * 3
    assert page.evaluate(found, "bfloat16") == 0


def test_the_table_begins_with_the_best_of_a_column(opened: Opened) -> None:
    page = opened.page
    for metric, orders in (("speed", ("descending", "ascending")), ("ttft", ("ascending", "descending"))):
        head = page.locator(f"#rows th[data-sort={metric}_mean]")
        for order in orders:
            head.get_by_role("button").click()
            assert page.locator("#rows th[aria-sort]").count() == 1
            assert head.get_attribute("aria-sort") == order
            means = page.evaluate(f"tables.campaigns.map(row => row.{metric}_mean)")
            shown = page.locator(f"#rows [data-metric={metric}] > :first-child").all_text_contents()
            listed = [float(text.replace(",", "")) for text in shown]
            assert listed == pytest.approx(sorted(means, reverse=order == "descending")[: len(shown)], rel=1e-3)


def test_without_energy_the_table_begins_as_the_charts_do_with_most_tokens(new_page: NewPage, tmp_path: Path) -> None:
    for number, seconds in ((1, 4.0), (2, 1.0), (3, 2.0)):
        save(tmp_path / "results", make_result(number, seconds=seconds, study=f"s{number}"))
    db, target = tmp_path / "w.duckdb", tmp_path / "r.html"
    assert warehouse("ingest", tmp_path / "results", db=db) == 0
    assert warehouse("report", "-o", target, db=db) == 0
    page = Opened(new_page(), target).page
    assert page.locator("#rows [aria-sort=descending]").get_attribute("data-sort") == "speed_mean"
    listed = page.locator("#rows tbody tr").evaluate_all("all => all.map(one => one.dataset.campaign)")
    assert listed == page.evaluate("now.ranked.map(row => row.id)")
    assert len(listed) == 3


def test_a_front_is_of_what_the_filters_leave(opened: Opened) -> None:
    page = opened.page
    opened.tick("pytorch")
    opened.tick("NVIDIA L4")
    opened.settle()
    for chart, key, sign in (("energy-speed", "speed", -1), ("energy-ttft", "ttft", 1)):
        rows = page.evaluate(f"views['{chart}'].data('campaigns')")
        found = {row["label"] for row in rows if row[f"{key}_front"]}
        assert found == _unbeaten([(row["label"], sign * row[f"{key}_mean"], row["energy_mean"]) for row in rows])
        assert found, "the slower engine alone"
        named = [row[f"{key}_name"] for row in rows if row[f"{key}_name"]]
        assert len(set(named)) == len(named) >= 1
        assert {row["label"] for row in rows if row[f"{key}_name"]} <= found


def _unbeaten(points: Sequence[tuple[Any, float, float]]) -> set[Any]:
    """Of names with two figures, of which less is better."""
    return {name for name, x, y in points if not any(a <= x and b <= y and (a, b) != (x, y) for _, a, b in points)}


def test_the_page_and_the_report_have_one_rule_of_fronts(opened: Opened) -> None:
    """With ties in one figure and in both, and simulated GPUs, which are held against each other alone."""
    random = Random(1)
    made = [
        {
            "c": at,
            "work": 0,
            "simulated": at % 3 == 0,
            "energy_mean": random.randint(1, 9),
            "ttft_mean": random.randint(1, 9),
        }
        for at in range(40)
    ]
    mark_fronts(made, {"ttft": 1})
    on_page = opened.page.evaluate(
        "rows => { markFront(rows, 'ttft'); return rows.map(row => !!row.ttft_front); }", made
    )
    expected = set()
    for simulated in (True, False):
        of_kind = [row for row in made if row["simulated"] == simulated]
        expected |= _unbeaten([(row["c"], row["ttft_mean"], row["energy_mean"]) for row in of_kind])
    assert {row["c"] for row in made if row["ttft_front"]} == expected
    assert {at for at, is_on in enumerate(on_page) if is_on} == expected
    # And where nothing is left out, both name the same points.
    same = opened.page.evaluate("""
    () => ['energy-speed', 'energy-ttft'].every(name => {
      const rows = rowsOf(about.charts[name].sources[0]), key = name.slice(7), again = rows.map(row => ({...row}));
      markFront(again, key);
      nameFront(again, key);
      return again.every((row, at) => row[`${key}_front`] === rows[at][`${key}_front`]
        && !row[`${key}_name`] === !rows[at][`${key}_name`] && !row[`${key}_above`] === !rows[at][`${key}_above`]);
    })
    """)
    assert same


def test_the_page_and_the_report_have_one_rule_of_names(opened: Opened) -> None:
    """Where ends lie together, too, and on logarithmic axes with intervals that reach below 0."""
    random = Random(2)
    settings = ("model", "dtype", "processes", "study", "experiment", "driver", "image", "limit", "commit", "hash")
    for spread in (0.001, 0.03, 1.0, 1000.0):
        made = [
            dict.fromkeys(settings)
            | {"c": at, "id": f"{at}", "work": 0, "simulated": at % 3 == 0, "hardware": "h"}
            # Only one of two with the same batch size may be on the front.
            | {"batch": at // 2, "backend": "ab"[at % 2]}
            for at in range(30)
        ]
        for at, row in enumerate(made):
            for key, value in (("energy", 5 + random.random()), ("ttft", 5 + random.random())):
                value = 5 + spread * (value - 5) if at else 9.0
                row |= {f"{key}_mean": value, f"{key}_lo": 5 - spread, f"{key}_hi": 5 + spread}
        mark_fronts(made, {"ttft": 1})
        name_fronts(made, ("ttft",))
        assert logarithmic(made, "ttft") == [spread == 1000.0] * 2
        named = {str(row["ttft_name"]): row["simulated"] for row in made if row["ttft_name"] is not None}
        assert len(named) >= 2
        assert all(name.endswith(" · simulated") == simulated for name, simulated in named.items())
        on_page = opened.page.evaluate(
            """([rows, logarithmic]) => {
              about.fronts.logarithmic.ttft = logarithmic;
              nameFront(rows, 'ttft');
              return rows.map(row => [row.c, row.ttft_name, !!row.ttft_name && !!row.ttft_above]);
            }""",
            [[{**row, "ttft_name": None, "ttft_above": 0} for row in made], logarithmic(made, "ttft")],
        )
        assert on_page == [
            [row["c"], row["ttft_name"], row["ttft_name"] is not None and row["ttft_above"]] for row in made
        ]


@pytest.mark.parametrize("by", ["click", "keyboard"])
def test_a_link_to_a_part_of_the_page_keeps_the_filters_in_the_address(opened: Opened, by: str) -> None:
    page = opened.page
    opened.tick("vllm")
    opened.settle()
    address = page.evaluate("location.href")
    link = page.get_by_role("navigation", name="Contents").get_by_role("link", name="Energy against speed")
    link.click() if by == "click" else link.press("Enter")
    assert page.evaluate("location.href") == address
    assert "backend=vllm" in address
    expect(page.locator("#h-fronts")).to_be_in_viewport()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').id") == "fronts", "the keyboard goes on there"
    assert opened.drawn("drift-cycle") == N_EXPERIMENTS // len(BACKENDS)


def test_the_bound_of_the_meter_stands_below_the_interval_and_in_the_figures(new_page: NewPage, tmp_path: Path) -> None:
    for number, bound_j in ((1, 0.1), (2, 0.8441)):
        result = make_result(number, energy_j=100.0, study="s", energy_breakdown=EnergyBreakdown(bound_j=bound_j))
        save(tmp_path / "results", result)
    db, target = tmp_path / "w.duckdb", tmp_path / "r.html"
    assert warehouse("ingest", tmp_path / "results", db=db) == 0
    assert warehouse("report", "-o", target, db=db) == 0
    page = Opened(new_page(), target).page
    assert page.locator("#shown").text_content() == "1 of 1 configuration, 2 of 2 cycles"
    cell = page.locator("#rows [data-metric=energy] > *")
    assert cell.all_text_contents()[2:] == ["meter ±0.85 %"], "the largest of its cycles, never rounded down"
    assert page.locator("#rows [data-metric=speed] > *").count() == 2
    page.locator("#f-energy details").evaluate("details => { details.open = true; }")
    means = page.locator("#f-energy details table").first
    assert (means.locator("th").last.text_content(), means.locator("td").last.text_content()) == (
        "meter's bound",
        "±0.85 %",
    )
