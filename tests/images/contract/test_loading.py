"""from_json: whatever is wrong with a file is one clear line that names it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from images.contract import files
from images.contract.files import UnreadableResult
from images.contract.result import ExperimentResult
from tests.images.contract import make

GOOD: dict[str, Any] = make.result().model_dump(mode="json")


def load(folder: Path, content: dict[str, Any] | str | bytes) -> ExperimentResult:
    """Write `content` as a result.json and load it."""
    text = json.dumps(content) if isinstance(content, dict) else content
    (folder / "result.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return ExperimentResult.from_json(folder)


def refusal(folder: Path, content: dict[str, Any] | str | bytes) -> str:
    """The message without the file's name, which it must begin with."""
    with pytest.raises(UnreadableResult) as caught:
        load(folder, content)
    message = str(caught.value)
    assert message.startswith(str(folder / "result.json"))
    assert len(message.splitlines()) == 1
    return message.removeprefix(str(folder / "result.json"))


@pytest.mark.parametrize("version", ["1.0", "3.0", "3.1.4", "20.0"])
def test_another_major_version_is_an_error_that_names_both(tmp_path: Path, version: str) -> None:
    message = refusal(tmp_path, {**GOOD, "schema_version": version})
    assert f"has schema version {version};" in message
    assert "2.0" in message


def test_a_file_without_a_version_is_not_guessed_at(tmp_path: Path) -> None:
    assert "schema version missing" in refusal(tmp_path, {})


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = json.dumps(GOOD)
    for length in range(0, len(whole), 97):
        assert "is not valid JSON" in refusal(tmp_path, whole[:length])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("energy: 5\n", "not valid JSON"),
        (b"\x00\xff\xfe\x80", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        ('{"a": "\\ud800"}', "surrogates"),
        ('{"a": ' + "1" * 5000 + "}", "not valid JSON"),
        ("[]", "holds a list, not a JSON object"),
        ("null", "holds a NoneType, not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
    ids=["yaml", "binary", "latin-1", "half a pair", "huge number", "list", "null", "deep list", "deep object"],
)
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, content: str | bytes, says: str) -> None:
    assert says in refusal(tmp_path, content)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["total_energy_j", "energy_per_device_j", "effective_config"])
def test_nan_and_infinity_are_refused_wherever_they_stand(tmp_path: Path, literal: str, field: str) -> None:
    shapes = {"total_energy_j": "@", "energy_per_device_j": ["@"], "effective_config": {"vllm": {"a": ["@"]}}}
    text = json.dumps({**GOOD, field: shapes[field]}).replace('"@"', literal)
    message = refusal(tmp_path, text)
    assert literal in message if literal != "1e999" else field in message


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


def test_an_effective_config_that_could_not_be_saved_again_is_refused(tmp_path: Path) -> None:
    assert "effective_config: only JSON values" in refusal(tmp_path, {**GOOD, "effective_config": nested(198)})
    assert refusal(tmp_path, {**GOOD, "effective_config": nested(300)}).endswith("is nested too deeply")


@pytest.mark.parametrize("field", ["timeseries", "requests"])
@pytest.mark.parametrize("name", ["../x.parquet", "/etc/passwd", "a/b", "a/", "..", ".", "", ".hidden", "a\\b", "a\0b"])
def test_a_path_in_a_sidecar_field_is_refused(tmp_path: Path, field: str, name: str) -> None:
    message = refusal(tmp_path, {**GOOD, field: name})
    assert f"{field}: must be the name of a file beside result.json, not a path" in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"total_tokens": "many"}, "total_tokens: "),
        ({"process_results": [3]}, "process_results.0: "),
        ({"start_time": "0001-01-01T00:00:00+05:00"}, "start_time: 0001-01-01T00:00:00+05:00 is outside"),
        ({"start_time": "yesterday", "end_time": "today"}, "(and 1 more)"),
        ({"energy_source": "guess"}, "energy_source: "),
    ],
    ids=["text", "wrong part", "before the calendar", "two errors", "unknown choice"],
)
def test_a_field_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    message = refusal(tmp_path, {**GOOD, **change})
    assert "does not fit the schema" in message
    assert says in message


@pytest.mark.parametrize("field", ["total_energy_j", "avg_energy_per_token_j", "total_flops"])
def test_unmeasured_figures_are_required_keys_whose_value_may_be_null(tmp_path: Path, field: str) -> None:
    assert getattr(load(tmp_path, {**GOOD, field: None}), field) is None
    assert field in refusal(tmp_path, {key: value for key, value in GOOD.items() if key != field})


def test_a_file_that_is_not_there_is_a_refusal_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(UnreadableResult, match="No such file"):
        ExperimentResult.from_json(tmp_path / "result.json")
    with pytest.raises(UnreadableResult, match=r"result\.json cannot be read"):
        ExperimentResult.from_json(tmp_path)


@pytest.mark.parametrize("field", ["timeseries", "requests"])
def test_a_missing_sidecar_is_a_warning_and_none(tmp_path: Path, field: str) -> None:
    path = make.result_with_sidecars().save(tmp_path, timeseries=make.timeseries(), requests=make.requests())
    (path.parent / f"{field}.parquet").unlink()
    with pytest.warns(UserWarning, match="is missing") as caught:
        loaded = ExperimentResult.from_json(path)
    assert loaded == make.result_with_sidecars().model_copy(update={field: None})
    assert [str(warning.message) for warning in caught] == [
        f"{path.parent / field}.parquet is missing; {field} is read as None"
    ]
    assert caught[0].filename == __file__


def test_a_damaged_sidecar_does_not_hinder_loading_but_is_refused_when_read(tmp_path: Path) -> None:
    saved = make.result(timeseries="timeseries.parquet").save(tmp_path, timeseries=make.timeseries())
    sidecar = saved.parent / "timeseries.parquet"
    whole = sidecar.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:-1]):
        sidecar.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert ExperimentResult.from_json(saved).timeseries == "timeseries.parquet"
        with pytest.raises(UnreadableResult, match=r"timeseries\.parquet is damaged \(.+\)"):
            files.load_table(saved.parent, "timeseries.parquet")


def test_a_sidecar_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    saved = make.result(requests="requests.parquet").save(tmp_path, requests=make.requests())
    (saved.parent / "requests.parquet").rename(saved.parent / "timeseries.parquet")
    with pytest.raises(UnreadableResult, match="lacks the columns timestamp_s"):
        files.load_table(saved.parent, "timeseries.parquet")


def test_a_sidecar_that_is_not_there_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.load_table(tmp_path, "timeseries.parquet")


def test_an_older_requests_file_has_nulls_where_columns_came_later(tmp_path: Path) -> None:
    saved = make.result(requests="requests.parquet").save(tmp_path, requests=make.requests())
    later = files.LATER_COLUMNS[files.REQUESTS_FILE]
    pq.write_table(make.requests().drop_columns(list(later)), saved.parent / "requests.parquet")
    table = files.load_table(saved.parent, "requests.parquet")
    assert table.schema.equals(files.REQUESTS_SCHEMA)
    assert all(table[name].null_count == len(table) for name in later)
