"""Axes say that they are logarithmic, and have labels up to where the figures end."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pytest
import vl_convert as vlc

from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.results import make_result, save, warehouse
from warehouse.database import reading
from warehouse.report.axes import number_axis, percent_axis, scale_of
from warehouse.report.charts import Chart
from warehouse.report.data import ReportData, read_report
from warehouse.report.gallery import gallery, static_spec
from warehouse.report.theme import VEGA_LITE

_LABELS = """
name => {
  const view = views[name], found = [];
  const walk = item => {
    if (item.role === 'axis-label') found.push(...item.items.filter(one => one.opacity).map(one => one.text));
    else (item.items || []).forEach(walk);
  };
  walk(view.scenegraph().root);
  return [view.scale('x').domain(), found.filter(Boolean).map(text => Number(text.replaceAll(',', '')))];
}
"""


def _axes(svg: str) -> list[tuple[str, bool, float, float, list[float]]]:
    """Of each axis its title, whether its scale is logarithmic, where that begins and ends, and its labels."""
    found = []
    for axis in ElementTree.fromstring(svg).iter():
        said = re.fullmatch(r"[XY]-axis titled '(.*)' for a (\w+) scale with values from ([\d.,]+) to ([\d.,]+)",
                            axis.get("aria-label") or "")  # fmt: skip
        if said:
            labels = next(one for one in axis.iter() if "role-axis-label" in (one.get("class") or ""))
            texts = ["".join(one.itertext()) for one in labels if one.get("opacity") != "0"]
            low, high, *numbers = (float(text.replace(",", "")) for text in (said[3], said[4], *filter(None, texts)))
            found.append((said[1], said[2] == "log", low, high, numbers))
    return found


@pytest.fixture(scope="module")
def data(measured: Path) -> ReportData:
    with reading(measured, 5) as connection:
        return read_report(connection, measured, [], include_all=False, made_at=datetime.now(UTC))


# The longest way from one label to the next: from 2 to 5, and where there is little room from 3 to 10.
@pytest.mark.parametrize(("width", "farthest"), [(321.0, 3.4), (640.0, 2.51)])
def test_a_logarithmic_axis_says_so_and_has_labels_up_to_its_end(
    data: ReportData, width: float, farthest: float
) -> None:
    kinds = set()
    for chart in gallery(data):
        if isinstance(chart, Chart) and chart.section in ("metrics", "fronts", "latencies"):
            svg = vlc.vegalite_to_svg(static_spec(chart, data, width=width), vl_version=VEGA_LITE)
            axes = _axes(svg)
            assert len(axes) == (2 if chart.section == "fronts" else 1)
            for title, is_log, low, high, labels in axes:
                assert title.endswith(" (log)") == is_log, title
                kinds.add(is_log)
                if is_log:
                    assert len(labels) >= 3, chart.name
                    assert high / labels[-1] < farthest, (chart.name, low, high, labels)
    assert kinds == {True, False}


@pytest.mark.parametrize(
    ("low", "high", "label"), [(2.0, 2e6, "100,000"), (1e5, 4e5, "200,000"), (1e-5, 1e-3, "0.0001")]
)
def test_no_label_has_an_exponent(low: float, high: float, label: str) -> None:
    scale = scale_of([low, high])
    axis = alt.X("value:Q", scale=scale, axis=number_axis(scale))
    points = alt.Chart(alt.InlineData([{"value": low}, {"value": high}]), width=640).mark_point(aria=False)
    svg = vlc.vegalite_to_svg(points.encode(x=axis).to_dict(), vl_version=VEGA_LITE)
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert label in labels
    assert [one for one in labels if "e" in one and one != "value"] == []


@pytest.mark.parametrize("name", ["drift-cycle", "drift-time"])
def test_cycles_at_round_numbers_away_from_their_mean_are_drawn_whole(root: Path, db: Path, name: str) -> None:
    for cycle, energy_j in ((1, 90.0), (2, 110.0)):
        save(root, make_result(cycle, energy_j=energy_j, cycle=cycle, study="s"))
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=False, made_at=datetime.now(UTC))
    chart = next(one for one in gallery(data) if isinstance(one, Chart) and one.name == name)
    svg = vlc.vegalite_to_svg(static_spec(chart, data), vl_version=VEGA_LITE)
    points = re.search(r'class="mark-symbol role-mark.*?</g>', svg, flags=re.DOTALL)
    assert points is not None
    places = [float(y) for y in re.findall(r"translate\([-\d.]+,([-\d.]+)\)", points[0])]
    assert len(places) == 2
    assert 4 <= min(places) < max(places) <= chart.spec["height"] - 4


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_a_logarithmic_axis_has_labels_however_far_it_is_zoomed(new_page: NewPage, report: Path) -> None:
    opened = Opened(new_page(), report)
    # The second goes over a power of ten.
    for low, high in ((0.02, 0.9), (0.08, 0.4), (0.31, 0.36), (0.3333, 0.3334), (0.333331, 0.333332)):
        shown = f"views.energy.signal('zoom_energy', [{low}, {high}]).runAsync().then(() => null)"
        opened.page.evaluate(shown)
        domain, labels = opened.page.evaluate(_LABELS, "energy")
        assert domain == pytest.approx([low, high], rel=1e-9)
        assert len(set(labels)) == len(labels) >= 3
        assert low <= min(labels) < max(labels) <= high
        if high / low < 6:
            steps = [b - a for a, b in pairwise(sorted(labels))]
            assert steps == pytest.approx([steps[0]] * len(steps)), labels
    assert opened.wrong == []


def test_steps_of_less_than_a_thousandth_of_a_percentage_have_labels_of_their_own() -> None:
    axis = alt.X("value:Q", axis=percent_axis(), scale=alt.Scale(domain=[0.1234, 0.12341], nice=False))
    points = alt.Chart(alt.InlineData([{"value": 0.1234}]), width=640).mark_point(aria=False).encode(x=axis)
    svg = vlc.vegalite_to_svg(points.to_dict(), vl_version=VEGA_LITE)
    labels = re.findall(r"<text[^>]*>(\+[^<]+ %)</text>", svg)
    assert len(set(labels)) == len(labels) >= 3
    assert "+12.3402 %" in labels
