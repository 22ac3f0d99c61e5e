"""What takes the place of directories that are gone, emptied, exchanged or out of reach, in one root and in several."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.s3_server import point_to, running_s3_server
from tests.warehouse.results import edit_json, make_result, rows, samples_table, save
from warehouse.errors import WarehouseError
from warehouse.ingest import ingest
from warehouse.intake.landing import Summary

ENERGIES = "SELECT total_energy_j FROM experiments ORDER BY ALL"
GONE = "SELECT directory FROM ingested_directories WHERE gone_since IS NOT NULL"
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def one_result(directory: Path, number: int, energy_j: float = 10.0) -> Path:
    """One result as `directory`, in the place of what is there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    result = make_result(number, study="s", energy_j=energy_j)
    saved = save(directory.parent, result, samples=samples_table([(0.5, energy_j)]))
    return saved.rename(directory)


def emptied(directory: Path) -> Path:
    for file in directory.iterdir():
        file.unlink()
    return directory


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize("changed", [False, True], ids=["as they were", "aggregated anew"])
def test_directories_that_exchange_their_names_between_roots_lose_no_experiment(
    changed: bool, tmp_path: Path, db: Path
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    one, two = one_result(first / "x", 1), one_result(second / "y", 2, 20.0)
    one_result(second / "z", 3, 30.0)
    ingest([first, second], db)
    exchange(one, two)
    if changed:
        one_result(one, 2, 21.0)
        one_result(two, 1, 11.0)
    said: list[str] = []
    assert ingest([first, second], db, report=said.append) == Summary(updated=2, unchanged=1)
    assert said == []
    assert rows(db, ENERGIES) == ([(11.0,), (21.0,), (30.0,)] if changed else [(10.0,), (20.0,), (30.0,)])
    means = "SELECT n_samples FROM intervals WHERE metric = 'total_energy_j'"
    assert rows(db, means) == [(3,)]
    assert ingest([first, second], db) == Summary(unchanged=3)


def test_a_folder_without_its_files_is_gone(root: Path, db: Path) -> None:
    one, two = one_result(root / "x", 1), one_result(root / "y", 2, 20.0)
    bad = one_result(root / "z", 3)
    (bad / "result.json").write_text("{")
    ingest([root], db)
    emptied(one)
    emptied(bad)
    assert ingest([root], db) == Summary(unchanged=1, gone=1)
    assert rows(db, GONE) == [(str(one),)]
    assert rows(db, "SELECT directory FROM quarantine") == []
    assert ingest([root], db, prune=True) == Summary(unchanged=1, pruned=1)
    assert rows(db, "SELECT directory FROM experiments") == [(str(two),)]


def test_a_folder_without_its_files_is_in_nobodys_way(root: Path, db: Path) -> None:
    one = one_result(root / "x", 1)
    ingest([root], db)
    emptied(one)
    again = one_result(root / "again", 1, 99.0)
    assert ingest([root], db) == Summary(updated=1)
    assert rows(db, "SELECT directory, total_energy_j FROM experiments") == [(str(again), 99.0)]


def test_what_has_a_copy_in_a_root_not_given_is_kept_until_that_is_read(tmp_path: Path, db: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    one = one_result(first / "x", 1)
    one_result(first / "y", 2, 20.0)
    shutil.copytree(one, second / "x")
    ingest([first, second], db)
    shutil.rmtree(one)
    assert ingest([first], db) == Summary(unchanged=1, gone=1)
    said: list[str] = []
    assert ingest([first], db, prune=True, report=said.append) == Summary(unchanged=1, gone=1)
    assert rows(db, ENERGIES) == [(10.0,), (20.0,)]
    assert [str(second / "x") in line for line in said] == [True]
    assert ingest([second], db) == Summary(updated=1)
    assert ingest([first], db, prune=True) == Summary(unchanged=1)
    assert rows(db, "SELECT directory FROM experiments ORDER BY ALL") == [(str(first / "y"),), (str(second / "x"),)]


def test_a_copy_that_is_gone_too_keeps_nothing(tmp_path: Path, db: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    one, two = one_result(first / "x", 1), one_result(second / "y", 2, 20.0)
    one_result(first / "z", 3)
    shutil.copytree(one, second / "x")
    ingest([first, second], db)
    shutil.rmtree(second / "x")
    ingest([second], db)
    shutil.rmtree(one)
    assert ingest([first], db, prune=True) == Summary(unchanged=1, pruned=1)
    assert rows(db, "SELECT count(*) FROM experiments") == [(2,)]
    assert two.is_dir()


def test_an_empty_folder_that_held_several_is_not_pruned(root: Path, db: Path) -> None:
    """As that of one of several disks; a study that lost its only result is no such thing."""
    one_result(root / "disk-a" / "x", 1)
    below = [one_result(root / "disk-b" / "study" / str(number), number) for number in (2, 3)]
    lone = one_result(root / "lone" / "x", 4)
    ingest([root], db)
    shutil.rmtree(lone)
    assert ingest([root], db, prune=True) == Summary(unchanged=3, pruned=1)
    shutil.rmtree(below[0].parent)
    one_result(root / "disk-a" / "new", 5)
    with pytest.raises(WarehouseError, match=r"disk-b is empty, and 2 directories .* nothing was pruned"):
        ingest([root], db, prune=True)
    assert rows(db, "SELECT count(*) FROM experiments") == [(4,)], "the new one is stored nevertheless"
    assert len(rows(db, GONE)) == 2
    (root / "disk-b").rmdir()
    assert ingest([root], db, prune=True) == Summary(unchanged=2, pruned=2)


def test_a_folder_that_was_emptied_by_moving_its_results_is_no_reason_not_to_prune(root: Path, db: Path) -> None:
    (root / "to").mkdir(parents=True)
    inner = [one_result(root / "from" / str(number), number) for number in (1, 2)]
    one = one_result(root / "x", 3)
    ingest([root], db)
    for directory in inner:
        directory.rename(root / "to" / directory.name)
    shutil.rmtree(one)
    assert ingest([root], db, prune=True) == Summary(updated=2, pruned=1)


@pytest.mark.parametrize("copy", ["results/aa", "other/x"])
def test_copies_that_were_all_aggregated_anew_are_copies_still(tmp_path: Path, db: Path, copy: str) -> None:
    """Though the copy is read before the one that it is a copy of."""
    one = one_result(tmp_path / "results" / "x", 1)
    ingest([one.parent], db)
    two = tmp_path / copy
    shutil.copytree(one, two)
    roots = list(dict.fromkeys([two.parent, one.parent]))
    assert ingest(roots, db) == Summary(unchanged=1, duplicates=1)
    for directory in (one, two):
        one_result(directory, 1, 99.0)
    assert ingest(roots, db) == Summary(updated=1, duplicates=1)
    assert rows(db, "SELECT directory, total_energy_j FROM experiments") == [(str(one), 99.0)]
    assert rows(db, "SELECT count(*) FROM quarantine") == [(0,)]


def test_a_copy_aggregated_anew_like_its_unread_holder_takes_its_place(tmp_path: Path, db: Path) -> None:
    one, two = one_result(tmp_path / "a" / "x", 1), one_result(tmp_path / "b" / "x", 1)
    ingest([one.parent, two.parent], db)
    for directory in (one, two):
        one_result(directory, 1, 99.0)
    assert ingest([two.parent], db) == Summary(updated=1)
    assert ingest([one.parent, two.parent], db) == Summary(unchanged=1, duplicates=1)
    assert rows(db, ENERGIES) == [(99.0,)]


@pytest.fixture
def bound_by_permissions() -> Iterator[None]:
    """Root, too, may only do what the permissions of a file say."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Of this thread and those it starts; version 3: effective, permitted and inheritable, twice 32 bits (capset(2)).
    header, as_before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, as_before) == 0
    fewer = (ctypes.c_uint32 * 6)(*as_before)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        fewer[0] &= ~(1 << capability)
    assert libc.capset(header, fewer) == 0
    yield
    assert libc.capset(header, as_before) == 0


@pytest.mark.usefixtures("bound_by_permissions")
def test_a_root_that_was_closed_stops_nothing_that_is_read_from_another(tmp_path: Path) -> None:
    closed, other, db = tmp_path / "a", tmp_path / "b", tmp_path / "w.duckdb"
    one = one_result(closed / "x", 1)
    ingest([closed], db)
    shutil.copytree(one, other / "copy")
    one_result(other / "conflict", 1, 99.0)
    closed.chmod(0)
    try:
        assert ingest([other], db) == Summary(duplicates=1, quarantined=1)
        with pytest.raises(WarehouseError, match=r"x cannot be read .Permission denied"):
            ingest([one], db)
    finally:
        closed.chmod(0o755)
    assert rows(db, ENERGIES) == [(10.0,)]


def test_what_lies_in_object_storage_is_no_copy_of_what_nobody_knows(
    tmp_path: Path, root: Path, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version left no digest, and of objects there is nothing else to compare."""
    one = one_result(root / "x", 1)
    with running_s3_server() as server:
        point_to(monkeypatch, server.url, tmp_path)
        bucket = server.bucket("digests")
        server.upload(root, bucket, "p")
        edit_json(one / "result.json", total_energy_j=99.0)
        server.upload(root, bucket, "other")
        first, other = f"s3://{bucket}/p", f"s3://{bucket}/other"
        ingest([first], db)
        with duckdb.connect(str(db)) as connection:
            connection.execute("UPDATE ingested_directories SET signature = '', content_digest = ''")
        assert ingest([other], db) == Summary(quarantined=1)
        assert "cannot be compared" in rows(db, "SELECT reason FROM quarantine")[0][0]
        assert ingest([other, first], db) == Summary(updated=1, quarantined=1)
        assert "other content" in rows(db, "SELECT reason FROM quarantine")[0][0]
        shutil.rmtree(one)
        one_result(one, 1)
        server.upload(root, bucket, "other")
        assert ingest([other], db) == Summary(duplicates=1)


def test_a_copy_on_disk_takes_the_place_of_what_was_gone_from_object_storage(
    tmp_path: Path, root: Path, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks into a bucket that is not given, so what it held the last time counts."""
    one_result(root / "x", 1)
    one_result(root / "y", 2, 20.0)
    copy = shutil.copytree(root / "x", tmp_path / "other" / "x")
    with running_s3_server() as server:
        point_to(monkeypatch, server.url, tmp_path)
        bucket = server.bucket("copies")
        server.upload(root, bucket, "p")
        address = f"s3://{bucket}/p"
        assert ingest([address, copy.parent], db) == Summary(new=2, duplicates=1)
        for file in copy.iterdir():
            server.delete(bucket, f"p/x/{file.name}")
        assert ingest([address], db, prune=True) == Summary(unchanged=1, gone=1)
        assert ingest([copy.parent], db) == Summary(updated=1)
        assert ingest([address], db, prune=True) == Summary(unchanged=1)
        assert rows(db, "SELECT directory FROM experiments ORDER BY ALL") == [(str(copy),), (f"{address}/y",)]
