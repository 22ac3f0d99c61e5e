"""Ingest: idempotent, incremental, and nothing broken ever stops or loses anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from images.contract.files import REQUESTS_SCHEMA
from images.contract.parts import (
    CoolDown,
    DeviceActivity,
    EnergyBreakdown,
    ExtendedEfficiencyMetrics,
    ThermalThrottleInfo,
)
from tests.warehouse.results import edit_json, make_result, requests_table, rows, save, save_failure
from warehouse.errors import WarehouseError
from warehouse.ingest import ingest
from warehouse.intake.landing import Summary


def test_results_land_with_everything_they_bring(root: Path, db: Path) -> None:
    save(root, make_result(1, energy_j=6.0, measurement_warnings=["short_duration: 2 s. Run longer.", "plain text"]))
    save(root, make_result(2, n_requests=None))
    save_failure(root)
    assert ingest([root], db) == Summary(new=2, failures=1)
    assert rows(db, "SELECT total_energy_j, ttft_mean_ms, cpu_model FROM experiments ORDER BY cycle") == [
        (6.0, 20.0, "Test CPU"),
        (None, 20.0, "Test CPU"),
    ]
    assert rows(db, "SELECT count(*), count(total_energy_j) FROM process_results") == [(2, 1)]
    assert rows(db, "SELECT count(*), any_value(itl_ms), any_value(queue_ms) FROM requests") == [(3, [1.0, None], None)]
    assert rows(db, "SELECT code, message FROM warnings ORDER BY warning_index") == [
        ("short_duration", "2 s. Run longer."),
        (None, "plain text"),
    ]
    assert rows(db, "SELECT error_class, exit_code, batch_size FROM failures") == [("OutOfMemory", 12, 4)]
    assert rows(db, "SELECT DISTINCT effective_config->>'$.workload.n_prompts' FROM experiments") == [("100",)]


def test_every_column_says_what_it_is(root: Path, db: Path) -> None:
    save(root, make_result())
    ingest([root], db)
    tables = "SELECT table_name FROM duckdb_tables()"
    silent = f"SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL AND table_name IN ({tables})"
    assert rows(db, silent) == []


def test_what_is_asked_of_energy_has_a_column(root: Path, db: Path) -> None:
    energy = EnergyBreakdown(
        counter_j=1.0,
        integral_j=2.0,
        bound_j=3.0,
        counter_bound_j=4.0,
        integral_bound_j=5.0,
        update_period_s=6.0,
        baseline_power_before_w=7.0,
        baseline_power_after_w=8.0,
    )
    thermal = ThermalThrottleInfo(
        reasons=["sw_power_cap"],
        throttle_duration_sec=9.0,
        max_temperature_c=10.0,
        devices=[DeviceActivity(gpu_uuid="a", sm_clock_mean_mhz=clock) for clock in (1000.0, None, 1500.0)],
        cool_down=CoolDown(target_c=50.0, waited_s=11.0, reached=True),
    )
    fields: dict[str, Any] = {
        "energy_breakdown": energy,
        "thermal_throttle": thermal,
        "environment": {"simulated": False},
    }
    result = make_result(1, **fields)
    waited = [process.model_copy(update={"idle_tail_s": 12.0}) for process in result.process_results]
    save(root, result.model_copy(update={"process_results": waited}))
    save(root, make_result(2, thermal_throttle=ThermalThrottleInfo()))
    save(root, make_result(3))
    ingest([root], db)
    columns = [
        "energy_counter_j, energy_integral_j, energy_bound_j, energy_counter_bound_j, energy_integral_bound_j",
        "energy_update_period_s, baseline_power_before_w, baseline_power_after_w, throttle_duration_s",
        "max_temperature_c, cool_down_waited_s, idle_tail_s, sm_clock_mean_mhz, throttle_reasons, simulated",
    ]
    query = f"SELECT {', '.join(columns)} FROM experiments JOIN process_results USING (experiment_id) ORDER BY cycle"
    assert rows(db, query) == [
        (*(float(value) for value in range(1, 13)), 1250.0, ["sw_power_cap"], False),
        # Not throttled is an empty list; not looked at is none.
        (*[None] * 13, [], None),
        (*[None] * 15,),
    ]


def test_every_extended_metric_has_a_column(root: Path, db: Path) -> None:
    fields = list(ExtendedEfficiencyMetrics.model_fields)
    texts = {"phase_energy_note": "not separable: too short"}
    measured = {name: texts.get(name, float(number)) for number, name in enumerate(fields, start=1)}
    save(root, make_result(1, extended_metrics=ExtendedEfficiencyMetrics.model_validate(measured)))
    save(root, make_result(2))
    ingest([root], db)
    assert rows(db, f"SELECT {', '.join(fields)} FROM experiments ORDER BY cycle") == [
        tuple(measured.values()),
        (None,) * len(fields),
    ]


def test_unchanged_files_are_not_opened_again(root: Path, db: Path) -> None:
    result_file = save(root, make_result()) / "result.json"
    ingest([root], db)
    status = result_file.stat()
    result_file.write_text("x" * status.st_size)  # would be quarantined if anybody looked
    os.utime(result_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ingest([root], db) == Summary(unchanged=1)
    assert rows(db, "SELECT count(*) FROM experiments") == [(1,)]


def test_a_changed_result_replaces_its_rows(root: Path, db: Path) -> None:
    directory = save(root, make_result(measurement_warnings=["a: b"]))
    ingest([root], db)
    edit_json(directory / "result.json", total_energy_j=9.0, measurement_warnings=[])
    assert ingest([root], db) == Summary(updated=1)
    assert rows(db, "SELECT total_energy_j FROM experiments") == [(9.0,)]
    assert rows(db, "SELECT (SELECT count(*) FROM warnings), (SELECT count(*) FROM requests)") == [(0, 3)]


def _corrupt_requests(directory: Path) -> None:
    (directory / "requests.parquet").write_bytes(b"PAR1 not really")


def _repeat_a_request(directory: Path) -> None:
    table = requests_table(2)
    pq.write_table(pa.concat_tables([table, table]), directory / "requests.parquet")


def _drop_a_column(directory: Path) -> None:
    pq.write_table(requests_table(2).drop_columns(["ttft_ms"]), directory / "requests.parquet")


def _null_where_a_value_must_be(directory: Path) -> None:
    schema = pa.schema([field.with_nullable(True) for field in REQUESTS_SCHEMA])
    pq.write_table(pa.Table.from_pylist([{"request_index": 0}], schema=schema), directory / "requests.parquet")


def _fail_without_an_id(directory: Path) -> None:
    (directory / "result.json").unlink()
    (directory / "failure.json").write_text('{"exit_code": "x"}')


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda d: os.truncate(d / "result.json", 200), "not valid JSON"),
    "empty": (lambda d: os.truncate(d / "result.json", 0), "not valid JSON"),
    "not JSON": (lambda d: (d / "result.json").write_bytes(b"\xff\xfe hello"), "not valid JSON"),
    "not an object": (lambda d: (d / "result.json").write_text("[1]"), "not a JSON object"),
    "other version": (lambda d: edit_json(d / "result.json", schema_version="3.0"), "schema version 3.0"),
    "path in timeseries": (lambda d: edit_json(d / "result.json", timeseries="../../etc/passwd"), "not a path"),
    "wrong type": (lambda d: edit_json(d / "result.json", total_tokens="many"), "total_tokens"),
    "number too large": (lambda d: edit_json(d / "result.json", total_tokens=10**25), "cannot have been measured"),
    "number too large for its column": (lambda d: edit_json(d / "result.json", cycle=2**40), "does not fit the tables"),
    "damaged requests": (_corrupt_requests, "requests.parquet is damaged"),
    "repeated request": (_repeat_a_request, "the same process_index and request_index"),
    "column missing": (_drop_a_column, "ttft_ms"),
    "null requests": (_null_where_a_value_must_be, "requests"),
    "failure of wrong type": (
        _fail_without_an_id,
        "experiment_id",
    ),
}


def test_each_broken_directory_is_quarantined_and_the_rest_lands(root: Path, db: Path) -> None:
    for number, (break_it, _) in enumerate(BREAKS.values(), 1):
        save(root, make_result(2 * number - 1))
        break_it(save(root, make_result(2 * number)))
    lines: list[str] = []
    assert ingest([root], db, report=lines.append) == Summary(new=len(BREAKS), quarantined=len(BREAKS))
    reasons = rows(db, "SELECT reason FROM quarantine ORDER BY directory")
    # Directories are named by their cycle, so they stand in the order they were made.
    for (kind, (_, expected)), (reason,) in zip(BREAKS.items(), reasons, strict=True):
        assert expected in reason, kind
        assert "\n" not in reason
    assert len(lines) == len(BREAKS)
    assert rows(db, "SELECT count(*) FROM experiments") == [(len(BREAKS),)]


def test_a_repaired_directory_leaves_quarantine(root: Path, db: Path) -> None:
    directory = save(root, make_result())
    good = (directory / "requests.parquet").read_bytes()
    _corrupt_requests(directory)
    assert ingest([root], db) == Summary(quarantined=1)
    assert ingest([root], db) == Summary(quarantined=1)
    (directory / "requests.parquet").write_bytes(good)
    assert ingest([root], db) == Summary(new=1)
    assert rows(db, "SELECT count(*) FROM quarantine") == [(0,)]


def test_a_removed_directory_leaves_quarantine(root: Path, db: Path) -> None:
    directory = save(root, make_result())
    os.truncate(directory / "result.json", 10)
    ingest([root], db)
    shutil.rmtree(directory)
    assert ingest([root], db) == Summary()
    assert rows(db, "SELECT count(*) FROM quarantine") == [(0,)]


def test_the_rows_of_better_days_stay_when_a_directory_breaks(root: Path, db: Path) -> None:
    directory = save(root, make_result())
    ingest([root], db)
    os.truncate(directory / "result.json", 10)
    assert ingest([root], db) == Summary(quarantined=1)
    assert rows(db, "SELECT count(*) FROM experiments") == [(1,)]


@pytest.mark.parametrize("together", [True, False])
def test_a_copy_is_a_duplicate_and_a_changed_copy_is_a_conflict(root: Path, db: Path, together: bool) -> None:
    original = save(root, make_result())
    if not together:
        ingest([root], db)
    shutil.copytree(original, root / "z-copy")
    shutil.copytree(original, root / "z-forgery")
    edit_json(root / "z-forgery" / "result.json", total_energy_j=1.0)
    summary = ingest([root], db)
    assert (summary.new + summary.unchanged, summary.duplicates, summary.quarantined) == (1, 1, 1)
    assert rows(db, "SELECT directory, total_energy_j FROM experiments") == [(str(original), None)]
    (reason,) = rows(db, "SELECT reason FROM quarantine")[0]
    assert str(original) in reason


def test_a_moved_directory_is_the_same_experiment(root: Path, db: Path, tmp_path: Path) -> None:
    save(root, make_result())
    ingest([root], db)
    root.rename(tmp_path / "archive")
    assert ingest([tmp_path / "archive"], db) == Summary(updated=1)
    ((directory,),) = rows(db, "SELECT directory FROM experiments")
    assert Path(directory).is_relative_to(tmp_path / "archive")
    assert ingest([tmp_path / "archive"], db) == Summary(unchanged=1)


def test_a_missing_sidecar_is_one_line_and_no_python_warning(
    root: Path, db: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (save(root, make_result()) / "requests.parquet").unlink()
    lines: list[str] = []
    assert ingest([root], db, report=lines.append) == Summary(new=1)
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert "requests.parquet is missing" in lines[0]
    assert not recwarn.list


def test_unfinished_work_is_passed_over(root: Path, db: Path) -> None:
    shutil.copytree(save(root, make_result()), root / ".attempts" / "half")
    assert ingest([root], db) == Summary(new=1)


def test_more_directories_than_a_batch_all_land(root: Path, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warehouse.ingest.BATCH", 2)
    for number in range(5):
        save(root, make_result(number))
    assert ingest([root, root], db) == Summary(new=5)


def test_a_root_that_is_not_there_takes_nothing(root: Path, db: Path) -> None:
    save(root, make_result())
    with pytest.raises(WarehouseError, match="does not exist") as caught:
        ingest([root / "nowhere"], db)
    assert caught.value.exit_code == 2
    assert not db.exists()


def test_names_that_are_not_unicode_are_taken(root: Path, db: Path) -> None:
    directory = save(root, make_result(n_requests=None))
    directory.rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    assert ingest([root], db) == Summary(new=1)
    assert ingest([root], db) == Summary(unchanged=1)
