"""save: names, agreement of fields and tables, schemas, and nothing left behind when it fails."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from images.contract import files
from images.contract.result import ExperimentResult
from tests.images.contract import make, strategies
from tests.images.contract.make import OPEN


def test_the_directory_is_named_by_model_backend_hash_cycle_and_time() -> None:
    made = make.result(effective_config={"model": "meta-llama/Llama-3.2-1B"}, backend="vllm", cycle=7)
    assert made.directory_name == "llama-3.2-1b-vllm-01234567-c007_2026-03-01T12-00-00Z"


def test_the_time_in_the_name_is_utc() -> None:
    elsewhere = OPEN.astimezone(timezone(timedelta(hours=9)))
    assert files.directory_name(["a"], elsewhere) == "a_2026-03-01T12-00-00Z"
    assert files.new_experiment_id(elsewhere, "0123abcd") == "exp_20260301_120000_0123abcd"


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=100) | st.from_regex(r"[a-z0-9._-]{0,100}", fullmatch=True), min_size=1, max_size=5),
    strategies.TIMES.filter(lambda time: time.tzinfo is not None),
)
@example(["m" * 100, "b" * 100, "01234567", "c001"], OPEN)
@example(["", "b" * 78], OPEN)
def test_a_directory_name_is_plain_and_its_name_at_most_80_characters(parts: list[str], now: datetime) -> None:
    name = files.directory_name(parts, now)
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,79}_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", name)


def test_cutting_a_long_model_name_keeps_what_tells_cycles_apart() -> None:
    made = make.result(effective_config={"model": "org/" + "m" * 200})
    assert made.directory_name.endswith("mmm-pytorch-01234567-c001_2026-03-01T12-00-00Z")
    assert len(made.directory_name.partition("_")[0]) == 80


def test_a_result_without_a_model_has_a_name_all_the_same() -> None:
    assert make.result(effective_config={}).directory_name.startswith("job-pytorch-")


def test_experiment_ids_are_unique() -> None:
    ids = {files.new_experiment_id(OPEN) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"exp_20260301_120000_[0-9a-f]{8}", one) for one in ids)


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    name = make.result().directory_name
    names = [make.result().save(tmp_path).parent.name for _ in range(3)]
    assert names == [name, f"{name}_1", f"{name}_2"]


@pytest.mark.parametrize(
    "occupy",
    [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")],
    ids=["empty directory", "file", "dangling link"],
)
def test_whatever_has_the_name_is_left_alone(tmp_path: Path, occupy: Callable[[Path], Any]) -> None:
    target = tmp_path / make.result().directory_name
    occupy(target)
    before = target.lstat()
    assert make.result().save(tmp_path).parent.name == f"{target.name}_1"
    assert target.lstat() == before


def test_a_directory_holds_the_result_and_its_sidecars_and_nothing_else(tmp_path: Path) -> None:
    assert _names(make.result().save(tmp_path / "a" / "b").parent) == ["result.json"]
    both = make.result_with_sidecars().save(tmp_path, timeseries=make.timeseries(), requests=make.requests())
    assert _names(both.parent) == ["requests.parquet", "result.json", "timeseries.parquet"]


def test_the_timeseries_is_exactly_what_the_design_says(tmp_path: Path) -> None:
    table = make.timeseries().append_column("note", pa.array(["a", "b"])).select([4, 3, 2, 1, 0])
    path = make.result(timeseries="timeseries.parquet").save(tmp_path, timeseries=table).parent / "timeseries.parquet"
    assert [(field.name, str(field.type)) for field in pq.read_schema(path)] == [
        ("timestamp_s", "double"),
        ("gpu_power_w", "double"),
        ("gpu_temperature_c", "double"),
        ("gpu_index", "int32"),
    ]
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"


def test_the_requests_columns_are_what_the_design_says_and_later_ones_stand_behind_them() -> None:
    tokens = ["process_index", "request_index", "input_tokens", "output_tokens", "finish_reason", "output_sha256"]
    designed = [*tokens, "arrival_s", "ttft_ms", "e2e_ms", "queue_ms", "itl_ms"]
    later = ["lag_ms", "cached_input_tokens", "delivery_tokens"]
    assert files.REQUESTS_SCHEMA.names == [*designed, *later]


@pytest.mark.parametrize(
    ("fields", "tables"),
    [
        ({"timeseries": "timeseries.parquet"}, {}),
        ({"requests": "requests.parquet"}, {}),
        ({}, {"timeseries": make.timeseries()}),
        ({}, {"requests": make.requests()}),
        ({"timeseries": "other.parquet"}, {"timeseries": make.timeseries()}),
        ({"timeseries": "timeseries.parquet"}, {"requests": make.requests()}),
    ],
    ids=["no timeseries", "no requests", "unnamed timeseries", "unnamed requests", "other name", "swapped"],
)
def test_a_field_without_its_table_or_a_table_without_its_field_saves_nothing(
    tmp_path: Path, fields: dict[str, str], tables: dict[str, pa.Table]
) -> None:
    with pytest.raises(ValueError, match=r"set the field to '(timeseries|requests)\.parquet' exactly when"):
        make.result(**fields).save(tmp_path / "out", **tables)
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (make.timeseries().drop_columns(["gpu_power_w", "gpu_index"]), "lacks the columns gpu_power_w, gpu_index"),
        (make.timeseries().append_column("gpu_index", pa.array([1, 1])), "the columns gpu_index more than once"),
        (make.timeseries().set_column(3, "gpu_index", pa.array([0.5, 0.0])), "truncated"),
        (make.timeseries().set_column(0, "timestamp_s", pa.array([0.5, None])), "timestamp_s.*null"),
        (make.timeseries().set_column(1, "gpu_power_w", pa.array(["high", "low"])), "Failed to parse string"),
    ],
    ids=["missing", "twice", "fraction of a GPU", "no time", "text"],
)
def test_a_table_that_does_not_fit_its_schema_saves_nothing(tmp_path: Path, table: pa.Table, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make.result(timeseries="timeseries.parquet").save(tmp_path, timeseries=table)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("failing_sync", range(1, 5))
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_sync: int) -> None:
    """The synced things are result.json, both tables and the folder."""
    calls = 0
    real = os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_sync:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        make.result_with_sidecars().save(tmp_path, timeseries=make.timeseries(), requests=make.requests())
    assert _names(tmp_path) == []


def test_files_are_synced_before_the_rename_and_the_parent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        events.append("folder" if ".tmp-" in name else name)
        real_fsync(handle)

    def rename(source: Path, target: Path) -> Path:
        events.append("rename")
        return real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    make.result_with_sidecars().save(tmp_path, timeseries=make.timeseries(), requests=make.requests())
    assert sorted(events[:3]) == ["requests.parquet", "result.json", "timeseries.parquet"]
    assert events[3:] == ["folder", "rename", tmp_path.name]


def test_an_output_directory_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make.result().save(tmp_path / "file" / "out")


def test_readers_pass_over_dot_names_and_find_failures_too(tmp_path: Path) -> None:
    saved = make.result().save(tmp_path / "study").parent
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "failure.json").write_text("{}")
    make.result().save(tmp_path / ".attempts")
    (tmp_path / "empty").mkdir()
    assert list(files.find_directories(tmp_path)) == [tmp_path / "failed", saved]


def test_a_stray_sidecar_hides_nothing_and_a_sidecar_alone_is_half_written(tmp_path: Path) -> None:
    saved = make.result().save(tmp_path).parent
    alone = tmp_path / "cut-short"
    alone.mkdir()
    for folder in (tmp_path, alone):
        (folder / "requests.parquet").touch()
    assert list(files.find_directories(tmp_path)) == sorted([saved, alone])


def test_a_replaced_file_is_whole_and_leaves_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "failure.json"
    files.write_atomic(path, "old")
    files.write_atomic(path, "né")
    assert path.read_bytes() == "né".encode()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, "newer")
    assert _names(tmp_path) == ["failure.json"]
    assert path.read_bytes() == "né".encode()


def test_a_saved_result_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make.result().total_tokens = 1  # type: ignore[misc]
    assert ExperimentResult.model_config["frozen"]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
