"""Results by id in a folder: found by few looks, never outside the folder, never half removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from images.contract.files import UnreadableResult
from tests.warehouse.leftovers import leave_raw
from tests.warehouse.results import edit_json, make_result, requests_table, save, save_failure
from warehouse.contents import Finished
from warehouse.errors import WarehouseError
from warehouse.repository import FileSystemRepository, is_safe_path


class Counting(FileSystemRepository):
    """Counts the directories that are opened."""

    opened = 0

    def id_of(self, one: Finished) -> str | None:
        self.opened += 1
        return super().id_of(one)


def test_results_and_raw_results_are_listed_by_id_also_in_folders_of_studies(root: Path) -> None:
    first, second, third = (make_result(number) for number in (1, 2, 3))
    save(root, first)
    save(root / "study", second)
    save(root / ".attempts" / "study-c001-a1", third)
    leave_raw(root / "study", 4)
    repository = FileSystemRepository(root)
    raw_id = make_result(4).experiment_id
    assert repository.list_aggregated() == [first.experiment_id, second.experiment_id]
    assert repository.list_experiments() == [first.experiment_id, second.experiment_id, raw_id]
    assert [repository.has_raw(one) for one in (first.experiment_id, raw_id)] == [False, True]
    assert [repository.has_aggregated(one) for one in (first.experiment_id, raw_id)] == [True, False]


def test_what_is_saved_is_loaded_again(root: Path) -> None:
    repository = FileSystemRepository(root)
    result = make_result()
    raw = result.process_results[0]
    directory = repository.save_aggregated(result, requests=requests_table(3))
    assert directory.parent == root
    assert repository.load_aggregated(result.experiment_id) == result
    repository.save_raw(result.experiment_id, raw)
    repository.save_raw(result.experiment_id, raw.model_copy(update={"process_index": 1}))
    assert [one.process_index for one in repository.load_all_raw(result.experiment_id)] == [0, 1]
    assert repository.load_all_raw(result.experiment_id)[0] == raw


def test_one_id_among_many_opens_few_directories(root: Path) -> None:
    results = [make_result(number) for number in range(1, 60)]
    for result in results:
        save(root, result)
    for result in (results[0], results[-1]):
        # Ids begin when the job does, the names some time later: as here, where all ids have the same time.
        dated = result.start_time.strftime("exp_%Y%m%d_%H%M%S_0a1b2c3d")
        edit_json(next(root.glob(f"*{result.start_time:T%H-%M-%SZ}")) / "result.json", experiment_id=dated)
        repository = Counting(root)
        assert repository.has_aggregated(dated)
        assert repository.opened <= 2


def test_an_id_is_found_whatever_its_directory_is_called_and_wherever_it_stands_in_the_file(root: Path) -> None:
    result = make_result()
    directory = save(root, result).rename(root / "renamed")
    file = directory / "result.json"
    edit_json(file, experiment_id=None)
    text = file.read_text().rstrip().removesuffix("}")
    file.write_text(text.replace('"experiment_id": null, ', "") + f', "experiment_id": "{result.experiment_id}"}}')
    assert FileSystemRepository(root).load_aggregated(result.experiment_id) == result


@pytest.mark.parametrize("name", ["copy", None])
def test_two_directories_with_one_id_are_named_and_neither_is_taken(root: Path, name: str | None) -> None:
    result = make_result()
    directory = save(root, result)
    copy = root / "elsewhere" / (name or directory.name)
    shutil.copytree(directory, copy)
    repository = FileSystemRepository(root)
    for use in (repository.load_aggregated, repository.delete_experiment):
        with pytest.raises(WarehouseError, match="2 directories have the id") as error:
            use(result.experiment_id)
        assert str(directory) in str(error.value)
        assert str(copy) in str(error.value)
    assert copy.is_dir()


@pytest.mark.parametrize(
    "experiment_id", ["../../x", "..", "", ".hidden", "a/b", "a\\b", "a\0b", "a\nb", "a*", "x" * 300, "é"]
)
def test_what_could_be_a_path_is_no_id(root: Path, experiment_id: str) -> None:
    save(root, make_result())
    repository = FileSystemRepository(root)
    raw = make_result().process_results[0].model_copy(update={"experiment_id": experiment_id})
    uses = (repository.has_raw, repository.has_aggregated, repository.load_aggregated, repository.load_all_raw)
    for use in (*uses, repository.delete_experiment):
        with pytest.raises(WarehouseError, match="is no experiment id") as error:
            use(experiment_id)
        assert error.value.exit_code == 2
        assert "\n" not in str(error.value)
    with pytest.raises(WarehouseError):
        repository.save_raw(experiment_id, raw)
    with pytest.raises(WarehouseError):
        repository.save_aggregated(
            make_result().model_copy(update={"experiment_id": experiment_id}), requests=requests_table(3)
        )
    assert not (root.parent / "x").exists()


def test_no_link_leads_out_of_the_root(root: Path, tmp_path: Path) -> None:
    outside = save(tmp_path / "outside", make_result(1))
    leave_raw(tmp_path / "outside", 2)
    inside = save(root, make_result(3))
    (root / "linked").symlink_to(outside, target_is_directory=True)
    (root / "raw").symlink_to(tmp_path / "outside" / "raw", target_is_directory=True)
    (inside / "result.json").unlink()
    (inside / "result.json").symlink_to(outside / "result.json")
    repository = FileSystemRepository(root)
    assert repository.list_experiments() == []
    with pytest.raises(WarehouseError, match="nothing in"):
        repository.delete_experiment(make_result(1).experiment_id)
    with pytest.raises(UnreadableResult, match="leads out of"):
        repository.save_raw(make_result(2).experiment_id, make_result(2).process_results[0])
    assert (outside / "result.json").is_file()
    assert is_safe_path(root, root / "a" / ".." / "b")
    assert not is_safe_path(root, root / ".." / "b")
    assert not is_safe_path(root, root / "linked" / "result.json")
    assert not is_safe_path(root, Path("a\0b"))


def test_a_raw_file_that_is_a_link_is_neither_read_nor_written_through(root: Path, tmp_path: Path) -> None:
    folder = leave_raw(root, 1)
    target = tmp_path / "precious"
    target.write_text("{}")
    (folder / "process_1.json").unlink()
    (folder / "process_1.json").symlink_to(target)
    repository = FileSystemRepository(root)
    with pytest.raises(UnreadableResult, match=r"process_1\.json is no file"):
        repository.load_all_raw(folder.name)
    with pytest.raises(UnreadableResult, match=r"process_1\.json is no file"):
        repository.save_raw(folder.name, make_result(1).process_results[0])
    assert target.read_text() == "{}"


def test_deleting_takes_result_failure_and_raw_results_and_nothing_else(root: Path) -> None:
    kept = save(root, make_result(1))
    result = make_result(2)
    gone = [
        save(root, result),
        save_failure(root, experiment_id=result.experiment_id),
        leave_raw(root, 2),
    ]
    assert sorted(FileSystemRepository(root).delete_experiment(result.experiment_id)) == sorted(gone)
    assert sorted(root.iterdir()) == sorted([kept, root / "raw"])
    assert list((root / "raw").iterdir()) == []


def test_an_unknown_id_names_near_ones(root: Path) -> None:
    save(root, make_result(7))
    with pytest.raises(WarehouseError, match="Did you mean exp_20260102_030405_00000007") as error:
        FileSystemRepository(root).load_aggregated("exp_20260102_030405_00000077")
    assert error.value.exit_code == 2


@pytest.mark.parametrize("is_file", [True, False])
def test_a_results_folder_that_is_none_is_said_in_one_line(tmp_path: Path, is_file: bool) -> None:
    if is_file:
        (tmp_path / "results").touch()
    with pytest.raises(WarehouseError, match="is no folder" if is_file else "is not there"):
        FileSystemRepository(tmp_path / "results").list_experiments()
