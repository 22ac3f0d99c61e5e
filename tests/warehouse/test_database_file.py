"""How a database gets its file: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.results import make_result, rows, save, warehouse
from warehouse.database_file import make


@pytest.mark.parametrize("there", [False, True], ids=["no file", "an empty file"])
def test_a_new_database_is_there_whole_or_not_at_all(db: Path, there: bool) -> None:
    making = "import pathlib, sys; from warehouse.database import prepare; print('ready', flush=True)\n"
    making += "sys.stdin.readline(); prepare(pathlib.Path(sys.argv[1]), 5)"
    if there:
        db.touch()
    makers = [
        subprocess.Popen([sys.executable, "-c", making, str(db)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(b"go\n")
        maker.stdin.flush()
    while not db.exists() or not db.stat().st_size:
        time.sleep(0.001)
    makers[0].kill()
    assert db.read_bytes()[8:12] == b"DUCK"
    assert {maker.wait(timeout=60) for maker in makers[1:]} == {0}
    for maker in makers:
        maker.communicate()
    assert warehouse("sql", "SELECT count(*) FROM experiments", db=db) == 0
    (db.parent / "results").mkdir()
    assert warehouse("ingest", db.parent / "results", db=db) == 0
    assert not list(db.parent.glob(".joulehouse-scratch-*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(tmp_path / "results", make_result())
    return tmp_path / "results"


def test_a_maker_that_comes_late_leaves_what_was_stored_meanwhile(root: Path, db: Path) -> None:
    assert warehouse("ingest", root, db=db) == 0

    make(db)  # it found no file when it began

    assert rows(db, "SELECT count(*) FROM experiments") == [(1,)]


def test_an_empty_file_keeps_its_permissions(root: Path, db: Path) -> None:
    db.touch(0o600)

    assert warehouse("ingest", root, db=db) == 0

    assert stat.S_IMODE(db.stat().st_mode) == 0o600


def test_what_is_no_file_is_refused_and_stays(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = {name: (tmp_path / name).lstat().st_mode for name in ("pipe", "folder", "loop")}
    for name in before:
        for command in (["ingest", str(root)], ["campaign"]):
            assert warehouse(*command, db=tmp_path / name) == 2
            error = capsys.readouterr().err
            assert "Give another file with --db" in error
            assert error.count("\n") == 1
    assert {name: (tmp_path / name).lstat().st_mode for name in before} == before


def test_the_log_of_a_database_that_was_deleted_is_no_hindrance(root: Path, db: Path) -> None:
    left = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute('CREATE TABLE t AS SELECT 1'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", left, str(db)], check=True)
    db.unlink()
    assert db.with_name(f"{db.name}.wal").stat().st_size

    assert warehouse("ingest", root, db=db) == 0

    with duckdb.connect(str(db), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchall() == [(1,)]


def test_a_folder_of_the_users_that_is_called_like_scratch_stays(root: Path, db: Path) -> None:
    for name in ("warehouse-scratch-mine", ".joulehouse-scratch-abcdefgh"):
        (db.parent / name).mkdir()
        (db.parent / name / "precious").touch()

    assert warehouse("ingest", root, db=db) == 0

    assert len(list(db.parent.glob("*/precious"))) == 2
