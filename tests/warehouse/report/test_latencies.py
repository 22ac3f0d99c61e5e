"""Quantiles of the gaps between tokens: over every gap of the cycles that count; of too many, over some."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection

from images.contract.files import REQUESTS_SCHEMA
from tests.warehouse.report.pages import Page
from tests.warehouse.results import make_result, requests_table, rows, save, warehouse
from warehouse.database import reading
from warehouse.report.charts import Chart
from warehouse.report.data import ReportData, read_report
from warehouse.report.gallery import Missing, gallery, static_spec
from warehouse.report.runs import read_gaps

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_N_GAPS = 5 * 40 * 9
"""Of each configuration of the study of 200 experiments."""
_SHOWN = ("n_gaps", "itl_p5", "itl_p50", "itl_p99")


@pytest.fixture
def read(measured: Path) -> Iterator[tuple[DuckDBPyConnection, ReportData]]:
    with reading(measured, 5) as connection:
        yield connection, read_report(connection, measured, [], include_all=False, made_at=_NOW)


def _again(read: tuple[DuckDBPyConnection, ReportData], most: int) -> list[dict[str, Any]]:
    connection, data = read
    campaigns = [dict(row) for row in data.campaigns]
    read_gaps(connection, campaigns, {row["id"]: row["c"] for row in campaigns}, most)
    return campaigns


def test_quantiles_are_over_every_gap_of_the_cycles_that_count(report: Path, measured: Path) -> None:
    expected = {
        campaign_id: (n, *quantiles)
        for campaign_id, n, quantiles in rows(
            measured,
            "SELECT campaign_id, count(gap), quantile_cont(gap, [0.05, 0.5, 0.99]) FROM "
            "(SELECT campaign_id, unnest(itl_ms) AS gap FROM requests JOIN cycles USING (experiment_key)) GROUP BY 1",
        )
    }
    found = {row["id"]: tuple(row[name] for name in _SHOWN) for row in Page(report).table("campaigns")}
    assert found.keys() == expected.keys()
    for campaign_id, figures in found.items():
        assert figures == pytest.approx(expected[campaign_id], rel=1e-5)
    assert f"{40 * _N_GAPS:,} gaps, each between two deliveries" in Page(report).text


def test_of_too_many_the_same_ones_are_read_each_time(read: tuple[DuckDBPyConnection, ReportData]) -> None:
    whole, part = _again(read, 10**9), _again(read, 40 * _N_GAPS // 4)
    assert part == _again(read, 40 * _N_GAPS // 4)
    assert {row["n_gaps_read"] for row in whole} == {row["n_gaps"] for row in part} == {_N_GAPS}
    for every, some in zip(whole, part, strict=True):
        assert some["n_gaps_read"] == pytest.approx(_N_GAPS / 4, rel=0.25)
        assert every["itl_p25"] < some["itl_p50"] < every["itl_p75"]
    assert [row["itl_p50"] for row in part] != [row["itl_p50"] for row in whole]


def test_a_configuration_with_few_gaps_is_read_whole_beside_one_with_many(root: Path, db: Path) -> None:
    save(root, make_result(1, study="few", n_requests=4), 4, itl_ms=[1.0, 2.0])
    save(root, make_result(2, study="many", n_requests=4), 400, itl_ms=[3.0] * 100)
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=False, made_at=_NOW)
        few, many = sorted(_again((connection, data), 1000), key=lambda row: row["n_gaps"])
    assert (few["n_gaps"], few["n_gaps_read"], few["itl_p50"], few["itl_p5"]) == (8, 8, 1.5, None)
    assert (many["n_gaps"], many["itl_p99"]) == (40_000, 3.0)
    assert 400 <= many["n_gaps_read"] <= 700


def test_the_sentence_says_over_how_many(read: tuple[DuckDBPyConnection, ReportData]) -> None:
    _, data = read
    assert "too many" not in _chart(data).summary
    for row in data.campaigns:
        row["n_gaps_read"] = 450
    chart = _chart(data)
    assert f"quantiles are over {40 * 450:,} of them, at least 450 of a configuration that has more" in chart.summary
    assert chart.columns["n_gaps_read"] == "gaps read"


def _chart(data: ReportData) -> Any:
    return next(one for one in gallery(data) if one.name == "requests-itl")


def test_a_run_without_gaps_has_no_chart_and_is_told_why(root: Path, db: Path) -> None:
    save(root, make_result(1, study="s"), 4, itl_ms=None)
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        missing = _chart(read_report(connection, db, [], include_all=False, made_at=_NOW))
    assert isinstance(missing, Missing)
    assert "every token has its time" in missing.reason


def test_requests_of_one_token_are_not_among_those_that_have_a_time_per_token(root: Path, db: Path) -> None:
    """Nor those without a first token's time; what is said, pointed at and listed is what the quantiles are over."""
    requests = (
        [{"output_tokens": 1}] * 6
        + [{"output_tokens": 5, "e2e_ms": 90.0}] * 9
        + [{"output_tokens": 1, "ttft_ms": None}]
    )
    table = requests_table(16, e2e_ms=10.0).to_pylist()
    saved = pa.Table.from_pylist([row | own for row, own in zip(table, requests, strict=True)], schema=REQUESTS_SCHEMA)
    make_result(1, study="s", n_requests=16).save(root, requests=saved)
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=False, made_at=_NOW)
    charts = {one.name: one for one in gallery(data) if isinstance(one, Chart)}
    for kind, n, words in (("tpot", 9, " of more than one token"), ("ttft", 15, ""), ("e2e", 16, "")):
        chart, field = charts[f"requests-{kind}"], f"n_{kind}_requests"
        assert chart.summary.startswith(f"{n} requests{words}, median ")
        assert chart.columns[field] == "requests"
        assert [row[field] for row in static_spec(chart, data)["datasets"]["campaigns"]] == [n]
        assert f'"field": "{field}"' in json.dumps(chart.spec)
