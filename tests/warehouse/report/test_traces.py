"""Traces: noise does not look like a signal, a line does not lie on the frame, and the run has its name."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import vl_convert as vlc

from tests.warehouse.results import make_result, samples_table, save, warehouse
from warehouse.database import reading
from warehouse.report.charts import Chart
from warehouse.report.data import read_report
from warehouse.report.gallery import gallery, static_spec
from warehouse.report.theme import VEGA_LITE

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _axis(root: Path, db: Path, kind: str, powers_w: list[float], temperature_c: float = 40.0) -> list[float]:
    """The numbers at the axis of a trace."""
    samples = samples_table([(at / 10, power_w) for at, power_w in enumerate(powers_w)], temperature_c=temperature_c)
    save(root, make_result(1, energy_j=30.0), samples=samples)
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=False, made_at=_NOW)
    chart = next(one for one in gallery(data) if one.name == kind)
    assert isinstance(chart, Chart)
    svg = vlc.vegalite_to_svg(static_spec(chart, data), vl_version=VEGA_LITE)
    (label,) = re.findall(r"aria-label=\"Y-axis[^\"]*values from ([\d.,]+) to ([\d.,]+)\"", svg)
    return [float(one.replace(",", "")) for one in label]


@pytest.mark.parametrize("powers_w", [[300.0] * 20, [300.0, 300.4] * 10])
def test_steady_power_is_drawn_as_steady(root: Path, db: Path, powers_w: list[float]) -> None:
    low, high = _axis(root, db, "power", powers_w)
    assert high - low >= 15, "5 % of its mean"
    assert low < 297 < 303 < high
    assert low > 250


def test_steady_power_of_little_has_five_watts(root: Path, db: Path) -> None:
    low, high = _axis(root, db, "power", [3.0] * 20)
    assert (low >= 0, 5 <= high - low <= 8) == (True, True)


def test_a_steady_temperature_has_five_degrees(root: Path, db: Path) -> None:
    low, high = _axis(root, db, "temperature", [300.0] * 20)
    assert 5 <= high - low <= 8
    assert low < 39 < 41 < high


def test_what_swings_fills_the_axis_and_does_not_lie_on_its_ends(root: Path, db: Path) -> None:
    low, high = _axis(root, db, "power", [100.0, 200.0] * 10)
    assert 80 <= low < 100
    assert 200 < high <= 220


def _power(root: Path, db: Path, n_gpus: int, n_samples: int = 20) -> tuple[Chart, str]:
    """The chart of GPUs that draw 100 W, 110 W and so on, and its picture."""
    gpus = [[(at / 10, 100.0 + 10 * gpu) for at in range(n_samples)] for gpu in range(n_gpus)]
    save(root, make_result(1, energy_j=30.0), samples=samples_table(*gpus))
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=False, made_at=_NOW)
    chart = next(one for one in gallery(data) if one.name == "power")
    assert isinstance(chart, Chart)
    return chart, vlc.vegalite_to_svg(static_spec(chart, data), vl_version=VEGA_LITE)


def test_gpus_that_are_not_drawn_are_told_of_and_are_not_in_the_figures(root: Path, db: Path) -> None:
    chart, _ = _power(root, db, 10)
    assert chart.summary.endswith(" 8 of 10 GPUs are drawn. Inside the window, of these, 100.0 to 170.0 W.")


def test_all_gpus_are_not_told_of(root: Path, db: Path) -> None:
    chart, _ = _power(root, db, 8)
    assert chart.summary.endswith("by energy. Inside the window 100.0 to 170.0 W.")


@pytest.mark.parametrize("n_samples", [20, 200])
def test_every_gpu_has_a_dash_of_its_own_that_the_legend_shows(root: Path, db: Path, n_samples: int) -> None:
    _, svg = _power(root, db, 8, n_samples)
    lines, legend = (
        [_dash(group) for group in _groups(svg, of)] for of in ("mark-line", "mark-symbol role-legend-symbol")
    )
    assert len(set(lines)) == len(lines) == 8
    assert legend == lines
    dots = _groups(svg, "mark-symbol role-mark")[0]
    assert ('opacity="0"' in dots) == (n_samples > 40), "many dots would fill the gaps of their lines"


def _groups(svg: str, name: str) -> list[str]:
    """Each group of marks that is called so, up to its end: there is none inside it."""
    return re.findall(f'<g class="{name}[ "].*?</g>', svg, flags=re.DOTALL)


def _dash(group: str) -> str:
    found = re.search(r'stroke-dasharray="([^"]*)"', group)
    return found[1] if found else ""


def test_the_sentence_names_configuration_and_run(measured: Path) -> None:
    with reading(measured, 5) as connection:
        data = read_report(connection, measured, [], include_all=False, made_at=_NOW)
    chart = next(one for one in gallery(data) if one.name == "power")
    assert isinstance(chart, Chart)
    for trace, sentence in zip(data.traces, chart.summaries, strict=True):
        assert sentence.startswith(
            f"{trace['label']}, {trace['run']}: the cycle in the middle, by energy, one of 6 runs"
        )
