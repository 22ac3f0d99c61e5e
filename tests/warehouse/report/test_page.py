"""The page without a browser: whole in every case, never broken by what others wrote, never too large."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import vl_convert as vlc

from images.contract.config import ExperimentConfig
from images.contract.work import Workload
from tests.warehouse.cookbook_data import write_year
from tests.warehouse.report.pages import Page
from tests.warehouse.results import make_result, rows, samples_table, save, save_failure, warehouse
from warehouse.database import prepare, reading
from warehouse.report import page as pages
from warehouse.report.charts import Chart
from warehouse.report.data import MOST_CAMPAIGNS, MOST_CYCLES, ReportData, Row, read_report
from warehouse.report.gallery import Missing, gallery, static_spec
from warehouse.report.theme import VEGA_LITE
from warehouse.report.troubles import MOST_ROWS, Listing

_MOST_BYTES = 6_000_000
_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def made(db: Path, target: Path, *arguments: str) -> Page:
    assert warehouse("report", "-o", target, *arguments, db=db) == 0
    return Page(target)


def read(db: Path, *, include_all: bool = False) -> ReportData:
    with reading(db, 5) as connection:
        return read_report(connection, db, [], include_all=include_all, made_at=_NOW)


def ingested(root: Path, db: Path) -> None:
    root.mkdir(exist_ok=True)
    assert warehouse("ingest", root, db=db) == 0


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warehouse: ")
    return line


class TestCases:
    def test_nothing_was_ingested(self, root: Path, db: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert warehouse("report", "-o", target, db=db) == 2
        assert "warehouse ingest" in the_line(capsys)
        assert not target.exists()
        prepare(db, 5)
        found = made(db, target)
        assert "Nothing has been measured here" in found.text
        assert found.charts == {}

    def test_one_run_has_dots_and_no_interval(self, root: Path, db: Path, target: Path) -> None:
        save(root, make_result(1, energy_j=30.0, study="one"), samples=samples_table([(0.5, 15.0), (1.5, 15.0)]))
        ingested(root, db)
        found = made(db, target)
        (campaign,), (cycle,) = found.table("campaigns"), found.table("cycles")
        assert (campaign["energy_text"], campaign["energy_interval"], campaign["energy_lo"]) == ("1.000", None, None)
        assert cycle["energy"] == 1.0
        assert "No campaign has two cycles." in found.text
        assert "1.000 J, over 1 cycle: no interval." in found.text

    def test_only_failures(self, root: Path, db: Path, target: Path) -> None:
        save_failure(root, study="broken", message="no memory left")
        ingested(root, db)
        found = made(db, target)
        assert "Every job failed" in found.text
        assert "no memory left" in found.text
        assert found.charts == {}

    def test_simulated_gpus_are_left_out_and_told_of(self, root: Path, db: Path, target: Path) -> None:
        for number in (1, 2, 3):
            save(root, make_result(number, energy_j=30.0 + number, environment={"simulated": True}, study="s"))
        ingested(root, db)
        found = made(db, target)
        assert "3 cycles on simulated GPUs left out" in found.text
        assert found.table("campaigns") == []
        everything = made(db, target, "--all")
        assert len(everything.table("cycles")) == 3
        assert everything.table("campaigns")[0]["simulated"] == 1
        assert "energy on simulated GPUs proves nothing" in everything.text

    def test_all_lets_invalid_cycles_count_as_campaign_does(
        self, root: Path, db: Path, target: Path, tmp_path: Path
    ) -> None:
        for number, energy_j in enumerate((30.0, 31.0, 90.0), start=1):
            fields: dict[str, Any] = {"measurement_valid": False, "invalid_reasons": ["x"]} if number == 3 else {}
            save(root, make_result(number, energy_j=energy_j, study="s", **fields))
        ingested(root, db)
        assert [row["energy_text"] for row in made(db, target).table("campaigns")] == ["1.017"]
        found = made(db, target, "--all")
        assert warehouse("campaign", "--all", "--export-csv", tmp_path / "c.csv", db=db) == 0
        with (tmp_path / "c.csv").open(newline="") as stream:
            told = {row["metric"]: float(row["mean"]) for row in csv.DictReader(stream)}
        (campaign,) = found.table("campaigns")
        assert campaign["energy_mean"] == pytest.approx(told["energy_per_output_token_j"], rel=1e-5)
        assert [row["energy_n"] for row in found.table("campaigns")] == [3]
        assert sum(row["invalid"] for row in found.table("cycles")) == 1

    @pytest.mark.parametrize(("include_all", "expected"), [(False, 2), (True, 5)])
    def test_the_table_of_invalid_runs_has_those_that_the_tile_counts(
        self, root: Path, db: Path, include_all: bool, expected: int
    ) -> None:
        for number in range(1, 8):
            fields: dict[str, Any] = {"measurement_valid": False, "invalid_reasons": ["x"]} if number < 6 else {}
            save(root, make_result(number, environment={"simulated": number < 4}, study="s", **fields))
        ingested(root, db)
        data = read(db, include_all=include_all)
        assert data.counts.invalid == sum(row["n_runs"] for row in data.troubles.invalid.rows) == expected

    def test_only_some_of_many_gpus_are_drawn_and_it_is_said(self, root: Path, db: Path) -> None:
        for number in range(1, 61):
            environment = {"gpu_names": ["L4"], "gpu_uuids": [f"GPU-{number:02}"], "device": "cuda"}
            save(root, make_result(number, energy_j=30.0 + number, environment=environment, study="s"))
        ingested(root, db)
        (chart,) = (one for one in gallery(read(db)) if one.name == "drift-gpu")
        assert isinstance(chart, Chart)
        assert chart.summary.startswith("48 of 60 GPUs, those that differ most. Most: GPU-")

    def test_a_study_that_is_asked_for_twice_is_named_once(self, root: Path, db: Path) -> None:
        save(root, make_result(1, study="s"))
        ingested(root, db)
        with reading(db, 5) as connection:
            data = read_report(connection, db, ["s", "s"], include_all=False, made_at=_NOW)
        assert data.studies == ["s"]

    def test_cycles_without_their_names_are_told_of(
        self, root: Path, db: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (1, 2, 3):
            save(root, make_result(number, study="s"))
        ingested(root, db)
        assert read(db).notes == []
        monkeypatch.setattr("warehouse.report.data.MOST_IDS", 2)
        data = read(db)
        assert [row["run"] for row in data.cycles] == [None] * 3
        assert [*data.notes] == ["Cycles are drawn without their experiment_id: there are 3, which is more than 2."]

    def test_studies_that_are_asked_for_alone(self, root: Path, db: Path, target: Path) -> None:
        year = write_year(_made(root))
        ingested(root, db)
        found = made(db, target, "--study", "drivers", "--study", "lengths")
        assert {row["study"] for row in found.table("campaigns")} == {"drivers", "lengths"}
        expected = len(year.of("drivers")) + len(year.of("lengths"))
        assert len(found.table("cycles")) == expected
        assert "CUDA out of memory" not in found.text, "a failure of another study"

    def test_the_front_is_that_of_the_view(self, root: Path, db: Path, target: Path) -> None:
        write_year(_made(root))
        ingested(root, db)
        campaigns = made(db, target).table("campaigns")
        for flag, column in (("speed_front", "on_throughput_front"), ("ttft_front", "on_ttft_front")):
            expected = {one for (one,) in rows(db, f"SELECT campaign_id FROM pareto_front WHERE {column}")}
            assert {row["id"] for row in campaigns if row[flag]} == expected

    def test_a_run_with_many_samples_keeps_its_peaks(self, root: Path, db: Path, target: Path) -> None:
        samples = [(at / 1000, 100.0 if at != 1234 else 399.0) for at in range(2000)]
        save(root, make_result(1, energy_j=30.0), samples=samples_table(samples))
        ingested(root, db)
        drawn = made(db, target).table("samples")
        assert len(drawn) <= 600
        assert max(row["power"] for row in drawn) == 399.0

    def test_what_wanders_from_nothing_has_no_change_in_percent(self, root: Path, db: Path, target: Path) -> None:
        for number in range(1, 7):
            save(root, make_result(number, energy_j=10.0 * (number - 1), study="s"))
        ingested(root, db)
        found = made(db, target)
        assert "1 figure of a campaign wanders steadily with time, where chance alone would make about" in found.text
        assert "look so." in found.text
        assert "from first to last of" not in found.text


class TestBadInput:
    def test_an_unknown_study_is_one_line_with_near_names(
        self, root: Path, db: Path, target: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(root, make_result(1, study="batch-size"))
        ingested(root, db)
        capsys.readouterr()
        assert warehouse("report", "-o", target, "--study", "batchsize", db=db) == 2
        assert "did you mean batch-size?" in the_line(capsys)
        assert not target.exists()

    def test_an_older_schema_is_one_line(
        self, root: Path, db: Path, target: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        prepare(db, 5)
        with duckdb.connect(str(db)) as connection:
            connection.execute("UPDATE warehouse_schema SET version = 3")
        capsys.readouterr()
        assert warehouse("report", "-o", target, db=db) == 2
        assert "schema --upgrade" in the_line(capsys)

    @pytest.mark.parametrize("kind", ["folder", "no parent", "database"])
    def test_a_place_that_cannot_be_written_is_one_line(
        self, root: Path, db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        prepare(db, 5)
        capsys.readouterr()
        places = {"folder": tmp_path, "no parent": tmp_path / "none" / "r.html", "database": db}
        assert warehouse("report", "-o", places[kind], db=db) == 2
        the_line(capsys)
        assert rows(db, "SELECT count(*) FROM experiments") == [(0,)]

    def test_an_earlier_report_stays_until_the_new_one_is_whole(self, root: Path, db: Path, target: Path) -> None:
        prepare(db, 5)
        target.write_text("earlier")
        assert warehouse("report", "-o", target, "--study", "none", db=db) == 2
        assert target.read_text() == "earlier"
        made(db, target)
        assert [one.name for one in target.parent.iterdir() if one.suffix == ".tmp"] == []


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "{{ 7 * 7 }} ${7*7} <!-- ]]>",
    "a\nb\u2028c\x00d\x1b[31m",
    "\u202egnihtyna",
    "m" * 5000,
    "'; DROP TABLE experiments; --",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_text_whatever_they_hold(root: Path, db: Path, target: Path, name: str) -> None:
    config = ExperimentConfig(backend="stub", model=name.replace("\x00", ""), batch_size=4)
    for number in (1, 2):
        result = make_result(
            number,
            energy_j=30.0 + number,
            config=config,
            experiment=name,
            measurement_warnings=[f"x: {name}"],
            environment={"gpu_names": [name], "image_name": name, "driver_version": name},
            study="plain",
        )
        save(root, result, samples=samples_table([(0.5, 15.0), (1.5, 15.0)]))
    save_failure(root, message=name, advice=name, error_class=name)
    ingested(root, db)
    found = made(db, target)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 4
    assert "img" not in tags
    assert [one for _, attributes in found.elements for one in attributes if one.startswith("on")] == []
    assert "49 49" not in found.text
    assert "\u202e" not in target.read_text(encoding="utf-8")
    (campaign,) = found.table("campaigns")
    assert len(campaign["model"]) < 2000
    for chart in gallery(read(db)):
        if isinstance(chart, Chart):
            assert vlc.vegalite_to_svg(static_spec(chart, read(db)), vl_version=VEGA_LITE).startswith("<svg")


def test_every_chart_stands_alone_too(measured: Path) -> None:
    data = read(measured)
    charts = gallery(data)
    assert [one for one in charts if isinstance(one, Missing)] == []
    for chart in charts:
        assert isinstance(chart, Chart)
        for dark in (False, True):
            picture = vlc.vegalite_to_svg(static_spec(chart, data, dark=dark), vl_version=VEGA_LITE)
            assert picture.count("aria-roledescription") + picture.count("<path") > 5, chart.name


def test_latencies_are_quantiles_of_the_requests(report: Path, measured: Path) -> None:
    expected = dict(
        rows(
            measured,
            "SELECT campaign_id, quantile_cont(ttft_ms, 0.95) "
            "FROM requests JOIN cycles USING (experiment_key) GROUP BY 1",
        )
    )
    shown = {row["id"]: row["ttft_p95"] for row in Page(report).table("campaigns")}
    assert shown == pytest.approx(expected, rel=1e-5)


class TestBest:
    """Of configurations of one work, batch 1, 2 and so on."""

    def table(self, root: Path, db: Path, target: Path, energies_j: tuple[float | None, ...], **workload: Any) -> str:
        for number, energy_j in enumerate(energies_j, start=1):
            config = ExperimentConfig(backend="stub", batch_size=number, workload=Workload(**workload))
            save(root, make_result(number, energy_j=energy_j, config=config, prompts_sha256="5c" * 32, study="s"))
        ingested(root, db)
        found = made(db, target).text
        return " ".join(found.partition("Shortest TTFT mean (ms)")[2].partition("Figures by configuration")[0].split())

    def test_the_next_is_told(self, root: Path, db: Path, target: Path) -> None:
        assert "1.000 no intervalstub · batch 1next: 50 % more" in self.table(root, db, target, (30.0, 45.0))

    def test_none_of_those_that_are_equal_is_the_best(self, root: Path, db: Path, target: Path) -> None:
        found = self.table(root, db, target, (30.0, 30.0, 60.0))
        assert "1.000 2 equal: stub · batch 1, stub · batch 2" in found
        assert "next" not in found

    def test_one_that_is_measured_alone_has_no_next(self, root: Path, db: Path, target: Path) -> None:
        found = self.table(root, db, target, (30.0, None))
        assert "1.000 no intervalstub · batch 1no other measured" in found

    def test_speed_is_no_merit_where_requests_arrive_by_themselves(self, root: Path, db: Path, target: Path) -> None:
        found = self.table(root, db, target, (30.0, 45.0), arrivals={"process": "fixed", "rate_per_s": 5})
        assert "- set by the arrivals, 5" in found
        assert "next: 50 % more" in found
        assert "Arrivals, 5.0 requests/s, set the output tokens/s" in made(db, target).text

    def test_simulated_gpus_are_not_held_against_real_ones(self, root: Path, db: Path, target: Path) -> None:
        for number, (energy_j, simulated) in enumerate(
            ((30.0, False), (45.0, False), (1.0, True), (2.0, True)), start=1
        ):
            config = ExperimentConfig(backend="stub", batch_size=number, workload=Workload())
            where = {"simulated": simulated}
            save(
                root, make_result(number, energy_j=energy_j, config=config, prompts_sha256="5c" * 32, environment=where)
            )
        ingested(root, db)
        page = made(db, target, "--all")
        found = " ".join(
            page.text.partition("Shortest TTFT mean (ms)")[2].partition("Figures by configuration")[0].split()
        )
        assert (
            found.count("next: 50 % more") == found.count("next: 100 % more") == found.count("Test CPU simulated2") == 1
        )
        front = {row["batch"]: row["speed_front"] for row in page.table("campaigns")}
        assert front[1], "none that is real takes less"


def test_a_list_of_works_that_is_cut_says_so(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(measured, 5) as connection:
        data = read_report(connection, measured, [], include_all=False, made_at=_NOW)
    note = b"These are 2 of 3 kinds of work"
    assert note not in pages.page(data)
    monkeypatch.setattr(pages, "_MOST_CHOICES", 2)
    assert note in pages.page(replace(data, works=[*data.works, data.works[0]]))


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    found = Page(report)
    policy = next(one["content"] for tag, one in found.elements if one.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert [one for _, one in found.elements if (one.get("src") or one.get("href") or "#")[:4] == "http"] == []


def test_tables_have_captions_and_headings(report: Path) -> None:
    elements = Page(report).elements
    tags = [tag for tag, _ in elements]
    assert tags.count("table") == tags.count("caption") > 4
    assert [one for tag, one in elements if tag == "th" and "scope" not in one] == []


def test_the_largest_page_is_below_six_megabytes_and_says_what_is_missing(measured: Path) -> None:
    """As many campaigns and cycles as a page takes, with names as long as they are shown."""
    data = read(measured)
    campaigns = [_long_named(data.campaigns[at % len(data.campaigns)], at) for at in range(MOST_CAMPAIGNS)]
    cycles = [
        data.cycles[at % len(data.cycles)] | {"c": at % MOST_CAMPAIGNS, "run": f"{at:0200}"}
        for at in range(MOST_CYCLES)
    ]
    many = Listing([{"directory": '"' * 400, "reason": "<" * 400}] * MOST_ROWS, 10**6)
    troubles = replace(data.troubles, quarantine=many)
    large = replace(data, campaigns=campaigns, cycles=cycles, troubles=troubles)
    content = pages.page(large)
    assert len(content) < _MOST_BYTES
    assert b"so that this page stays below 6 MB" in content


def _long_named(row: Row, at: int) -> Row:
    names = {name: f"{at:06}{name}" + "é" * 180 for name in ("study", "experiment", "model", "gpu", "hardware")}
    return row | names | {"c": at, "id": f"{at:016x}", "label": f"{at:06}" + "é" * 90}


def test_what_is_not_finite_is_not_measured() -> None:
    packed = pages.columns([{"a": float("nan"), "b": "x"}, {"a": float("inf"), "b": None}, {"a": 1 / 3, "b": "x"}])
    assert packed == {"a": [None, None, 0.333333], "b": {"names": ["x"], "codes": [0, -1, 0]}}
    json.dumps(packed, allow_nan=False)


def _made(root: Path) -> Path:
    root.mkdir()
    return root
