"""Figures of a report against SQL of the test's own, over runs and their requests."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.report.own_sql import COUNTS, LEVELS, TIMES
from tests.warehouse.results import make_result, rows, save, warehouse
from warehouse.database import reading
from warehouse.report.data import ReportData, read_report


def _read(db: Path) -> ReportData:
    with reading(db, 5) as connection:
        return read_report(connection, db, [], include_all=False, made_at=datetime.now(UTC))


@pytest.mark.parametrize("kind", TIMES)
def test_every_quantile_is_over_all_requests_of_a_campaign(measured: Path, kind: str) -> None:
    found = rows(
        measured,
        f"SELECT campaign_id, quantile_cont(value, {list(LEVELS.values())}) FROM (SELECT campaign_id, "
        f"{TIMES[kind]} AS value FROM requests JOIN experiments USING (experiment_key) WHERE {COUNTS}) GROUP BY ALL",
    )
    expected = {(campaign, name): one for campaign, values in found for name, one in zip(LEVELS, values, strict=True)}
    shown = {(row["id"], name): row[f"{kind}_{name}"] for row in _read(measured).campaigns for name in LEVELS}
    assert shown == pytest.approx(expected, rel=1e-9)


def test_a_trace_is_of_the_run_in_the_middle_by_energy(measured: Path) -> None:
    data = _read(measured)
    assert len(data.traces) == 6
    for trace in data.traces:
        campaign = data.campaigns[trace["c"]]["id"]
        runs = rows(
            measured,
            f"SELECT experiment_id, window_from_s, window_to_s FROM experiments WHERE campaign_id = '{campaign}' "
            f"AND {COUNTS} ORDER BY total_energy_j / output_tokens",
        )
        assert len(runs) == 5
        assert (trace["run"], trace["from"], trace["to"]) == runs[2]


def test_campaigns_that_wander_are_told_of_most_first(report: Path, measured: Path) -> None:
    expected = rows(
        measured,
        f"""
        SELECT campaign_id, last / first - 1 AS change FROM (
            SELECT campaign_id, metric, corr(value, epoch(start_time)) AS correlation, count(*) AS n,
                arg_min(value, start_time) AS first, arg_max(value, start_time) AS last
            FROM (
                SELECT campaign_id, start_time, unnest(['energy', 'speed']) AS metric,
                    unnest([total_energy_j / output_tokens, output_tokens / total_inference_time_sec]) AS value
                FROM experiments WHERE {COUNTS}
            )
            GROUP BY campaign_id, metric
        )
        WHERE n >= 5 AND abs(correlation) >= 0.9 ORDER BY abs(change) DESC
        """,
    )
    assert len(expected) >= 3
    found = _read(measured).troubles.drift.rows
    assert [row["campaign_id"] for row in found] == [campaign for campaign, _ in expected]
    assert [row["relative_change"] for row in found] == pytest.approx([change for _, change in expected])
    listed = report.read_text().partition("<caption>Campaigns that wander")[2].partition("</table>")[0]
    assert re.findall(r">([+-][\d.]+ %)<", listed) == [f"{100 * change:+.1f} %" for _, change in expected]


def test_provenance_counts_the_cycles_of_each_environment(measured: Path) -> None:
    expected = rows(
        measured,
        f"SELECT backend, hardware, driver_version, image_name, image_id, git_revision, schema_version, count(*) "
        f"FROM experiments WHERE {COUNTS} GROUP BY ALL",
    )
    assert all(None not in row for row in expected)
    columns = ("backend", "hardware", "driver", "image_name", "digest", "revision", "schema", "n_cycles")
    found = [tuple(row[name] for name in columns) for row in _read(measured).troubles.provenance.rows]
    assert sorted(found) == sorted(expected)


def test_an_image_has_the_digest_of_its_registry_or_else_its_own(root: Path, db: Path) -> None:
    pushed = "registry.example.org/joulehouse@sha256:" + "cd" * 32
    images = [{"image_id": "sha256:" + "ab" * 32}, {"image_id": "sha256:" + "ef" * 32, "image_repo_digest": pushed}]
    for at, image in enumerate(images, start=1):
        save(root, make_result(at, environment={"git_revision": f"revision-{at}"} | image, study="s"))
    assert warehouse("ingest", root, db=db) == 0
    found = {(row["digest"], row["revision"]) for row in _read(db).troubles.provenance.rows}
    assert found == {("sha256:" + "ab" * 32, "revision-1"), (pushed, "revision-2")}
    target = db.with_name("report.html")
    assert warehouse("report", "-o", target, db=db) == 0
    shown = target.read_text().partition('id="provenance"')[2]
    assert all(one in shown for one in ("sha256:" + "ab" * 32, pushed, "revision-1", "revision-2"))


def test_invalid_runs_are_those_that_none_replaced(root: Path, db: Path) -> None:
    invalid: dict[str, Any] = {"measurement_valid": False, "invalid_reasons": ["foreign_process"]}
    cycles: list[tuple[int, dict[str, Any]]] = [(1, {}), (1, {}), (2, invalid), (3, invalid), (3, {})]
    for at, (cycle, fields) in enumerate(cycles, start=1):
        save(root, make_result(at, energy_j=30.0, study="s", **{"cycle": cycle} | fields))
    assert warehouse("ingest", root, db=db) == 0
    ((left_out, replaced),) = rows(
        db, "SELECT count(*) FILTER (is_invalid AND NOT superseded), count(*) FILTER (superseded) FROM experiments"
    )
    assert (left_out, replaced) == (1, 2)
    counts = _read(db).counts
    assert (counts.cycles, counts.invalid, counts.superseded) == (2, left_out, replaced)
    target = db.with_name("report.html")
    assert warehouse("report", "-o", target, db=db) == 0
    tiles = dict(re.findall(r'<dd id="n-(\w+)">([^<]*)</dd>', target.read_text()))
    assert (tiles["cycles"], tiles["invalid"]) == ("2", "1")
