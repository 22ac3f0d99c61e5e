"""Racing writers lose nothing; a writer killed at any point leaves a whole directory or nothing visible."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

from images.contract import files
from images.contract.result import ExperimentResult
from tests.images.contract import make

ROOT = Path(__file__).parents[3]


def test_eight_racing_writers_lose_and_overwrite_nothing(tmp_path: Path) -> None:
    _writers("race", tmp_path, 8, 25)
    name = make.result().directory_name
    assert {path.name for path in tmp_path.iterdir()} == {name} | {f"{name}_{number}" for number in range(1, 200)}
    found = {_load_whole(folder).experiment_id for folder in tmp_path.iterdir()}
    assert found == {f"{writer}-{number}" for writer in range(8) for number in range(25)}


def test_a_writer_killed_at_any_line_leaves_a_whole_directory_or_nothing(tmp_path: Path) -> None:
    _writers("kill_at_every_line", tmp_path, 0, 0)
    left = [_visible(folder) for folder in sorted(tmp_path.iterdir())]
    unfinished = [
        folder for folder in tmp_path.iterdir() if any(path.name.startswith(".") for path in folder.iterdir())
    ]
    assert len(unfinished) > 20  # otherwise the kills missed the writing
    assert {len(folders) for folders in left} == {0, 1}
    assert [len(folders) for folders in left] == sorted(len(folders) for folders in left)
    for folders in left:
        for folder in folders:
            assert _load_whole(folder) == make.result_with_sidecars()


def test_writers_killed_at_random_leave_only_whole_directories(tmp_path: Path) -> None:
    _writers("kill_at_random", tmp_path, 40, 7)
    visible = _visible(tmp_path)
    assert len(visible) >= 40
    assert len(list(tmp_path.iterdir())) > len(visible)  # some were killed while writing
    for folder in visible:
        assert _load_whole(folder) == make.result_with_sidecars()


def _writers(mode: str, folder: Path, *numbers: int) -> None:
    command = [sys.executable, "-m", "tests.images.contract.writers", mode, str(folder), *map(str, numbers)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


def _visible(folder: Path) -> list[Path]:
    """What a reader sees; also checks that the contract's own reader sees just that."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    assert list(files.find_directories(folder)) == visible
    return visible


def _load_whole(folder: Path) -> ExperimentResult:
    assert sorted(path.name for path in folder.iterdir()) == ["requests.parquet", "result.json", "timeseries.parquet"]
    assert files.load_table(folder, files.TIMESERIES_FILE).equals(make.timeseries())
    assert files.load_table(folder, files.REQUESTS_FILE).equals(make.requests())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ExperimentResult.from_json(folder)
