"""Released files keep loading, released defaults and hashes never change.

The golden results are written by hand and never regenerated. Defaults and hashes of new fields are added by
UPDATE_GOLDEN=1 .venv/bin/pytest tests/images/contract/test_golden.py, which adds what is new and changes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from images.contract import files
from images.contract.config import BACKENDS, ExperimentConfig, parse_config
from images.contract.job import CONTRACT_VERSION, ExitCode
from images.contract.result import ExperimentResult
from images.contract.study import STUDY_FILE, StudyRecord
from tests.images.contract import make

GOLDEN = Path(__file__).parent / "golden"
DEFAULTS = GOLDEN / "config_defaults.json"
HASHES = GOLDEN / "config_hashes.json"
ADD = "UPDATE_GOLDEN=1 .venv/bin/pytest tests/images/contract/test_golden.py adds it"


def test_a_minimal_older_result_loads_with_everything_else_unmeasured() -> None:
    result = _load_silently(GOLDEN / "result_2.0_minimal.json")
    assert result.start_time.isoformat() == "2025-11-03T09:15:00+00:00"  # written without a zone
    written = json.loads((GOLDEN / "result_2.0_minimal.json").read_text())
    rest = result.model_dump(exclude=set(written))
    assert {name: value for name, value in rest.items() if value not in (None, [], {}, "")} == {
        "backend": "pytorch",
        "measurement_methodology": "total",
    }


def test_a_full_result_loses_nothing(tmp_path: Path) -> None:
    """Every key and value of the file is still there after loading, sidecars included."""
    source = GOLDEN / "result_2.0_full.json"
    saved = make.result_with_sidecars().save(tmp_path, timeseries=make.timeseries(), requests=make.requests())
    shutil.copyfile(source, saved)
    result = _load_silently(saved)
    _assert_holds(json.loads(result.model_dump_json()), json.loads(source.read_text()), "result")
    assert files.load_table(saved.parent, str(result.timeseries)).num_rows == 2


def test_a_cycle_of_a_study_loses_nothing_of_how_it_was_scheduled() -> None:
    source = GOLDEN / "result_2.0_study.json"
    result = _load_silently(source)
    _assert_holds(json.loads(result.model_dump_json()), json.loads(source.read_text()), "result")
    assert result.directory_name == "b16-pytorch-77aa01bc-c007_2026-11-21T15-00-00Z"


def test_a_study_record_loses_nothing() -> None:
    record = StudyRecord.load(GOLDEN)
    assert record is not None
    _assert_holds(json.loads(record.model_dump_json()), json.loads((GOLDEN / STUDY_FILE).read_text()), "study")


def test_a_newer_result_loads_with_exactly_one_warning_that_names_the_unknown_keys() -> None:
    with pytest.warns(UserWarning, match="newer version") as caught:
        result = ExperimentResult.from_json(GOLDEN / "result_2.7_newer.json")
    assert len(caught) == 1
    assert str(caught[0].message).endswith(
        "ignored keys of a newer version: carbon, environment_snapshot.rack, latency_stats.ttft_p999_ms, "
        "process_results.energy_metrics.dram_joules, process_results.numa_node"
    )
    assert caught[0].filename == __file__
    assert (result.schema_version, result.total_tokens, len(result.process_results)) == ("2.7", 12800, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_released_default_never_changes(backend: str) -> None:
    current = ExperimentConfig.model_validate({"backend": backend}).model_dump(mode="json")
    leaves = {path: value for path, value in _leaves(current) if path.split(".")[0] not in BACKENDS or value != {}}
    released = _read(DEFAULTS).get(backend, {})
    if os.environ.get("UPDATE_GOLDEN"):
        _write(DEFAULTS, {**_read(DEFAULTS), backend: {**leaves, **released}})
        released = _read(DEFAULTS)[backend]
    for path, value in released.items():
        assert path in leaves, f"{path} is gone: old files and hashes name it. A released field stays"
        assert repr(leaves[path]) == repr(value), (
            f"the default of {path} was {value!r} and is {leaves[path]!r}: a released default never changes, because "
            f"the hash leaves defaults out and two different measurements would share one name. Give new behaviour a "
            f"new field; only before a first release, edit {DEFAULTS.name} by hand"
        )
    assert set(leaves) == set(released), f"new fields {sorted(set(leaves) - set(released))}: {ADD}"


def test_released_hashes_never_change() -> None:
    cases = json.loads(HASHES.read_text())
    if os.environ.get("UPDATE_GOLDEN"):
        for case in cases:
            case.setdefault("hash", parse_config(case["config"]).measurement_config_hash())
        _write(HASHES, cases)
    assert len({case["hash"] for case in cases}) == len(cases) > 5
    for case in cases:
        assert parse_config(case["config"]).measurement_config_hash() == case["hash"], (
            f"the hash of '{case['name']}' changed: results measured so far would lose their group"
        )


def test_exit_codes_are_what_images_in_the_field_return() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "BUG": 1,
        "USAGE": 2,
        "CONFIG_INVALID": 10,
        "MODEL_UNAVAILABLE": 11,
        "OUT_OF_MEMORY": 12,
        "GPU_UNUSABLE": 13,
        "MEASUREMENT_FAILED": 14,
        "INCOMPLETE_PROCESSES": 15,
        "INTERRUPTED": 16,
        "LAUNCHER": 125,
    }, f"exit codes belong to contract version {CONTRACT_VERSION}"


def _load_silently(path: Path) -> ExperimentResult:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ExperimentResult.from_json(path)


def _assert_holds(loaded: Any, written: Any, path: str) -> None:
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in loaded, f"{path}.{key} is lost"
            _assert_holds(loaded[key], value, f"{path}.{key}")
    elif isinstance(written, list):
        assert len(loaded) == len(written), path
        for index, value in enumerate(written):
            _assert_holds(loaded[index], value, f"{path}.{index}")
    else:
        assert loaded == written, path


def _leaves(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        found += _leaves(item, f"{prefix}{key}.") if isinstance(item, dict) and item else [(prefix + key, item)]
    return found


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return data


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
