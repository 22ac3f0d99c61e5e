"""Marks lie where SQL says: the test's own, over runs and stored intervals, against what Chromium has drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.warehouse.report.drawn import corners, marks
from tests.warehouse.report.opened import Opened
from tests.warehouse.report.own_sql import COUNTS, LEVELS, NAMED, TIMES
from tests.warehouse.results import rows

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

_COLUMNS = {
    "energy": "energy_per_output_token_j",
    "speed": "output_tokens_per_second",
    "ttft": "ttft_mean_ms",
    "itl": "itl_mean_ms",
}
_MOST_LINES = 16

Named = tuple[str, str]
"""Experiment and hardware."""


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    yield Opened(context.new_page(), report).page
    context.close()


def _named(mark: dict[str, Any]) -> Named:
    return mark["of"]["experiment"], mark["of"]["hardware"]


def _intervals(db: Path, metric: str) -> dict[Named, list[float]]:
    found = rows(
        db,
        f"SELECT {NAMED}, t_lower, t_upper FROM campaign_intervals WHERE metric = '{_COLUMNS[metric]}'",
    )
    return {(experiment, hardware): list(bounds) for experiment, hardware, *bounds in found}


@pytest.mark.parametrize("metric", _COLUMNS)
def test_a_bar_reaches_from_one_bound_to_the_other(page: Page, measured: Path, metric: str) -> None:
    expected = _intervals(measured, metric)
    bars = marks(page, metric, "rule")
    assert len({_named(bar) for bar in bars}) == len(bars) == _MOST_LINES
    for bar in bars:
        assert [bar["x"], bar["x2"]] == pytest.approx(expected[_named(bar)], rel=1e-4), _named(bar)
    if metric != "itl":
        assert all(bar["x2"] > bar["x"] for bar in bars)


@pytest.mark.parametrize("other", ["speed", "ttft"])
def test_bars_of_both_figures_of_a_front(page: Page, measured: Path, other: str) -> None:
    of_energy, of_other = _intervals(measured, "energy"), _intervals(measured, other)
    bars = marks(page, f"energy-{other}", "rule")
    across, upright = [one for one in bars if one["y2"] is None], [one for one in bars if one["x2"] is None]
    assert (len(across), len(upright)) == (20, 20), "of the first kind of work"
    for bar in across:
        assert [bar["x"], bar["x2"]] == pytest.approx(of_other[_named(bar)], rel=1e-4)
    for bar in upright:
        assert [bar["y"], bar["y2"]] == pytest.approx(of_energy[_named(bar)], rel=1e-4)


@pytest.mark.parametrize(("other", "sign"), [("speed", 1), ("ttft", -1)])
def test_a_front_promises_only_what_a_campaign_has(page: Page, measured: Path, other: str, sign: int) -> None:
    """Wherever its line turns there is a campaign that is as good, or better, in both figures."""
    there = rows(measured, f"SELECT {_COLUMNS[other]}, {_COLUMNS['energy']} FROM campaigns")
    found = corners(page, f"energy-{other}")
    assert len(found) >= 3, "two on the front, and a corner between these"
    for value, energy in found:
        assert any(sign * (mean / value - 1) > -1e-3 and least / energy - 1 < 1e-3 for mean, least in there), (
            value,
            energy,
        )


@pytest.mark.parametrize("over", ["cycle", "time"])
def test_a_cycle_lies_as_far_away_as_it_is_and_when_it_began(page: Page, measured: Path, over: str) -> None:
    expected = {
        run: figures
        for run, *figures in rows(
            measured,
            "SELECT experiment_id, cycle, epoch_ms(start_time), energy_per_output_token_j"
            f" / avg(energy_per_output_token_j) OVER (PARTITION BY campaign_id) - 1 FROM experiments WHERE {COUNTS}",
        )
    }
    dots = marks(page, f"drift-{over}", "symbol")
    assert {dot["of"]["run"] for dot in dots} == expected.keys()
    for dot in dots:
        cycle, began_ms, away = expected[dot["of"]["run"]]
        assert dot["y"] == pytest.approx(away, abs=1e-4)
        where, near = (cycle, 0.4) if over == "cycle" else (began_ms, 1000)
        assert dot["x"] == pytest.approx(where, abs=near, rel=0)


def test_a_line_of_a_gpu_is_one_standard_deviation_either_way(page: Page, measured: Path) -> None:
    names = {
        "energy_per_output_token_j": "energy per output token",
        "output_tokens_per_second": "output tokens/s",
        "mean_power_w": "mean power",
    }
    expected = {
        (gpu, names[metric]): (mean - 1 - std, mean - 1, mean - 1 + std)
        for gpu, metric, mean, std in rows(measured, "SELECT gpu_uuid, metric, mean_ratio, std_ratio FROM drift_by_gpu")
    }
    lines, points = marks(page, "drift-gpu", "rule"), marks(page, "drift-gpu", "symbol")
    assert len(lines) == len(points) == len(expected) == 12
    middles = {(one["of"]["uuid"], one["of"]["metric"]): one["x"] for one in points}
    for line in lines:
        key = (line["of"]["uuid"], line["of"]["metric"])
        assert (line["x"], middles[key], line["x2"]) == pytest.approx(expected[key], abs=1e-5)


@pytest.mark.parametrize("kind", ["power", "temperature"])
def test_the_measured_window_is_shaded_from_end_to_end(page: Page, measured: Path, kind: str) -> None:
    run = (page.locator("#trace option").first.text_content() or "").rpartition(" - ")[2]
    ((start, end),) = rows(
        measured, f"SELECT window_from_s, window_to_s FROM experiments WHERE experiment_id = '{run}'"
    )
    (band,) = marks(page, kind, "rect")
    assert 0 < start < end
    assert (band["x"], band["x2"]) == pytest.approx((start, end), rel=1e-4)
    edges = sorted(one["x"] for one in marks(page, kind, "rule") if one["width"] == 1.5)
    assert edges == pytest.approx([start, end], rel=1e-4)


@pytest.mark.parametrize("kind", TIMES)
def test_quantiles_are_drawn_where_they_are(page: Page, measured: Path, kind: str) -> None:
    levels = list(LEVELS.values())
    found = rows(
        measured,
        f"SELECT experiment, hardware, quantile_cont(value, {levels}) FROM (SELECT {NAMED}, {TIMES[kind]} AS value "
        f"FROM requests JOIN experiments USING (experiment_key) WHERE {COUNTS}) GROUP BY ALL",
    )
    expected = {
        (experiment, hardware): dict(zip(LEVELS, values, strict=True)) for experiment, hardware, values in found
    }
    chart = f"requests-{kind}"
    rules, symbols = marks(page, chart, "rule"), marks(page, chart, "symbol")
    thin, thick = [one for one in rules if one["width"] == 1.5], [one for one in rules if one["width"] == 8]
    strokes, middles = ([one for one in symbols if (one["shape"] == "stroke") == far] for far in (True, False))
    assert [len(one) for one in (thin, thick, strokes, middles)] == [_MOST_LINES] * 4
    for drawn, ends in ((thin, ("p5", "p95")), (thick, ("p25", "p75")), (strokes, ("p99",)), (middles, ("p50",))):
        for one in drawn:
            places = [one["x"], one["x2"]][: len(ends)]
            assert places == pytest.approx([expected[_named(one)][end] for end in ends], rel=1e-4), ends
