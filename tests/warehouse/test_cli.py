"""The commands: one line for every mistake, the right exit code, and a database that gives nothing else away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.results import make_result, save, warehouse
from warehouse.cli import COMMANDS, cli, main


@pytest.fixture
def db(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A warehouse with one result without energy."""
    save(tmp_path / "results", make_result())
    path = tmp_path / "w.duckdb"
    assert warehouse("ingest", tmp_path / "results", db=path) == 0
    capsys.readouterr()
    return path


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("warehouse: ")
    return line


def test_what_is_not_a_warehouse_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "results", make_result())
    text, sqlite = tmp_path / "text", tmp_path / "sqlite"
    text.write_text("hello")
    sqlite.write_bytes(b"SQLite format 3\0" + bytes(100))
    with duckdb.connect(str(tmp_path / "foreign")) as connection:
        connection.execute("CREATE TABLE mine (x INTEGER)")
    for name, reason in (("text", "not a DuckDB"), ("sqlite", "not a DuckDB"), ("foreign", "not a warehouse")):
        for command in (["sql", "SELECT 1"], ["ingest", str(tmp_path / "results")], ["campaign"]):
            assert warehouse(*command, db=tmp_path / name) == 2
            assert reason in the_line(capsys)


def test_a_missing_database_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("sql", "SELECT 1", db=tmp_path / "none.duckdb") == 2
    assert "warehouse ingest DIR" in the_line(capsys)
    assert not (tmp_path / "none.duckdb").exists()


def test_a_database_that_was_made_but_never_filled_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an ingest leaves it that is killed before its first commit."""
    path = tmp_path / "w.duckdb"
    duckdb.connect(str(path)).close()
    assert warehouse("campaign", db=path) == 0
    save(tmp_path / "results", make_result())
    assert warehouse("ingest", tmp_path / "results", db=path) == 0


HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.readline()"


def test_a_locked_database_names_who_holds_it(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(db)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for command in (["ingest", str(tmp_path / "results")], ["campaign"], ["sql", "SELECT 1"]):
            assert warehouse(*command, "--wait", "0.2", db=db) == 1
            assert f"process {holder.pid} " in the_line(capsys)
        holder.communicate("go\n")
    assert warehouse("campaign", db=db) == 0


def test_ingest_waits_for_the_lock(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    brief = HOLD.replace("sys.stdin.readline()", "import time; time.sleep(0.6)")
    with subprocess.Popen([sys.executable, "-c", brief, str(db)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert warehouse("ingest", tmp_path / "results", "--wait", "20", db=db) == 0
    assert "1 unchanged" in capsys.readouterr().out


def test_what_others_wrote_reaches_no_terminal_as_it_is(
    root: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of studies, models and folders, in tables, reports and DuckDB's own errors."""
    hostile = "\x1b]0;mine\x07\u202e"
    save(root, make_result(2, study=hostile, measurement_warnings=[f"{hostile}: x"]))
    (root / hostile).mkdir()
    (root / hostile / "result.json").write_text("{")
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("campaign", db=db) == 0
    assert warehouse("campaign", "--study", f"{hostile}no", db=db) == 2
    assert warehouse("export", "--study", "no", "-o", db.with_name("lake"), db=db) == 2
    assert warehouse("sql", f"SELECT error('{hostile}')", db=db) == 1
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "\\x1b]0;mine" in text
        assert all(one.isprintable() for one in text.replace("\n", ""))


def test_a_name_without_end_is_clipped(root: Path, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(root, make_result(2, study="a" * 100_000 + "z"))
    assert warehouse("ingest", root, db=db) == 0
    capsys.readouterr()
    assert warehouse("campaign", db=db) == 0
    shown = capsys.readouterr().out
    assert "aaa ... aaa" in " ".join(shown.split())
    assert len(shown) < 3000
    assert warehouse("campaign", "--study", "b", db=db) == 2
    line = the_line(capsys)
    assert "there is no study 'b'" in line
    assert len(line) < 3000


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest"],
        ["ingest", "nowhere"],
        ["sql"],
        ["sql", "q", "--format", "xml"],
        ["sql", "q", "--db", ""],
        ["campaign", "--wait", "nan"],
        ["compare", "a", "b", "--confidence", "nan"],
        ["nonsense"],
        ["-x"],
    ],
)
def test_usage_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    the_line(capsys)


def test_environment_names_the_database(
    db: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEHOUSE_DB", str(db))
    assert main(["sql", "SELECT count(*) AS n FROM experiments", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "n\n1\n"


def test_every_command_has_the_help_that_the_list_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert (command.help or "").splitlines()[0] == summary
        assert summary in listed


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, warehouse.cli; print(sorted({'duckdb', 'numpy', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_file_whose_writer_was_killed_before_it_wrote_is_no_database_yet(tmp_path: Path) -> None:
    save(tmp_path / "results", make_result())
    (tmp_path / "w.duckdb").touch()
    os.utime(tmp_path / "w.duckdb", (0, 0))
    assert warehouse("sql", "SELECT 1", db=tmp_path / "w.duckdb") == 2
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
