"""Charts are valid Vega-Lite: while a report is made they are not held against its schema, which takes a second."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import altair as alt
import pytest

from warehouse.compare import compare
from warehouse.database import reading
from warehouse.report.charts import Chart
from warehouse.report.comparing import compared_sides
from warehouse.report.data import read_report
from warehouse.report.gallery import gallery

_SIDES = ("backend=pytorch", "backend=vllm")


def test_every_specification_is_valid(measured: Path) -> None:
    with reading(measured, 5) as connection:
        compared = compared_sides(compare(connection, *_SIDES), *_SIDES, 0.95, include_all=False)
        now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        data = read_report(connection, measured, [], include_all=False, made_at=now, compared=compared)
    charts = [one for one in gallery(data) if isinstance(one, Chart)]
    assert len(charts) == 17
    for chart in charts:
        alt.LayerChart.from_dict(chart.spec)
    with pytest.raises(Exception, match="no height"):
        alt.LayerChart.from_dict(charts[0].spec | {"height": "no height"})
