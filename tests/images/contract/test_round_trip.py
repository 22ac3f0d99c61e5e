"""What is saved comes back: every field, unicode, both sidecars, after moving, zipping and unzipping."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from images.contract import files
from images.contract.result import ExperimentResult
from tests.images.contract import make, strategies


@given(result=strategies.results())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_saved_result_loads_as_itself(tmp_path_factory: pytest.TempPathFactory, result: ExperimentResult) -> None:
    path = result.save(
        tmp_path_factory.mktemp("out"),
        timeseries=make.timeseries() if result.timeseries else None,
        requests=make.requests() if result.requests else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ExperimentResult.from_json(path) == result
        assert ExperimentResult.from_json(path.parent) == result


def test_sidecars_come_back_row_by_row_with_their_nulls(tmp_path: Path) -> None:
    folder = _saved(tmp_path)
    assert files.load_table(folder, files.TIMESERIES_FILE).equals(make.timeseries())
    assert files.load_table(folder, files.REQUESTS_FILE).equals(make.requests())


def test_a_directory_can_be_renamed_and_moved(tmp_path: Path) -> None:
    _loads_whole(_saved(tmp_path / "here").rename(tmp_path / "any other name"))


def test_a_directory_can_be_zipped_and_unzipped(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "here")
    archive = shutil.make_archive(str(tmp_path / "cycle"), "zip", root_dir=folder.parent, base_dir=folder.name)
    shutil.rmtree(folder)
    shutil.unpack_archive(archive, tmp_path / "there")
    _loads_whole(tmp_path / "there" / folder.name)


@pytest.mark.parametrize("parent", ["gpu_index=7", "timestamp_s=x", "_under", ".dot"])
def test_the_name_of_a_parent_folder_does_not_leak_into_a_table(tmp_path: Path, parent: str) -> None:
    """Parquet readers take `key=value` folders for columns."""
    _loads_whole(_saved(tmp_path / parent))


def _saved(output_dir: Path) -> Path:
    return make.result_with_sidecars().save(output_dir, timeseries=make.timeseries(), requests=make.requests()).parent


def _loads_whole(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ExperimentResult.from_json(folder) == make.result_with_sidecars()
    assert files.load_table(folder, files.TIMESERIES_FILE).equals(make.timeseries())
    assert files.load_table(folder, files.REQUESTS_FILE).equals(make.requests())
