"""What becomes of what is stored when directories change, move, go, or are not what they seem."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from images.contract.parts import EnvironmentSnapshot
from images.contract.scheduling import AdaptiveCycles, Neighbour, PilotEstimate, Scheduling
from tests.warehouse.results import CONFIG, START, edit_json, make_result, rows, samples_table, save, save_failure
from warehouse.bootstrap import stein_bounds
from warehouse.errors import WarehouseError
from warehouse.ingest import ingest
from warehouse.intake.landing import Summary
from warehouse.intake.sources import LocalSource

COUNTS = (
    "SELECT (SELECT count(*) FROM experiments), (SELECT count(*) FROM requests), (SELECT count(*) FROM samples), "
    "(SELECT coalesce(sum(n_cycles), 0) FROM campaign_groups)"
)


@pytest.fixture
def three(root: Path) -> list[Path]:
    samples = samples_table([(0.5, 10.0), (1.5, 12.0)])
    return [save(root, make_result(number, study="s", energy_j=10.0 * number), samples=samples) for number in (1, 2, 3)]


def test_what_is_gone_stays_until_it_is_pruned(root: Path, db: Path, three: list[Path]) -> None:
    ingest([root], db)
    shutil.rmtree(three[0])
    assert ingest([root], db) == Summary(unchanged=2, gone=1)
    assert rows(db, COUNTS) == [(3, 9, 6, 3)]
    assert rows(db, "SELECT directory FROM ingested_directories WHERE gone_since IS NOT NULL") == [(str(three[0]),)]

    assert ingest([root], db, prune=True) == Summary(unchanged=2, pruned=1)
    assert rows(db, COUNTS) == [(2, 6, 4, 2)]
    mean = "SELECT mean, n_samples FROM intervals WHERE metric = 'total_energy_j'"
    assert rows(db, mean) == [(25.0, 2)]
    assert ingest([root], db) == Summary(unchanged=2)


def test_what_is_there_again_is_not_gone_any_more(root: Path, db: Path, three: list[Path], tmp_path: Path) -> None:
    ingest([root], db)
    three[0].rename(tmp_path / "away")
    ingest([root], db)
    (tmp_path / "away").rename(three[0])
    assert ingest([root], db) == Summary(unchanged=3)
    assert rows(db, "SELECT count(*) FROM ingested_directories WHERE gone_since IS NOT NULL") == [(0,)]


def test_of_other_roots_nothing_is_said_to_be_gone(root: Path, db: Path, three: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    save(other, make_result(4))
    assert ingest([root, other], db) == Summary(new=4)
    shutil.rmtree(other)
    assert ingest([root], db, prune=True) == Summary(unchanged=3)
    assert rows(db, "SELECT count(*) FROM experiments") == [(4,)]


def test_a_folder_that_cannot_be_looked_into_is_not_gone(
    root: Path, db: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a share whose permissions changed; nothing of it may be pruned."""
    inner = root / "study"
    inner.mkdir()
    for directory in three[1:]:
        directory.rename(inner / directory.name)
    ingest([root], db)
    scan = LocalSource._scan
    closed = str(inner)
    monkeypatch.setattr(
        LocalSource,
        "_scan",
        lambda self, folder, known, level=0: iter(()) if folder == closed else scan(self, folder, known),
    )
    # What is known is looked at from outside, so that it takes a change to have the folder opened.
    monkeypatch.setattr("warehouse.intake.sources.files_in", lambda signature: [])
    assert ingest([root], db, prune=True).pruned == 0
    assert rows(db, "SELECT count(*) FROM experiments") == [(3,)]


def test_a_directory_that_moved_keeps_its_rows(root: Path, db: Path, three: list[Path]) -> None:
    ingest([root], db)
    three[1].rename(root / "elsewhere")
    assert ingest([root], db) == Summary(unchanged=2, updated=1)
    assert rows(db, COUNTS) == [(3, 9, 6, 3)]
    assert rows(db, "SELECT count(*) FROM experiments WHERE directory LIKE '%elsewhere'") == [(1,)]


def test_an_experiment_that_was_aggregated_anew_replaces_the_old_one(root: Path, db: Path, three: list[Path]) -> None:
    ingest([root], db)
    again = make_result(1, study="s", energy_j=99.0)
    shutil.rmtree(three[0])
    save(root / "anew", again)
    assert ingest([root], db) == Summary(unchanged=2, updated=1)
    assert rows(db, "SELECT total_energy_j FROM experiments ORDER BY ALL") == [(20.0,), (30.0,), (99.0,)]
    assert rows(db, COUNTS) == [(3, 9, 4, 3)]


def test_the_same_id_with_other_content_is_a_conflict_while_the_first_is_there(
    root: Path, db: Path, three: list[Path]
) -> None:
    ingest([root], db)
    save(root / "zzz", make_result(1, study="s", energy_j=99.0))
    assert ingest([root], db) == Summary(unchanged=3, quarantined=1)
    ((reason,),) = rows(db, "SELECT reason FROM quarantine")
    assert str(three[0]) in reason
    assert "other content" in reason
    shutil.rmtree(three[0])
    assert ingest([root], db) == Summary(unchanged=2, updated=1), "the next ingest tries again"


def test_a_result_that_was_aggregated_later_is_no_failure(root: Path, db: Path, three: list[Path]) -> None:
    save_failure(root, experiment_id=make_result(1).experiment_id, study="s")
    save_failure(root, 2, study="s")
    ingest([root], db)
    assert rows(db, "SELECT n_failed FROM campaigns") == [(1,)]


def test_a_changed_directory_moves_between_campaigns(root: Path, db: Path, three: list[Path]) -> None:
    ingest([root], db)
    edit_json(three[0] / "result.json", study="t")
    assert ingest([root], db) == Summary(unchanged=2, updated=1)
    assert rows(db, "SELECT study, n_cycles FROM campaign_groups ORDER BY study") == [("s", 2), ("t", 1)]
    edit_json(three[0] / "result.json", study="s")
    ingest([root], db)
    assert rows(db, "SELECT study, n_cycles FROM campaign_groups") == [("s", 3)]


def test_fields_that_are_not_known_are_kept_by_their_path(root: Path, db: Path) -> None:
    directory = save(root, make_result(environment={"driver_version": "570"}))
    document = json.loads((directory / "result.json").read_text())
    document["carbon"] = {"grams": 3}
    document["environment_snapshot"]["rack"] = "r7"
    document["process_results"][0]["energy_metrics"]["dram_joules"] = 5.0
    document["schema_version"] = "2.9"
    (directory / "result.json").write_text(json.dumps(document))
    said: list[str] = []
    assert ingest([root], db, report=said.append) == Summary(new=1)
    ((unknown, snapshot),) = rows(db, "SELECT unknown_fields, environment_snapshot->>'$.rack' FROM experiments")
    assert json.loads(unknown) == {
        "carbon": {"grams": 3},
        "environment_snapshot.rack": "r7",
        "process_results.0.energy_metrics.dram_joules": 5.0,
    }
    assert snapshot == "r7"
    assert len(said) == 1
    assert "carbon" in said[0]


def test_a_result_with_the_required_fields_alone_is_taken(root: Path, db: Path) -> None:
    directory = save(root, make_result())
    document = json.loads((directory / "result.json").read_text())
    required = {"schema_version", "experiment_id", "measurement_config_hash", "total_tokens", "total_energy_j"}
    required |= {"total_inference_time_sec", "avg_tokens_per_second", "avg_energy_per_token_j", "total_flops"}
    bare = {name: document[name] for name in (*required, "start_time", "end_time")}
    (directory / "result.json").write_text(json.dumps(bare))
    assert ingest([root], db) == Summary(new=1)
    assert rows(db, "SELECT backend, model, study, hardware, unknown_fields FROM experiments") == [
        ("pytorch", None, None, "not recorded", None)
    ]
    assert rows(db, "SELECT count(*) FROM intervals WHERE metric = 'total_tokens'") == [(1,)]


def test_links_out_of_the_results_are_refused_and_within_them_followed(root: Path, db: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    inside, outside = save(root, make_result(1)), save(root, make_result(2))
    secret.write_text((outside / "result.json").read_text())
    (outside / "result.json").unlink()
    (outside / "result.json").symlink_to(secret)
    (inside / "result.json").rename(root / "shared.json")
    (inside / "result.json").symlink_to(root / "shared.json")
    (root / "loop").symlink_to(root)
    assert ingest([root], db) == Summary(new=1, quarantined=1)
    ((reason,),) = rows(db, "SELECT reason FROM quarantine")
    assert "result.json is not a plain file of this folder" in reason


@pytest.mark.parametrize("name", ["with [brackets]", "st*r", "study=x", "a'b", "ünï"])
def test_folders_may_have_any_name(tmp_path: Path, db: Path, name: str) -> None:
    root = tmp_path / name
    save(root, make_result(1), samples=samples_table([(0.5, 1.0)]))
    assert ingest([root], db) == Summary(new=1)
    assert rows(db, COUNTS) == [(1, 3, 1, 1)]
    assert ingest([root], db) == Summary(unchanged=1)


def test_a_directory_that_vanishes_after_the_scan_costs_only_itself(
    root: Path, db: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = LocalSource.scan

    def scan_and_lose(self: LocalSource, known: dict[str, str]) -> object:
        found = list(scan(self, known))
        shutil.rmtree(three[1], ignore_errors=True)
        return iter(found)

    monkeypatch.setattr(LocalSource, "scan", scan_and_lose)
    assert ingest([root], db) == Summary(new=2, quarantined=1)
    assert ingest([root], db) == Summary(unchanged=2), "and is out of quarantine then"
    assert rows(db, "SELECT count(*) FROM quarantine") == [(0,)]


def test_how_a_cycle_was_scheduled_is_stored(root: Path, db: Path) -> None:
    neighbour = Neighbour(gpu_uuids=["GPU-9"], seen=START)
    scheduling = Scheduling(placement="any", order="shuffled", seed=7, position=3, neighbours=[neighbour])
    environment = EnvironmentSnapshot(pod="job-1-xyz", cpu_model="c")
    save(root, make_result(experiment="batch 4", scheduling=scheduling, environment_snapshot=environment))
    ingest([root], db)
    columns = "experiment, placement, job_order, order_seed, position, n_neighbours, pod, adaptive_metric"
    assert rows(db, f"SELECT {columns} FROM runs") == [("batch 4", "any", "shuffled", 7, 3, 1, "job-1-xyz", None)]
    assert rows(db, "SELECT placement, experiment FROM campaigns") == [("any", "batch 4")]


def test_the_stopping_metric_of_an_adaptive_study_has_steins_interval(root: Path, db: Path) -> None:
    metric = "output_tokens_per_second"
    estimate = PilotEstimate(
        experiment="a", measurement_config_hash=CONFIG.measurement_config_hash(), mean=50.0, s=4.0, n_required=7
    )
    rule = AdaptiveCycles(metric=metric, half_width=0.05, confidence=0.95, min=5, max=30)
    for number in range(1, 8):
        known = rule if number <= 5 else rule.model_copy(update={"pilot": [estimate], "n": 7})
        fields: dict[str, Any] = {metric: 48.0 + number}
        save(root, make_result(number, study="s", scheduling=Scheduling(adaptive=known), **fields))
    ingest([root], db)
    query = "SELECT t_method, t_lower, t_upper FROM intervals WHERE metric = ?"
    ((method, lower, upper),) = rows(db, query.replace("?", f"'{metric}'"))
    (expected_lower,), (expected_upper,) = stein_bounds([[48.0 + number for number in range(1, 8)]], [4.0], 5)
    assert (method, lower, upper) == ("stein", pytest.approx(expected_lower), pytest.approx(expected_upper))
    assert rows(db, "SELECT DISTINCT t_method FROM intervals WHERE metric = 'total_tokens'") == [("student_t",)]


WHAT = "SELECT experiment_id, directory, total_energy_j FROM experiments ORDER BY ALL"


def assert_as_fresh(root: Path, db: Path, tmp_path: Path) -> None:
    """The database has what one that never saw anything earlier has."""
    fresh = tmp_path / "fresh.duckdb"
    fresh.unlink(missing_ok=True)
    ingest([root], fresh)
    of_samples = "SELECT experiment_id, count(*) FROM samples JOIN experiments USING (experiment_key) GROUP BY ALL"
    means = "SELECT metric, n_samples, mean FROM intervals"
    for query in (WHAT, f"{of_samples} ORDER BY ALL", f"{means} ORDER BY ALL", COUNTS):
        assert rows(db, query) == rows(fresh, query)


def test_rows_of_a_directory_that_is_left_out_go_to_nobody(root: Path, db: Path, tmp_path: Path) -> None:
    """A sidecar without rows takes no place, and a refused result's sidecar has been read already."""
    save(root, make_result(1), samples=samples_table())
    save(root, make_result(2), samples=samples_table([(0.5, 2.0)]))
    save(root, make_result(3), samples=samples_table([(0.5, 3.0)]))
    broken = save(root, make_result(4), samples=samples_table([(0.5, 777.0)]))
    (broken / "result.json").write_text("{")
    assert ingest([root], db) == Summary(new=3, quarantined=1)
    assert rows(db, "SELECT gpu_power_w FROM samples ORDER BY ALL") == [(2.0,), (3.0,)]
    save(root, make_result(5, n_requests=None))
    ingest([root], db)
    assert_as_fresh(root, db, tmp_path)


@pytest.mark.parametrize("name", ["result.json", "requests.parquet", "timeseries.parquet"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(
    root: Path, db: Path, three: list[Path], name: str
) -> None:
    (three[1] / name).unlink()
    os.mkfifo(three[1] / name)
    assert ingest([root], db) == Summary(new=2, quarantined=1)
    assert "is not a plain file of this folder" in rows(db, "SELECT reason FROM quarantine")[0][0]


def test_a_sidecar_that_leads_out_of_the_results_is_not_read(
    root: Path, db: Path, three: list[Path], tmp_path: Path
) -> None:
    elsewhere = save(tmp_path / "elsewhere", make_result(9), samples=samples_table([(0.5, 777.0)]))
    (three[1] / "timeseries.parquet").unlink()
    (three[1] / "timeseries.parquet").symlink_to(elsewhere / "timeseries.parquet")
    assert ingest([root], db) == Summary(new=2, quarantined=1)
    assert rows(db, "SELECT count(*) FROM samples WHERE gpu_power_w > 100") == [(0,)]


def test_a_copy_takes_the_place_of_what_goes(root: Path, db: Path, three: list[Path], tmp_path: Path) -> None:
    shutil.copytree(three[0], root / "zz-copy")
    assert ingest([root], db) == Summary(new=3, duplicates=1)
    shutil.rmtree(three[0])
    assert ingest([root], db, prune=True) == Summary(new=1, unchanged=2, pruned=1)
    assert_as_fresh(root, db, tmp_path)
    shutil.copytree(root / "zz-copy", root / "aa-copy")
    ingest([root], db)
    shutil.rmtree(root / "zz-copy")
    assert ingest([root], db) == Summary(unchanged=2, updated=1)
    assert_as_fresh(root, db, tmp_path)


def test_directories_that_exchange_their_names_exchange_their_experiments(
    root: Path, db: Path, three: list[Path], tmp_path: Path
) -> None:
    ingest([root], db)
    three[0].rename(root / "aside")
    three[1].rename(three[0])
    (root / "aside").rename(three[1])
    assert ingest([root], db) == Summary(unchanged=1, updated=2)
    assert_as_fresh(root, db, tmp_path)


def test_a_name_that_is_used_again_costs_nobody_its_experiment(
    root: Path, db: Path, three: list[Path], tmp_path: Path
) -> None:
    ingest([root], db)
    three[0].rename(root / "zz")
    shutil.move(save(tmp_path / "new", make_result(7, study="s")), three[0])
    ingest([root], db)
    assert_as_fresh(root, db, tmp_path)


def test_a_directory_that_becomes_a_copy_gives_up_what_it_held(
    root: Path, db: Path, three: list[Path], tmp_path: Path
) -> None:
    ingest([root], db)
    shutil.rmtree(three[1])
    shutil.copytree(three[0], three[1])
    assert ingest([root], db) == Summary(unchanged=2, duplicates=1)
    assert_as_fresh(root, db, tmp_path)


@pytest.mark.parametrize(
    "figure", [{"total_energy_j": 1e308}, {"total_energy_j": 1e-300}, {"output_tokens": -5}, {"total_tokens": 10**30}]
)
def test_a_figure_that_nobody_can_have_measured_is_refused(
    root: Path, db: Path, three: list[Path], figure: dict[str, float]
) -> None:
    edit_json(save(root, make_result(4, study="s")) / "result.json", **figure)
    assert ingest([root], db) == Summary(new=3, quarantined=1)
    assert "which cannot have been measured" in rows(db, "SELECT reason FROM quarantine")[0][0]


def test_an_empty_folder_is_not_pruned(root: Path, db: Path, three: list[Path]) -> None:
    """As that of a disk that is not mounted."""
    ingest([root], db)
    for directory in three:
        shutil.rmtree(directory)
    with pytest.raises(WarehouseError, match="nothing was pruned"):
        ingest([root], db, prune=True)
    assert rows(db, "SELECT count(*) FROM experiments") == [(3,)]
    assert ingest([root.parent], db, prune=False) == Summary(gone=3)
    root.rmdir()
    save(root.parent / "other", make_result(9))
    assert ingest([root.parent], db, prune=True) == Summary(new=1, pruned=3)


def test_a_folder_in_the_place_of_a_result_is_told_of(root: Path, db: Path) -> None:
    (root / "odd" / "result.json").mkdir(parents=True)
    assert ingest([root], db) == Summary(quarantined=1)
    assert "is not a plain file" in rows(db, "SELECT reason FROM quarantine")[0][0]


def test_a_root_that_cannot_be_read_does_not_stop_the_others(root: Path, db: Path, three: list[Path]) -> None:
    said: list[str] = []
    with pytest.raises(WarehouseError, match="nowhere does not exist"):
        ingest(["nowhere", root], db, report=said.append)
    assert said == [f"of the other roots: {Summary(new=3)}"]
    assert rows(db, "SELECT count(*) FROM experiments") == [(3,)]
    with pytest.raises(WarehouseError, match="is empty"):
        ingest([""], db)


def test_a_tree_too_deep_and_linked_folders_are_told_of_and_stop_nothing(root: Path, db: Path, tmp_path: Path) -> None:
    save(root, make_result(1))
    deep = Path(root, *["d"] * 400)
    deep.mkdir(parents=True)
    save(tmp_path / "elsewhere", make_result(2))
    (root / "linked").symlink_to(tmp_path / "elsewhere")

    told: list[str] = []
    assert ingest([root], db, report=told.append) == Summary(new=1)

    assert any("lies deeper than 100 folders" in line for line in told)
    assert any("linked is a link to a folder; it is passed over" in line for line in told)
