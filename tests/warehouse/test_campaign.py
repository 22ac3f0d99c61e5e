"""Campaigns: which cycles count, what is beside them, and what the table shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from images.contract.parts import EnergyBreakdown
from images.contract.result import ExperimentResult
from images.contract.scheduling import AdaptiveCycles, PilotEstimate, Scheduling
from tests.warehouse.results import CONFIG, make_result, save, save_failure, warehouse
from warehouse.bootstrap import BootstrapResult
from warehouse.campaign import CampaignGroup, aggregate_campaign_results, campaign_groups
from warehouse.database import reading


def groups_of(tmp_path: Path, **options: Any) -> list[CampaignGroup]:
    db = tmp_path / "w.duckdb"
    assert warehouse("ingest", tmp_path / "results", db=db) == 0
    with reading(db, 1.0) as connection:
        return campaign_groups(connection, **options)


def test_aggregate_drops_what_was_not_measured_and_counts_the_rest() -> None:
    results = [make_result(1, energy_j=10.0), make_result(2, energy_j=None), make_result(3, energy_j=14.0)]
    row = aggregate_campaign_results({"a": results, "b": results[1:2]})["a"]
    assert row["n_cycles"] == 3
    assert set(row["total_energy_j"]) == set(BootstrapResult.model_fields)
    assert (row["total_energy_j"]["mean"], row["total_energy_j"]["n_samples"]) == (12.0, 2)
    assert row["avg_tokens_per_second"]["n_samples"] == row["total_tokens"]["n_samples"] == 3
    assert (row["ttft_mean_ms"]["mean"], row["itl_mean_ms"]["mean"]) == (20.0, 1.5)


def test_aggregate_leaves_out_a_metric_that_no_cycle_has() -> None:
    row = aggregate_campaign_results({"a": [make_result(1).model_copy(update={"latency_stats": None})]})["a"]
    assert not {"total_energy_j", "ttft_mean_ms", "itl_mean_ms"} & set(row)
    assert aggregate_campaign_results({"none": []}) == {"none": {"n_cycles": 0}}


def test_invalid_cycles_and_failures_stay_beside_the_interval(tmp_path: Path) -> None:
    root = tmp_path / "results"
    for number in (1, 2, 3):
        save(root, make_result(number, measurement_valid=number != 3))
    save_failure(root)
    (group,) = groups_of(tmp_path)
    assert (group.n_cycles, group.n_invalid, group.n_failed) == (2, 1, 1)
    (group,) = groups_of(tmp_path, include_all=True)
    assert (group.n_cycles, group.n_invalid) == (3, 1)


def test_a_configuration_that_only_failed_is_not_lost(tmp_path: Path) -> None:
    save_failure(tmp_path / "results", measurement_config_hash="0" * 16)
    (group,) = groups_of(tmp_path)
    assert (group.backend, group.n_cycles, group.n_failed) == ("stub", 0, 1)


def test_the_newest_run_of_a_cycle_counts(tmp_path: Path) -> None:
    root = tmp_path / "results"
    for number, cycle in ((1, 1), (2, 2), (3, 2)):
        save(root, make_result(number, seconds=number, study="s", cycle=cycle))
    (group,) = groups_of(tmp_path)
    assert (group.n_cycles, group.n_superseded) == (2, 1)
    assert group.figures["total_inference_time_sec"].mean == 2.0


def test_an_invalid_run_does_not_replace_a_valid_one(tmp_path: Path) -> None:
    for number, valid in ((1, True), (2, False)):
        save(tmp_path / "results", make_result(number, study="s", cycle=1, measurement_valid=valid))
    (group,) = groups_of(tmp_path)
    assert (group.n_cycles, group.n_superseded) == (1, 1)


def test_a_configuration_is_its_hash_wherever_its_model_lies(tmp_path: Path) -> None:
    for number, model in ((1, "/here/model"), (2, "/there/model")):
        result = make_result(number)
        save(
            tmp_path / "results",
            result.model_copy(update={"effective_config": result.effective_config | {"model": model}}),
        )
    (group,) = groups_of(tmp_path)
    assert group.n_cycles == 2


def test_warnings_stand_where_the_figures_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, warnings in enumerate(
        (["short_duration: 1 s. Do.", "not_warmed_up: x. Do."], ["short_duration: 2 s. Do."]), 1
    ):
        save(tmp_path / "results", make_result(number, measurement_warnings=warnings))
    groups_of(tmp_path)
    capsys.readouterr()
    assert warehouse("campaign", db=tmp_path / "w.duckdb") == 0
    assert "warnings: not_warmed_up (1), short_duration (2)" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_no_figure_is_cut_however_narrow_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for number in (1, 2, 3):
        save(tmp_path / "results", make_result(number, output_tokens_per_second=186_000.0 + number))
    groups_of(tmp_path)
    capsys.readouterr()
    assert warehouse("campaign", db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    assert "\u2026" not in text
    words = text.split()
    for figure in ("186,002.0", "1.0", "[186,001.0,", "186,003.0]", "[185,999.5,", "186,004.5]"):
        assert figure in words


def test_runs_without_a_study_are_all_cycles(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / "results", make_result(number, cycle=1))
    (group,) = groups_of(tmp_path)
    assert (group.n_cycles, group.n_superseded) == (2, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"gpu_names": ["H200"], "gpu_uuids": ["GPU-a"]},
        {"gpu_names": ["H100", "H100"], "gpu_uuids": ["GPU-a", "GPU-b"]},
        {"driver_version": "551"},
        {"power_limits_w": [500.0]},
        {"image_id": "sha256:2"},
        {"image_repo_digest": "sha256:3"},
        {"model_commit": "bbb"},
        {"simulated": True},
    ],
)
def test_other_conditions_are_another_group(tmp_path: Path, other: dict[str, Any]) -> None:
    same = {
        "gpu_names": ["H100"],
        "gpu_uuids": ["GPU-a"],
        "driver_version": "550",
        "power_limits_w": [700.0],
        "image_id": "sha256:1",
        "model_commit": "aaa",
    }
    for number, environment in enumerate((same, same, same | other), 1):
        save(tmp_path / "results", make_result(number, environment=environment, study="s", cycle=number))
    assert sorted(group.n_cycles for group in groups_of(tmp_path, include_all=True)) == [1, 2]


def test_pooled_conditions_do_not_make_two_cycles_of_one(tmp_path: Path) -> None:
    for number, (study, cycle, driver, valid) in enumerate(
        [("s", 1, "550", True), ("s", 2, "550", True), ("s", 1, "551", True), ("s", 2, "551", False)], 1
    ):
        environment = {"driver_version": driver, "gpu_names": ["H100"], "gpu_uuids": ["GPU-a"]}
        save(
            tmp_path / "results",
            make_result(
                number, energy_j=float(number), environment=environment, study=study, cycle=cycle,
                measurement_valid=valid, measurement_warnings=[f"old_{number}: x. Do."],
            ),
        )  # fmt: skip
    assert sorted(group.n_cycles for group in groups_of(tmp_path)) == [1, 2]
    for include_all in (False, True):
        (group,) = groups_of(tmp_path, pool=["driver_version"], include_all=include_all)
        assert (group.n_cycles, group.n_superseded, group.n_invalid, group.driver_version) == (2, 2, 0, "mixed")
        assert group.figures["total_energy_j"].mean == 2.5
        assert group.warnings == {"old_2": 1, "old_3": 1}


def test_a_pooled_group_is_of_the_conditions_of_the_cycles_that_count(tmp_path: Path) -> None:
    for number, (driver, valid) in enumerate([("550", True), ("550", True), ("535", False)], 1):
        environment = {"driver_version": driver, "gpu_names": ["H100"], "gpu_uuids": ["GPU-a"]}
        result = make_result(number, environment=environment, study="s", cycle=number, measurement_valid=valid)
        save(tmp_path / "results", result)
    (group,) = groups_of(tmp_path, pool=["driver_version"])
    assert (group.n_cycles, group.n_invalid, group.driver_version) == (2, 1, "550")
    (everything,) = groups_of(tmp_path, pool=["driver_version"], include_all=True)
    assert (everything.n_cycles, everything.driver_version) == (3, "mixed")


@pytest.mark.parametrize(("last_is_valid", "method"), [(True, "stein"), (False, "student_t")])
def test_steins_interval_stands_where_nothing_invalid_came_in(tmp_path: Path, last_is_valid: bool, method: str) -> None:
    metric = "output_tokens_per_second"
    digest = CONFIG.measurement_config_hash()
    pilot = PilotEstimate(experiment="a", measurement_config_hash=digest, mean=50.0, s=4.0, n_required=7)
    rule = AdaptiveCycles(metric=metric, half_width=0.05, confidence=0.95, min=5, max=30, pilot=[pilot], n=7)
    for number in range(1, 8):
        fields: dict[str, Any] = {
            metric: 48.0 + number,
            "measurement_valid": number < 7 or last_is_valid,
            "cycle": number,
        }
        save(tmp_path / "results", make_result(number, study="s", scheduling=Scheduling(adaptive=rule), **fields))
    (group,) = groups_of(tmp_path, include_all=True)
    assert (group.n_cycles, group.figures[metric].t_method) == (7, method)


def test_pooled_studies_keep_the_cycles_of_each(tmp_path: Path) -> None:
    for number, study in enumerate(("s", "t", "t"), 1):
        save(tmp_path / "results", make_result(number, energy_j=float(number), study=study, cycle=1))
    (group,) = groups_of(tmp_path, pool=["study"])
    assert (group.n_cycles, group.n_superseded) == (2, 1)
    assert group.figures["total_energy_j"].mean == 2.0


SIMULATED: dict[str, Any] = {
    "measurement_valid": False,
    "invalid_reasons": ["simulated_device"],
    "environment": {"simulated": True},
}


def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What ``warehouse campaign`` prints about everything below results."""
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
    capsys.readouterr()
    assert warehouse("campaign", *arguments, db=tmp_path / "w.duckdb") == 0
    return capsys.readouterr().out


def test_simulated_gpus_are_left_out_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        save(tmp_path / "results", make_result(number, environment={"simulated": False}, energy_j=1.0))
    save(tmp_path / "results", make_result(3, energy_j=1e6, **SIMULATED))
    text = shown(tmp_path, capsys)
    assert "2 cycles (0 invalid, 0 failed)" in text
    assert text.count("cycles (") == 1
    assert "1 cycle on simulated GPUs left out" in text
    everything = shown(tmp_path, capsys, "--all")
    assert "2 cycles (0 invalid, 0 failed)" in everything
    # Being simulated is told once, not again as being invalid.
    assert "1 cycle (0 invalid, 0 failed)" in everything
    assert [line.endswith("  simulated") for line in everything.splitlines() if "Test CPU" in line].count(True) == 1
    assert "left out" not in everything


def test_a_study_on_simulated_gpus_alone_is_not_an_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        save(tmp_path / "results", make_result(number, study="sim", **SIMULATED))
    save(tmp_path / "results", make_result(4, study="real"))
    (line,) = shown(tmp_path, capsys, "--study", "sim").splitlines()
    assert line.startswith("3 cycles on simulated GPUs left out")
    assert "simulated" not in shown(tmp_path, capsys, "--study", "real")
    assert "3 cycles (0 invalid, 0 failed)" in shown(tmp_path, capsys, "--study", "sim", "--all")


def test_a_simulated_cycle_that_is_invalid_besides_is_counted_as_invalid(tmp_path: Path) -> None:
    lost = SIMULATED | {"invalid_reasons": ["simulated_device", "gpu_lost"]}
    save(tmp_path / "results", make_result(1, **SIMULATED))
    save(tmp_path / "results", make_result(2, **lost))
    assert groups_of(tmp_path) == []
    (group,) = groups_of(tmp_path, include_all=True)
    assert (group.is_simulated, group.n_cycles, group.n_invalid) == (True, 2, 1)


def test_a_simulated_run_replaces_no_real_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "results", make_result(1, study="s", cycle=1))
    for number in (2, 3):
        save(tmp_path / "results", make_result(number, study="s", cycle=1, **SIMULATED))
    (group,) = groups_of(tmp_path)
    assert (group.n_cycles, group.n_superseded) == (1, 0)
    assert [group.n_cycles for group in groups_of(tmp_path, include_all=True)] == [1, 1]
    # The older of the simulated ones is replaced, so it is not left out for being simulated.
    assert "1 cycle on simulated GPUs left out" in shown(tmp_path, capsys)


def test_whether_it_was_simulated_was_not_always_recorded(tmp_path: Path) -> None:
    for number, simulated in ((1, None), (2, False)):
        save(tmp_path / "results", make_result(number, environment={"simulated": simulated}))
    (group,) = groups_of(tmp_path)
    assert group.n_cycles == 2


def test_the_view_says_what_counts_by_default(tmp_path: Path) -> None:
    fields: tuple[dict[str, Any], ...] = ({}, {"measurement_valid": False}, SIMULATED, {"measurement_valid": None})
    for number, changes in enumerate(fields, 1):
        save(tmp_path / "results", make_result(number, study="s", cycle=number, **changes))
    save(tmp_path / "results", make_result(5, study="s", cycle=1))
    groups_of(tmp_path)
    with reading(tmp_path / "w.duckdb", 1.0) as connection:
        counts = connection.execute("SELECT counts FROM runs ORDER BY start_time").fetchall()
    assert counts == [(False,), (False,), (False,), (True,), (True,)]


def bounded(number: int, energy_j: float | None, bound_j: float | None, **fields: Any) -> ExperimentResult:
    return make_result(number, energy_j=energy_j, energy_breakdown=EnergyBreakdown(bound_j=bound_j), **fields)


@pytest.mark.parametrize(
    ("cycles", "said"),
    [
        ([(100.0, 0.5), (100.0, 3.6), (1000.0, 9.0)], "meter bound +-3.6 % of the energy (largest of 3 cycles)"),
        ([(100.0, 0.8441)], "meter bound +-0.85 % of the energy (largest of 1 cycle)"),
        ([(100.0, 12.1), (100.0, None)], "meter bound +-13 % of the energy (largest of 1 of 2 cycles)"),
        ([(100.0, 250.0)], "meter bound +-250 % of the energy (largest of 1 cycle)"),
        ([(100.0, 0.0)], "meter bound +-0 % of the energy (largest of 1 cycle)"),
    ],
)
def test_the_bound_of_the_meter_stands_at_the_energy(
    cycles: list[tuple[float, float | None]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number, (energy_j, bound_j) in enumerate(cycles, 1):
        save(tmp_path / "results", bounded(number, energy_j, bound_j))
    # What does not count has no say.
    save(tmp_path / "results", bounded(9, 1.0, 1.0, measurement_valid=False))
    text = shown(tmp_path, capsys)
    assert said in text.splitlines()
    assert "the intervals do not hold it" in text


@pytest.mark.parametrize(("energy_j", "bound_j"), [(None, None), (100.0, None), (0.0, 1.0)])
def test_without_a_bound_nothing_is_said_of_it(
    energy_j: float | None, bound_j: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "results", bounded(1, energy_j, bound_j))
    assert "bound" not in shown(tmp_path, capsys)


def test_table_names_both_intervals_and_their_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for number, energy in enumerate((4.1, 4.3, 4.0), 1):
        result = make_result(number, energy_j=energy, seconds=2 + number / 100)
        save(tmp_path / "results", result.model_copy(update={"latency_stats": None}))
    groups_of(tmp_path)
    capsys.readouterr()
    assert warehouse("campaign", db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "95 % Student t" in text
    assert "95 % percentile bootstrap" in text
    assert "74 % at n = 3" in text
    assert f"config {CONFIG.measurement_config_hash()[:8]}" in text
    (energy_line,) = [line for line in text.splitlines() if "energy per output token" in line]
    assert "0.1378" in energy_line
    assert energy_line.count("[") == 2
    (ttft_line,) = [line for line in text.splitlines() if "TTFT mean" in line]
    assert ttft_line.split()[3:] == ["-", "-", "-", "-", "0"]


def test_nothing_to_show_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("campaign", db=tmp_path / "none.duckdb") == 0
    assert "warehouse ingest DIR" in capsys.readouterr().out


def test_an_unknown_study_is_the_same_line_with_near_names_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, study in enumerate(("nightly", "else"), start=1):
        save(tmp_path / "results", make_result(number, study=study))
    groups_of(tmp_path)
    db = tmp_path / "w.duckdb"
    for study, there in (("nighly", "did you mean nightly?"), ("0815", "there are else, nightly.")):
        for asked in (("campaign",), ("report", "-o", tmp_path / "r.html"), ("export", "-o", tmp_path / "lake")):
            assert warehouse(*asked, "--study", study, db=db) == 2
            assert f"there is no study '{study}' in {db}; {there}" in capsys.readouterr().err
