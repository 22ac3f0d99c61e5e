"""`runner run --launcher local` on a simulated GPU node: which GPUs it hands out, and what it sees on them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from images.contract import files
from images.contract.job import ExitCode
from images.contract.process import load_processes
from images.contract.result import ExperimentResult
from tests.images.stub.simulated import Machine, ranks_of, watts_of
from tests.runner.command import Ran, failures, leftovers, results, runner
from tests.runner.sample_studies import written

QUICK = {
    "workload.n_prompts": "4",
    "workload.max_output_tokens": "4",
    "stub.window_s": "0.5",
    "measurement.baseline.enabled": "false",
}


@pytest.fixture
def machine(gpu_library: Path, tmp_path: Path) -> Machine:
    return Machine(tmp_path, gpu_library)


def run(machine: Machine, output: Path, *arguments: str, visible: str | None = None, **settings: str) -> Ran:
    """One cycle; `settings` with two underscores for a dot."""
    chosen = QUICK | {name.replace("__", "."): value for name, value in settings.items()}
    options = [part for path, value in chosen.items() for part in ("--set", f"{path}={value}")]
    environment = machine.environment() | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    command = [
        "run",
        "--backend",
        "stub",
        "--launcher",
        "local",
        "--cycles",
        "1",
        "--retries",
        "0",
        "--output",
        str(output),
    ]
    return runner(*command, *options, *arguments, env=environment)


def only_result(output: Path) -> ExperimentResult:
    (result,) = results(output)
    return result


def uuids_of(result: ExperimentResult) -> list[str] | None:
    assert result.environment_snapshot is not None
    return result.environment_snapshot.gpu_uuids


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [
        (None, {}, [0]),
        ("5,3,1", {"num_processes": "2"}, [5, 3]),
        ("2,7", {"gpus_per_process": "2"}, [2, 7]),
    ],
)
def test_an_experiment_gets_as_many_gpus_as_it_needs_and_their_energy(
    machine: Machine, tmp_path: Path, visible: str | None, settings: dict[str, str], expected: list[int]
) -> None:
    ran = run(machine, tmp_path / "out", visible=visible, **settings)

    assert ran.code == 0, ran.stderr
    result = only_result(tmp_path / "out")
    assert uuids_of(result) == [machine.node.gpus[index].uuid for index in expected]
    watts = sum(watts_of(index) for index in expected)
    assert result.total_energy_j == pytest.approx(watts * result.total_inference_time_sec, rel=0.015)
    assert result.measurement_valid is False
    assert result.invalid_reasons == ["simulated_device"]
    assert leftovers(tmp_path / "out") == []


def test_without_gpus_no_energy_is_measured_though_there_are_some(machine: Machine, tmp_path: Path) -> None:
    ran = run(machine, tmp_path / "out", "--gpus", "none")

    assert ran.code == 0, ran.stderr
    result = only_result(tmp_path / "out")
    assert uuids_of(result) is None
    assert (result.total_energy_j, result.energy_source, result.timeseries) == (None, "none", None)
    assert any("no_energy_meter: " in text and "given no GPU" in text for text in result.measurement_warnings)


def test_a_process_of_somebody_else_makes_the_energy_invalid_and_is_named(machine: Machine, tmp_path: Path) -> None:
    gpu = machine.node.gpus[4]
    gpu.processes = [(os.getpid(), 2**30)]
    name = psutil.Process().name()

    assert run(machine, tmp_path / "beside", visible="3").code == 0
    assert only_result(tmp_path / "beside").invalid_reasons == ["simulated_device"], "its GPU is not ours"
    experiments = [{"name": "two", "num_processes": 2}]
    study = written(tmp_path, experiments=experiments, stub={"window_s": 0.5}, cool_down={"busy_timeout_s": 2.0})
    ran = runner("run", study, "--output", tmp_path / "on", env=machine.environment() | {"CUDA_VISIBLE_DEVICES": "3,4"})

    assert ran.code == 0, ran.stderr
    assert f"measured all the same: foreign_process: {name} (pid {os.getpid()}) on {gpu.uuid}" in ran.stderr
    result = only_result(tmp_path / "on")
    assert result.measurement_valid is False
    assert result.invalid_reasons == ["foreign_process", "simulated_device"]
    (warning,) = [text for text in result.measurement_warnings if text.startswith("foreign_process: ")]
    assert f"{name} (pid {os.getpid()}) on {gpu.uuid}" in warning
    assert result.total_energy_j == pytest.approx(
        (watts_of(3) + watts_of(4)) * result.total_inference_time_sec, rel=0.015
    )


def test_too_few_gpus_are_told_before_any_job_starts(machine: Machine, tmp_path: Path) -> None:
    ran = run(machine, tmp_path / "out", visible="0,1", num_processes="3")

    assert ran.code == ExitCode.GPU_UNUSABLE
    assert ran.is_one_clear_line(), ran.stderr
    assert "needs 3 GPUs, and 2 can be used here" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_has_fallen_off_the_bus_is_passed_over(machine: Machine, tmp_path: Path) -> None:
    machine.node.gpus[0].fault("gpu_lost", from_s=0.0)
    ran = run(machine, tmp_path / "out")

    assert ran.code == 0, ran.stderr
    assert uuids_of(only_result(tmp_path / "out")) == [machine.node.gpus[1].uuid]


def test_a_process_killed_in_mid_window_leaves_the_others_results_in_raw(machine: Machine, tmp_path: Path) -> None:
    output = tmp_path / "out"
    ran = run(machine, output, num_processes="2", stub__fail="killed", stub__rank="1")

    assert ran.code == ExitCode.INCOMPLETE_PROCESSES
    (failure,) = failures(output)
    assert "process 1 was killed by SIGKILL." in failure.message
    (folder,) = (output / files.RAW_FOLDER).iterdir()
    assert folder.name == failure.experiment_id
    assert f"kept in {folder}" in ran.stderr.replace("\n", "")
    (survivor,) = load_processes(folder)
    energy_j = survivor.record.raw.energy_metrics.total_energy_joules
    assert energy_j == pytest.approx(watts_of(0) * survivor.record.window_s, rel=0.015)
    assert leftovers(output) == []
    assert ranks_of(tmp_path) == {}


@pytest.mark.parametrize("hang", ["interruptible", "uninterruptible"])
def test_a_timeout_ends_all_processes_of_a_job(machine: Machine, tmp_path: Path, hang: str) -> None:
    ran = run(machine, tmp_path / "out", "--timeout", "3", num_processes="2", stub__hang=hang, stub__rank="1")

    assert ran.code == ExitCode.MEASUREMENT_FAILED
    assert [one.error_class for one in failures(tmp_path / "out")] == ["TimedOut"]
    assert leftovers(tmp_path / "out") == []
    assert ranks_of(tmp_path) == {}
