"""What the commands write never takes the place of what is no file of theirs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warehouse.results import make_result, save, warehouse

WRITERS = {
    "report": ("report", "-o"),
    "sql": ("sql", "SELECT 1", "--format", "csv", "-o"),
    "export": ("export", "--format", "csv", "-o"),
    "campaign": ("campaign", "--export-csv"),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    save(folder / "results", make_result())
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


@pytest.mark.parametrize("writer", WRITERS)
def test_another_database_is_never_replaced(
    writer: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, link = tmp_path / "other.duckdb", tmp_path / "link.csv"
    other.write_bytes(kept.read_bytes())
    link.symlink_to(other)
    capsys.readouterr()
    for target in (other, link):
        assert warehouse(*WRITERS[writer], target, db=kept) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"warehouse: {target} is a DuckDB database, which would be lost. Give another file."
    assert other.read_bytes() == kept.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"other.duckdb", "link.csv"}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_pipe_without_a_name_is_no_file(writer: str, kept: Path) -> None:
    program = "import sys; from warehouse.cli import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", program, *WRITERS[writer], "/dev/stdout", "--db", str(kept)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (2, "warehouse: /dev/stdout is no file. Give the name of one.\n")


def test_an_export_leaves_a_pipe_in_its_place(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever may rename over a device would otherwise lose it, as root does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert warehouse("export", "--format", "csv", "-o", pipe, db=kept) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pipe is no file" in line
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_name_that_is_too_long_is_told_so(
    writer: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warehouse(*WRITERS[writer], tmp_path / f"{'a' * 300}.csv", db=kept) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Give a shorter name.")
    assert list(tmp_path.iterdir()) == []
