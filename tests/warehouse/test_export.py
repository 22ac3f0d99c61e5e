"""What is exported is what the warehouse holds, for programs that are not ours."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds
import pytest

from images.contract.parts import EnvironmentSnapshot, ExtendedEfficiencyMetrics, LatencyStatistics
from images.contract.result import ExperimentResult
from tests.warehouse.results import make_result, rows, samples_table, save, save_failure, warehouse
from warehouse.errors import WarehouseError
from warehouse.export import (
    COLUMNS,
    export_aggregated_to_csv,
    export_campaigns_to_csv,
    export_to_csv,
    export_to_json,
    new_file,
)
from warehouse.lake import MANIFEST, TABLES

FORMULA = "=cmd|' /C calc'!A0"
STUDIES = (None, "a/b=../ü %", FORMULA)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies of two cycles, an invalid and a simulated run, a failure."""
    folder = tmp_path_factory.mktemp("kept")
    for number in range(1, 7):
        result = make_result(number, seconds=2.0 + number / 10, energy_j=10.0 + number, study=STUDIES[number % 3])
        save(folder / "results", result, samples=samples_table([(i / 10, 100.0) for i in range(20)]))
    warned: dict[str, Any] = {
        "measurement_valid": False,
        "invalid_reasons": ["x"],
        "measurement_warnings": ["hot: it is. Cool it."],
    }
    save(folder / "results", make_result(7, study="invalid", **warned))
    save(folder / "results", make_result(8, environment={"simulated": True}))
    save_failure(folder / "results", study="a/b=../ü %")
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("warehouse: ")
    return line


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read_lake(lake: Path, query: str) -> list[tuple[Any, ...]]:
    """`query` with {table} for each table's files, by DuckDB as a stranger."""
    options = "hive_partitioning = true, hive_types_autocast = false"
    tables = {table: f"(FROM read_parquet('{lake / table}/**/*.parquet', {options})) AS {table}" for table in TABLES}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(query.format(**tables)).fetchall()


class TestOfResults:
    def test_csv_has_a_row_per_result_and_keeps_not_measured_apart(self, tmp_path: Path) -> None:
        results = [make_result(1, energy_j=12.0, study="s"), make_result(2)]
        export_aggregated_to_csv(results, tmp_path / "a.csv")
        first, second = read_csv(tmp_path / "a.csv")
        assert first["experiment_id"] == results[0].experiment_id
        assert first["start_time"] == "2026-01-02T03:05:05.000000Z"
        assert (first["total_energy_j"], first["joules_per_token"]) == ("12.0", str(12 / 90))
        assert float(first["tokens_per_joule"]) == 90 / 12
        assert (first["ttft_mean_ms"], first["ttft_samples"], first["batch_size"]) == ("20.0", "3", "4")
        assert (second["study"], second["total_energy_j"], second["tokens_per_joule"]) == ("", "", "")
        assert second["invalid_reasons"] == "[]"

    def test_csv_columns_are_the_same_for_every_result(self, tmp_path: Path) -> None:
        export_to_csv([], tmp_path / "empty.csv")
        bare = make_result().model_copy(update={"latency_stats": None, "environment_snapshot": None})
        export_to_csv([bare], tmp_path / "bare.csv")
        (header,) = csv.reader((tmp_path / "empty.csv").open())
        assert list(read_csv(tmp_path / "bare.csv")[0]) == header

    def test_every_csv_column_is_a_field_of_the_contract(self) -> None:
        """A column whose field is called otherwise would be empty without a word."""
        models = (ExperimentResult, LatencyStatistics, ExtendedEfficiencyMetrics, EnvironmentSnapshot)
        known = {name for model in models for name in model.model_fields}
        derived = {
            "model",
            "dtype",
            "batch_size",
            "num_processes",
            "tokens_per_joule",
            "joules_per_token",
            "mean_power_w",
        }
        assert set(COLUMNS) - known == derived

    def test_a_spreadsheet_takes_no_text_for_a_formula(self, tmp_path: Path) -> None:
        export_to_csv([make_result(study=FORMULA, energy_adjusted_j=-1.5)], tmp_path / "a.csv")
        (row,) = read_csv(tmp_path / "a.csv")
        assert row["study"] == f"'{FORMULA}"
        assert row["energy_adjusted_j"] == "-1.5"
        names = ["@a", "b"]
        export_campaigns_to_csv(names, [["+1", -1.0], ["\t=1", None], ["x", float("nan")]], tmp_path / "c.csv")
        assert (tmp_path / "c.csv").read_text() == "'@a,b\n'+1,-1.0\n'\t=1,\nx,\n"

    def test_json_is_the_whole_result(self, tmp_path: Path) -> None:
        results = [make_result(1, energy_j=12.0, study=FORMULA), make_result(2)]
        export_to_json(results, tmp_path / "a.json")
        documents = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert [ExperimentResult.model_validate(document) for document in documents] == results
        assert documents[1]["total_energy_j"] is None

    @pytest.mark.parametrize("where", ["missing/a.csv", "file/a.csv", "."])
    def test_what_cannot_be_written_is_one_clear_line(self, where: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for export in (export_to_csv, export_to_json):
            with pytest.raises(WarehouseError, match="cannot be written") as caught:
                export([make_result()], tmp_path / where)
            assert caught.value.exit_code == 2
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_name_that_no_file_can_have_is_refused_before_the_work(self, tmp_path: Path) -> None:
        target = tmp_path / ("a" * 300 + ".csv")
        said = pytest.raises(WarehouseError, match=r"cannot be written .*Give a shorter name\.$")
        with said as caught, new_file(target):
            pytest.fail("it was opened")
        assert caught.value.exit_code == 2
        assert list(tmp_path.iterdir()) == []

    def test_a_failing_export_leaves_the_old_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("old")

        def broken() -> Any:
            yield make_result()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_to_csv(broken(), tmp_path / "a.csv")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "old")]


class TestOfATable:
    def test_csv_holds_the_runs_that_count(
        self, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert warehouse("export", "-o", tmp_path / "runs.csv", db=kept) == 0
        assert "6 runs (2 runs left out" in capsys.readouterr().out
        found = read_csv(tmp_path / "runs.csv")
        assert [row["cycle"] for row in found] == ["1", "2", "3", "4", "5", "6"]
        assert [row["study"] for row in found[:3]] == ["a/b=../ü %", f"'{FORMULA}", ""]
        assert found[0]["start_time"] == "2026-01-02T03:05:05.000000Z"
        assert found[0]["energy_per_device_j"] == ""
        assert json.loads(found[0]["effective_config"])["batch_size"] == 4
        assert "experiment_key" not in found[0]
        assert warehouse("export", "-o", tmp_path / "runs.csv", "--all", db=kept) == 0
        assert len(read_csv(tmp_path / "runs.csv")) == 8

    @pytest.mark.parametrize("table", TABLES)
    def test_json_has_the_same_rows_as_csv(self, table: str, kept: Path, tmp_path: Path) -> None:
        for suffix in ("csv", "json"):
            assert warehouse("export", "-o", tmp_path / f"a.{suffix}", "--table", table, "--all", db=kept) == 0
        documents = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        found = read_csv(tmp_path / "a.csv")
        assert len(found) == len(documents) > 0
        for row, document in zip(found, documents, strict=True):
            assert list(row) == list(document)
            assert [name for name, text in row.items() if text == ""] == [
                name for name, value in document.items() if value in (None, "")
            ]

    def test_only_one_study(self, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = tmp_path / "a.json"
        assert warehouse("export", "-o", target, "--table", "requests", "--study", FORMULA, db=kept) == 0
        assert [row["study"] for row in json.loads(target.read_text())] == [FORMULA] * 6
        capsys.readouterr()
        assert warehouse("export", "-o", target, "--study", "nope", db=kept) == 2
        assert "a/b=../ü %" in the_line(capsys)


class TestOfALake:
    def test_strangers_read_the_same_numbers(self, kept: Path, tmp_path: Path) -> None:
        lake = tmp_path / "lake"
        assert warehouse("export", "-o", lake, db=kept) == 0
        counted = (
            "SELECT study, backend, count(*), sum(total_energy_j), min(start_time) FROM {} GROUP BY ALL ORDER BY ALL"
        )
        assert read_lake(lake, counted.format("{runs}")) == rows(
            kept, f"SET TimeZone = 'UTC'; {counted.format('cycles')}"
        )
        means = read_lake(
            lake,
            """
            SELECT campaign_id, round(avg(runs.total_energy_j), 9), round(any_value(mean), 9), any_value(n_cycles)
            FROM {runs} JOIN {intervals} USING (campaign_id) JOIN {campaigns} USING (campaign_id)
            WHERE metric = 'total_energy_j' GROUP BY campaign_id ORDER BY campaign_id
            """,
        )
        assert len(means) == 3
        assert all(mean == stored and n == 2 for _, mean, stored, n in means)
        assert means == rows(
            kept,
            """
            SELECT campaign_id, round(mean, 9), round(mean, 9), n_samples FROM intervals JOIN campaign_groups
            USING (campaign_id) WHERE metric = 'total_energy_j' AND NOT is_simulated AND n_samples > 0 ORDER BY ALL
            """,
        )
        for table, of_the_database in (("requests", 18), ("samples", 120), ("process_results", 6), ("failures", 1)):
            found = ds.dataset(lake / table, partitioning="hive").to_table()
            assert found.num_rows == of_the_database
            assert {"experiment_id", "study", "backend"} <= set(found.column_names)
        assert (lake / "runs" / "study=a%2Fb%3D..%2Fü%20%25").is_dir()  # as Hive and Spark escape it
        studies = ds.dataset(lake / "samples", partitioning="hive").to_table(columns=["study"])["study"].to_pylist()
        assert {study: studies.count(study) for study in studies} == dict.fromkeys(STUDIES, 40)

    @pytest.mark.parametrize("study", ["x" * 300, "ü" * 300, "😀" * 249], ids=["ascii", "two bytes", "four bytes"])
    def test_a_study_whose_name_is_too_long_for_a_folder_gets_a_shorter_one(
        self, study: str, root: Path, db: Path, tmp_path: Path
    ) -> None:
        for number, name in enumerate((study, f"{study}y", "short"), start=1):
            save(root, make_result(number, study=name))
        assert warehouse("ingest", root, db=db) == 0
        assert warehouse("export", "-o", tmp_path / "lake", db=db) == 0
        assert warehouse("export", "-o", tmp_path / "one", "--study", study, db=db) == 0
        whole = json.loads((tmp_path / "lake" / MANIFEST).read_text())["shortened_names"]
        found = {name for (name,) in read_lake(tmp_path / "lake", "SELECT study FROM {runs}")}
        assert {whole.get(name, name) for name in found} == {study, f"{study}y", "short"}
        assert all(name.startswith(study[:16]) for name in whole)
        assert read_lake(tmp_path / "lake", "SELECT count(DISTINCT study) FROM {intervals}") == [(3,)]

    def test_all_types_are_known_to_spark_and_trino(self, kept: Path, tmp_path: Path) -> None:
        assert warehouse("export", "-o", tmp_path / "lake", "--all", db=kept) == 0
        known = {"int32", "int64", "double", "bool", "string", "timestamp[us, tz=UTC]"}
        known |= {f"list<element: {kind}>" for kind in ("double", "int32", "string")}
        for table in TABLES:
            schema = ds.dataset(tmp_path / "lake" / table, partitioning="hive").schema
            assert {str(kind) for kind in schema.types} <= known, table

    def test_a_table_without_rows_has_no_folder(
        self, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--table", "warnings", "--table", "runs")
        assert warehouse("export", "-o", tmp_path / "lake", *arguments, db=kept) == 0
        assert "0 warnings, 6 runs" in capsys.readouterr().out
        assert sorted(path.name for path in (tmp_path / "lake").iterdir()) == [MANIFEST, "runs"]
        assert json.loads((tmp_path / "lake" / MANIFEST).read_text())["rows"] == {"warnings": 0, "runs": 6}

    def test_only_an_earlier_export_is_replaced_and_only_when_asked(
        self, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lake, other = tmp_path / "lake", tmp_path / "other"
        lake.mkdir()
        other.mkdir()
        (other / "mine").write_text("mine")
        assert warehouse("export", "-o", lake, "--table", "runs", db=kept) == 0
        capsys.readouterr()
        assert warehouse("export", "-o", lake, db=kept) == 2
        assert "--overwrite" in the_line(capsys)
        assert warehouse("export", "-o", lake, "--table", "samples", "--overwrite", db=kept) == 0
        assert sorted(path.name for path in lake.iterdir()) == [MANIFEST, "samples"]
        capsys.readouterr()
        for target in (other, kept.parent, other / "mine" / "below", other / "mine"):
            assert warehouse("export", "-o", target, "--format", "parquet", "--overwrite", db=kept) == 2
            the_line(capsys)
        assert [path.name for path in other.iterdir()] == ["mine"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "other"]

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
    def test_interrupted_it_leaves_nothing_half(self, sent: signal.Signals, kept: Path, tmp_path: Path) -> None:
        lake = tmp_path / "lake"
        command = [sys.executable, "-m", "warehouse.cli", "export", "-o", str(lake), "--db", str(kept)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not list(tmp_path.glob(".*/export/runs")):
                time.sleep(0.001)
            os.kill(process.pid, sent)
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
        assert not lake.exists() or (lake / MANIFEST).exists()
        if sent == signal.SIGINT:
            assert [path.name for path in tmp_path.iterdir() if path != lake] == []
        assert warehouse("export", "-o", lake, "--overwrite", db=kept) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "{db}", "--format", "csv"],
        ["-o", "{db}", "--format", "parquet"],
        ["-o", "{tmp}/no/a.csv"],
        ["-o", "{tmp}/a.txt"],  # file or folder?
        ["-o", ""],
    ],
)
def test_mistakes_are_one_line_and_harm_nothing(
    arguments: list[str], kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept.stat()
    assert warehouse("export", *(one.format(db=kept, tmp=tmp_path) for one in arguments), db=kept) == 2
    the_line(capsys)
    assert list(tmp_path.iterdir()) == []
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_a_warehouse_there_is_nothing_to_export(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warehouse("export", "-o", tmp_path / "lake", db=db) == 2
    assert "warehouse ingest DIR" in the_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_one_is_no_plural(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("export", "-o", tmp_path / "a.json", "--table", "failures", db=kept) == 0
    assert ": 1 failure (" in capsys.readouterr().out


def test_thousands_are_set_apart(root: Path, db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(root, make_result(n_requests=1234), n_requests=1234)
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("export", "-o", tmp_path / "r.csv", "--table", "requests", db=db) == 0
    assert capsys.readouterr().out.endswith("r.csv: 1,234 requests\n")


def test_many_rows_of_an_endless_name_fit_into_parquet_and_a_csv_of_them_says_what_to_do(
    root: Path, db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = "x" * 4_000_000
    save(root, make_result(1, study=endless, measurement_warnings=["hot: it is."] * 2000))
    assert warehouse("ingest", root, db=db) == 0
    lake = tmp_path / "lake"
    assert warehouse("export", "-o", lake, "--table", "warnings", db=db) == 0
    ((study, n_rows),) = read_lake(lake, "SELECT study, count(*) FROM {warnings} GROUP BY study")
    assert n_rows == 2000
    assert json.loads((lake / MANIFEST).read_text())["shortened_names"] == {study: endless}
    capsys.readouterr()
    assert warehouse("export", "-o", tmp_path / "a.csv", "--table", "warnings", db=db) == 1
    assert "Export less at once" in the_line(capsys)
    assert not (tmp_path / "a.csv").exists()


def test_a_view_in_somebody_elses_database_reads_no_file(kept: Path, tmp_path: Path) -> None:
    """Its views run when it is exported; all that they may touch is the folder that is being written."""
    copy, hidden = tmp_path / "w.duckdb", tmp_path / "hidden.csv"
    copy.write_bytes(kept.read_bytes())
    hidden.write_text("x\nhidden\n")
    with duckdb.connect(str(copy)) as connection:
        connection.execute(
            f"CREATE OR REPLACE VIEW campaigns AS SELECT *, (SELECT x FROM '{hidden}') AS x FROM campaign_groups"
        )
    assert warehouse("export", "-o", tmp_path / "a.csv", "--table", "campaigns", db=copy) == 1
    assert not (tmp_path / "a.csv").exists()
