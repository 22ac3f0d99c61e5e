"""Readers and writers wait for each other, and a process that was killed leaves nothing in the way."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.warehouse.results import make_result, save, warehouse
from warehouse.database import reading, writing
from warehouse.query import run_query
from warehouse.scratch import scratch_folder

WRITE = """
import sys
from pathlib import Path
from warehouse.database import writing
with writing(Path(sys.argv[1]), 60) as connection:
    connection.execute("INSERT INTO quarantine VALUES ('d', 'r', now())")
"""
POLL = """
import sys
from pathlib import Path
from warehouse.query import run_query
while True:
    run_query(Path(sys.argv[1]), "SELECT count(*) FROM runs")
    print("read", flush=True)
"""
SCRATCH = """
import sys
from warehouse.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "spilled").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def kept(root: Path, db: Path) -> Path:
    """A warehouse with one result."""
    save(root, make_result())
    assert warehouse("ingest", root, db=db) == 0
    return db


@contextmanager
def waiting_writer(db: Path) -> Iterator[None]:
    """Around it a writer waits, as all those do that find a reader."""
    with db.with_name(f"{db.name}.queue").open("ab") as queue:
        fcntl.flock(queue, fcntl.LOCK_SH)
        yield


def test_a_reader_lets_a_waiting_writer_go_first_and_then_reads_beside_it(kept: Path) -> None:
    with waiting_writer(kept):
        for wait_s in (0.0, 0.2, 2.0):
            assert run_query(kept, "SELECT count(*) FROM runs", wait_s=wait_s).rows == [(1,)]


def test_a_writer_gets_in_between_readers_that_poll(kept: Path) -> None:
    readers = [subprocess.Popen([sys.executable, "-c", POLL, str(kept)], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"read\n"
        subprocess.run([sys.executable, "-c", WRITE, str(kept)], check=True, timeout=90)
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    assert run_query(kept, "SELECT directory FROM quarantine").rows == [("d",)]


def test_where_nothing_can_be_locked_there_is_no_queue(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems; DuckDB's own lock is of another kind."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    kept.with_name(f"{kept.name}.queue").touch()
    monkeypatch.setattr(fcntl, "flock", refused)
    with writing(kept, 0) as connection:
        connection.execute("DELETE FROM warnings")
    with reading(kept, 0) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]


def test_an_error_of_the_writers_own_is_not_taken_for_one_of_the_queue(kept: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(kept, 0):
        raise FileNotFoundError


def test_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [sys.executable, "-c", SCRATCH]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with scratch_folder() as own:
            assert sorted(tmp_path.iterdir()) == sorted([own, folder])
        process.send_signal(signal.SIGKILL)
    assert (folder / "spilled").exists()
    with scratch_folder() as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


def test_a_link_among_the_temporary_files_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    (tmp_path / "mine" / ".made-by-joulehouse").touch()
    (tmp_path / "temporary" / ".joulehouse-scratch-abcdefgh").symlink_to(tmp_path / "mine")
    with scratch_folder():
        pass
    assert (tmp_path / "mine" / "precious").exists()
