"""A query sees the results and nothing else; its answer comes whole in every format, or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.warehouse.results import make_result, save, warehouse
from warehouse.calls import StillRunning
from warehouse.query import run_query, streamed


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with one result without energy, that no test changes."""
    folder = tmp_path_factory.mktemp("kept")
    save(folder / "results", make_result(study="a\x1b[31mb"))
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("warehouse: ")
    return line


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_csv('/dev/stdin')",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM read_parquet('{file}')",
        "SELECT * FROM '{file}.csv'",
        "SELECT * FROM glob('/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM which_secret('s3://a', 's3')",
        "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{file}.log'}})",
        "SELECT * FROM query('COPY runs TO ''{file}.out''')",
        "COPY runs TO '{file}.out'",
        "COPY runs TO '/dev/stdout'",
        # DuckDB lets everybody write where it spills to.
        "COPY runs TO '{db}.tmp/out'",
        "COPY (PIVOT runs ON backend) TO '{db}.tmp/out'",
        "EXPLAIN ANALYZE COPY runs TO '{db}.tmp/out'",
        "EXPLAIN /* */ ANALYZE COPY runs TO '{db}.tmp/out'",
        "WITH a AS (/* */cOpY runs TO '{db}.tmp/out') SELECT 1",
        "EXPORT DATABASE '{file}.folder'",
        "IMPORT DATABASE '{file}.folder'",
        "ATTACH '{file}.duckdb' AS other (READ_ONLY)",
        "INSTALL httpfs",
        "INSTALL x FROM 'http://127.0.0.1:1'",
        "LOAD httpfs",
        "LOAD '{file}'",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET temp_directory = '{file}.folder'",
        "RESET lock_configuration",
        "PRAGMA enable_profiling = 'json'",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "USE memory",
        "CHECKPOINT",
        "VACUUM",
        "CREATE TABLE t (x INTEGER)",
        "CREATE TEMP TABLE t (x INTEGER)",
        "CREATE SECRET s (TYPE s3)",
        "CREATE MACRO f(x) AS x",
        "INSERT INTO quarantine VALUES ('a', 'b', now())",
        "UPDATE experiments SET study = 'mine'",
        "WITH gone AS (DELETE FROM experiments RETURNING *) SELECT * FROM gone",
        "DELETE FROM experiments",
        "DROP TABLE experiments",
        "UPDATE EXTENSIONS",  # which DuckDB's Python does not know
        "EXPLAIN DELETE FROM experiments",
        "BEGIN",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY runs TO '{file}.out'",
    ],
)
def test_hostile_sql_is_refused_in_one_line(
    query: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    for name in ("file", "file.csv"):
        (tmp_path / name).write_text("hidden\nwords\n")
    duckdb.connect(f"{file}.duckdb").close()
    before = {path: path.stat().st_mtime_ns for folder in (tmp_path, kept.parent) for path in folder.rglob("*")}
    assert warehouse("sql", query.format(file=file, db=kept), db=kept) == 2
    line = the_line(capsys)
    assert "hidden" not in line
    assert "words" not in line
    assert {path: path.stat().st_mtime_ns for folder in (tmp_path, kept.parent) for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("query", "code", "advice"),
    [
        (" ", 2, "Give one"),
        ("selec 1", 2, "Correct the query."),
        ("FROM nope", 2, "`warehouse schema` shows tables"),
        ("SELECT nope FROM runs", 2, "`warehouse schema` shows tables"),
        ("SELECT ?", 2, "Correct the query."),
        (f"SELECT {'+'.join('1' * 5000)}", 2, "limit of 1000 exceeded. Nest the query less deeply."),
        ("SELECT study::INTEGER FROM runs", 1, "TRY_CAST"),
        ("SELECT error('as asked')", 1, "as asked. Correct the query."),
    ],
)
def test_a_mistake_says_what_to_do_and_whether_the_query_ran(
    query: str, code: int, advice: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warehouse("sql", query, db=kept) == code
    line = the_line(capsys)
    assert advice in line
    assert "SET " not in line  # nobody can change a setting here


@pytest.mark.parametrize(
    "query",
    [
        "FROM runs",
        "/* why? */ SELECT 1;",
        "WITH a AS (SELECT 1) TABLE a",
        "VALUES (1)",
        "PIVOT runs ON backend",
        "DESCRIBE runs",
        "SHOW TABLES",
        "SUMMARIZE runs",
        "EXPLAIN SELECT * FROM runs",
        'EXPLAIN ANALYZE SELECT \'COPY\', "copy" FROM (SELECT 1 AS "copy")',
    ],
)
@pytest.mark.parametrize("style", ["table", "csv", "parquet"])
def test_whatever_asks_is_answered(
    query: str, style: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output: list[str | Path] = ["-o", tmp_path / "answer"] if style == "parquet" else []
    assert warehouse("sql", query, "--format", style, *output, db=kept) == 0
    assert capsys.readouterr().out or pq.read_table(tmp_path / "answer").num_rows


@pytest.mark.parametrize("style", ["table", "csv", "json", "parquet"])
def test_a_runaway_query_is_stopped_and_leaves_no_file(
    style: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output: list[str | Path] = [] if style == "table" else ["-o", tmp_path / "answer"]
    query = "SELECT count(*) FROM range(1000000000000)"
    assert warehouse("sql", query, "--format", style, *output, "--time-limit", "0.2", db=kept) == 1
    assert "--time-limit" in the_line(capsys)
    assert list(tmp_path.iterdir()) == []


ONE_LONG_CALL = "SELECT levenshtein(repeat('a', 1000000 + range::INTEGER), repeat('b', 1000000)) FROM range(1)"
"""Takes an hour, and DuckDB looks for an interruption before and after only."""
LATE_LONG_CALL = """
SELECT CASE WHEN range < 30000 THEN range ELSE levenshtein(repeat('a', 900000 + range::INTEGER), repeat('b', 900000))
END AS n FROM range(30001)
"""


def started(query: str, *arguments: str | Path, db: Path, scratch: Path) -> subprocess.Popen[str]:
    scratch.mkdir()
    command = [sys.executable, "-m", "warehouse.cli", "sql", query, *map(str, arguments), "--db", str(db)]
    environment = os.environ | {"TMPDIR": str(scratch)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("query", [ONE_LONG_CALL, LATE_LONG_CALL], ids=["at once", "half-way"])
@pytest.mark.parametrize("style", ["csv", "parquet"])
def test_the_time_limit_holds_within_a_single_call_too(query: str, style: str, kept: Path, tmp_path: Path) -> None:
    target = tmp_path / f"answer.{style}"
    target.write_text("old")
    scratch = tmp_path / "scratch"
    with started(query, "-o", target, "--time-limit", "1", db=kept, scratch=scratch) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    (line,) = errors.splitlines()
    assert "longer than 1 s and was stopped" in line
    assert target.read_text() == "old"
    assert sorted(tmp_path.rglob("*")) == [target, scratch]
    duckdb.connect(str(kept)).close()  # to write, so that nobody else may have it


@pytest.mark.parametrize("times", [1, 2])
def test_control_c_ends_a_single_call_too(times: int, kept: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with started(ONE_LONG_CALL, "--time-limit", "600", db=kept, scratch=scratch) as process:
        while not list(scratch.glob(".joulehouse-scratch-*")):
            time.sleep(0.01)
        time.sleep(1)  # until it is at it
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert [line for line in errors.splitlines() if line] == ["warehouse: interrupted."]
    assert list(scratch.iterdir()) == []


def test_a_caller_of_a_query_that_cannot_be_stopped_gets_an_error(kept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "w.duckdb"  # it stays open
    copy.write_bytes(kept.read_bytes())
    query = ONE_LONG_CALL.replace("1000000", "70000")  # some seconds
    before = set(threading.enumerate())
    with pytest.raises(StillRunning, match="was stopped"):
        run_query(copy, query, time_limit_s=0.1)
    for thread in set(threading.enumerate()) - before:
        thread.join()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT len(range(1000000000))",  # 8 GB in one value, which DuckDB's own limit does not see
        "SELECT string_agg(repeat('x', 1000) || range) FROM range(100000000)",
    ],
)
def test_a_query_that_eats_memory_is_stopped(query: str, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("sql", query, db=kept) == 1
    assert "too much memory" in the_line(capsys)
    assert warehouse("sql", "SELECT 1", db=kept) == 0


def test_what_fails_half_way_leaves_the_old_file(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = "SELECT (range::VARCHAR || if(range = 45000, 'x', ''))::INTEGER AS n FROM range(50000)"
    for style in ("csv", "json", "parquet"):
        target = tmp_path / f"answer.{style}"
        target.write_text("old")
        assert warehouse("sql", late, "-o", target, db=kept) == 1
        assert "45000x" in the_line(capsys)
        assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3


def test_every_format_has_the_same_values(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = """
        SELECT cycle, total_energy_j AS e, 1 AS x, 2 AS x, start_time, [1.5, NULL, 'inf'::DOUBLE] AS l, true AS t,
            sum(1) OVER () AS big, '1e' AS text
        FROM runs
    """
    for suffix in ("csv", "json", "parquet"):
        assert warehouse("sql", query, "-o", tmp_path / f"a.{suffix}", db=kept) == 0
    header, row = csv.reader((tmp_path / "a.csv").open())
    assert header == ["cycle", "e", "x", "x", "start_time", "l", "t", "big", "text"]
    assert row == ["1", "", "1", "2", "2026-01-02 03:05:05+00:00", "[1.5, null, null]", "true", "1", "1e"]
    (record,) = json.loads((tmp_path / "a.json").read_text())
    assert record == {
        "cycle": 1, "e": None, "x": 1, "x_2": 2, "start_time": "2026-01-02 03:05:05+00:00", "l": [1.5, None, None],
        "t": True, "big": 1, "text": "1e",
    }  # fmt: skip
    (stored,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert stored | {"start_time": "", "l": []} == record | {"start_time": "", "l": []}
    assert stored["start_time"].isoformat() == "2026-01-02T03:05:05+00:00"
    assert warehouse("sql", query, "--format", "json", db=kept) == 0
    assert capsys.readouterr().out == (tmp_path / "a.json").read_text()


def test_an_answer_without_rows_is_an_empty_answer(kept: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    answers = {}
    for style in ("csv", "json", "parquet"):
        assert warehouse("sql", "SELECT study FROM runs WHERE false", "--format", style, db=kept) == 0
        answers[style] = capsysbinary.readouterr().out
    assert answers["csv"] == b"study\n"
    assert json.loads(answers["json"]) == []
    table = pq.read_table(io.BytesIO(answers["parquet"]))
    assert (table.column_names, table.num_rows) == (["study"], 0)


def test_a_table_shows_no_control_characters_and_says_where_it_stops(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warehouse("sql", "SELECT study FROM runs", db=kept) == 0
    assert "a\\x1b[31mb" in capsys.readouterr().out
    assert warehouse("sql", "SELECT range FROM range(20000)", db=kept) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "the first 10,000 rows; --format csv, json or parquet gives all"


def test_a_table_cuts_what_is_endless_and_says_so(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = f"SELECT repeat('x', 100000000) || 'end' AS a, 1 AS {'n' * 5000}"
    assert warehouse("sql", query, db=kept) == 0
    shown = capsys.readouterr().out
    assert len(shown) < 5000
    assert "".join(shown.split()).count("x") < 1000
    assert shown.splitlines()[-1] == "1 row, 1 value cut in the middle; --format csv, json or parquet gives all"
    query = "SELECT repeat('x', 100000) AS a"
    assert warehouse("sql", query, "--format", "csv", db=kept) == 0
    assert capsys.readouterr().out == f"a\n{'x' * 100000}\n"


def test_a_table_shows_all_of_a_plan(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("sql", "EXPLAIN FROM campaigns", db=kept) == 0
    shown = capsys.readouterr().out
    assert len(shown) > 5000
    assert shown.splitlines()[-1] == "1 row"


@pytest.mark.parametrize("style", ["table", "csv", "json", "parquet"])
def test_a_reader_that_goes_is_no_mistake(style: str, kept: Path) -> None:
    query = "SELECT range FROM range(9000)" if style == "table" else "SELECT range FROM range(10000000)"
    command = [sys.executable, "-m", "warehouse.cli", "sql", query, "--format", style, "--db", str(kept)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_a_short_answer_lets_go_of_the_database_before_it_is_shown(kept: Path) -> None:
    with streamed(kept, "SELECT range FROM range(20001)") as rows:
        sizes = []
        for batch in rows.batches:
            sizes.append(len(batch))
            if len(batch) == 1:
                duckdb.connect(str(kept)).close()  # to write, so that nobody else may have it
        assert sizes == [10000, 10000, 1]


def test_the_query_can_come_from_a_file_or_the_standard_input(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT 'ü' AS name\n-- that is all\n".encode()
    (tmp_path / "query.sql").write_bytes(query)
    assert warehouse("sql", "--file", tmp_path / "query.sql", "--format", "csv", db=kept) == 0
    assert capsys.readouterr().out == "name\nü\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(query)))
    assert warehouse("sql", "-", "--format", "csv", db=kept) == 0
    assert capsys.readouterr().out == "name\nü\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["SELECT 1", "--file", "{tmp}/latin.sql"],
        ["--file", "{tmp}/missing.sql"],
        ["--file", "{tmp}"],
        ["--file", "{tmp}/latin.sql"],
        ["SELECT '\udcff'"],
        ["SELECT 1", "--time-limit", "nan"],
        ["SELECT 1", "--wait", "nan"],
        ["SELECT 1", "-o", ""],
        ["SELECT 1", "-o", "{tmp}/answer"],
        ["SELECT 1", "-o", "{tmp}/answer", "--format", "table"],
        ["SELECT 1", "-o", "{tmp}/missing/answer.csv"],
        ["SELECT 1", "-o", "{tmp}", "--format", "csv"],
        ["SELECT 1", "-o", "{db}", "--format", "csv"],
    ],
)
def test_usage_mistakes_are_one_line(
    arguments: list[str], kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin.sql").write_bytes("SELECT 'ü'".encode("latin-1"))
    before = kept.stat()
    assert warehouse("sql", *(one.format(tmp=tmp_path, db=kept) for one in arguments), db=kept) == 2
    the_line(capsys)
    assert kept.stat().st_ino == before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["latin.sql"]


def test_what_parquet_cannot_hold_is_one_line(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("sql", "SELECT INTERVAL 1 MONTH AS i", "-o", tmp_path / "a.parquet", db=kept) == 1
    assert "Cast it" in the_line(capsys)
    assert list(tmp_path.iterdir()) == []
