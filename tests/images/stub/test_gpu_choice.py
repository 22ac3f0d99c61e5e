"""Which GPUs a job takes and measures, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest

from images.contract.job import ExitCode
from images.contract.result import ExperimentResult
from tests.images.stub.jobs import Ended, run
from tests.images.stub.simulated import Machine, on_gpus, ranks_of, wait_until, watts_of

NVML = {"energy": "nvml"}


def _result(ended: Ended) -> ExperimentResult:
    assert ended.code == 0, ended.stderr
    return ExperimentResult.from_json(ended.directory)


def _refused(ended: Ended, code: ExitCode) -> str:
    """The one line of a job that refused to start."""
    assert ended.code == ended.failure.exit_code == code, ended.stderr
    (line,) = ended.errors
    return line


def _warning(result: ExperimentResult, code: str) -> str:
    (found,) = [text for text in result.measurement_warnings if text.startswith(f"{code}: ")]
    return found


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0]), ("6", [6]), ("{uuid3}", [3]), ("7,2", [7]), ("{uuid5},1", [5]), ("3,99,1", [3])],
)
def test_without_a_context_the_first_visible_gpu_is_measured_and_no_other(
    machine: Machine, tmp_path: Path, visible: str | None, expected: list[int]
) -> None:
    uuids = {f"uuid{gpu.index}": gpu.uuid for gpu in machine.node.gpus}
    setting = None if visible is None else visible.format(**uuids)
    result = _result(machine.start(tmp_path / "job", on_gpus(measurement=NVML), visible=setting).end())

    assert result.environment_snapshot is not None
    assert result.environment_snapshot.gpu_uuids == [machine.node.gpus[index].uuid for index in expected]
    assert result.environment_snapshot.gpu_names == [f"SIMULATED GPU {index}" for index in expected]
    watts = sum(watts_of(index) for index in expected)
    assert result.total_energy_j == pytest.approx(watts * result.total_inference_time_sec, rel=0.03)


def test_two_gpus_of_one_process_are_measured_in_their_order(machine: Machine, tmp_path: Path) -> None:
    result = _result(machine.start(tmp_path / "job", on_gpus(gpus_per_process=2), visible="4,1,6").end())

    seconds = result.total_inference_time_sec
    assert result.energy_per_device_j == pytest.approx([watts_of(4) * seconds, watts_of(1) * seconds], rel=0.03)


def test_a_context_decides_and_not_what_is_visible(machine: Machine, tmp_path: Path) -> None:
    context = {"gpu_uuids": [machine.node.gpus[2].uuid]}
    result = _result(machine.start(tmp_path / "job", on_gpus(), context=context, visible="5").end())

    assert result.total_energy_j == pytest.approx(watts_of(2) * result.total_inference_time_sec, rel=0.03)


@pytest.mark.parametrize(
    ("visible", "context", "says"),
    [
        ("", None, "no GPU is visible to the job"),
        (None, {"gpu_uuids": []}, "the job was given no GPU"),
    ],
)
def test_a_job_without_a_gpu_has_no_energy_and_says_why(
    machine: Machine, tmp_path: Path, visible: str | None, context: dict[str, Any] | None, says: str
) -> None:
    result = _result(machine.start(tmp_path / "job", on_gpus(), context=context, visible=visible).end())

    _has_no_energy(result, says)


def test_without_a_driver_there_is_no_energy_and_asking_for_it_is_refused(tmp_path: Path) -> None:
    for name in ("auto", "nvml"):
        (tmp_path / name).mkdir()
    here = {"GPU_NODE_FILE": str(tmp_path / "none"), "LD_LIBRARY_PATH": ""}

    _has_no_energy(_result(run(tmp_path / "auto", on_gpus(), env=here)), "there is no NVIDIA driver")
    line = _refused(run(tmp_path / "nvml", on_gpus(measurement=NVML), env=here), ExitCode.GPU_UNUSABLE)
    assert "measurement.energy is nvml, but there is no NVIDIA driver." in line


def test_a_driver_that_denies_access_is_told_apart_from_none(machine: Machine, tmp_path: Path) -> None:
    machine.node.init_error = pynvml.NVML_ERROR_NO_PERMISSION
    _has_no_energy(_result(machine.start(tmp_path / "auto", on_gpus()).end()), "Insufficient Permissions")
    ended = machine.start(tmp_path / "nvml", on_gpus(measurement=NVML)).end()
    assert "but the NVIDIA driver says: Insufficient Permissions" in _refused(ended, ExitCode.GPU_UNUSABLE)


def test_a_device_that_denies_every_reading_is_not_metered_as_zero(machine: Machine, tmp_path: Path) -> None:
    machine.node.gpus[0].fault("no_permission", from_s=0.0)
    _has_no_energy(_result(machine.start(tmp_path / "auto", on_gpus()).end()), "")
    line = _refused(machine.start(tmp_path / "nvml", on_gpus(measurement=NVML)).end(), ExitCode.GPU_UNUSABLE)
    assert "measurement.energy is nvml, but" in line


def test_mig_has_no_energy_of_its_own_and_is_refused(machine: Machine, tmp_path: Path) -> None:
    machine.node.gpus[1].mig = True
    split = _refused(machine.start(tmp_path / "split", on_gpus(), visible="1").end(), ExitCode.GPU_UNUSABLE)
    assert f"{machine.node.gpus[1].uuid} is split by MIG" in split
    part = _refused(machine.start(tmp_path / "part", on_gpus(), visible="MIG-1/2").end(), ExitCode.GPU_UNUSABLE)
    assert "names the MIG instance MIG-1/2" in part
    _result(machine.start(tmp_path / "other", on_gpus(), visible="2").end())
    unmetered = _result(machine.start(tmp_path / "none", on_gpus(measurement={"energy": "none"}), visible="1").end())
    _has_no_energy(unmetered, "measurement.energy is none")


def test_two_processes_are_never_given_the_same_gpu(machine: Machine, tmp_path: Path) -> None:
    uuid = machine.node.gpus[3].uuid
    for name, measurement in (("metered", {}), ("unmetered", {"energy": "none"})):
        document = on_gpus(num_processes=2, measurement=measurement)
        ended = machine.start(tmp_path / name, document, context={"gpu_uuids": [uuid, uuid]}).end()
        assert "is given to the job twice. Give every process GPUs of its own." in _refused(
            ended, ExitCode.GPU_UNUSABLE
        )


def test_too_few_gpus_are_refused_before_anything_is_loaded(machine: Machine, tmp_path: Path) -> None:
    document = on_gpus(num_processes=2, gpus_per_process=2, stub={"load_s": 60.0})
    ended = machine.start(tmp_path / "job", document, visible="0,1,2").end(timeout_s=30)
    line = _refused(ended, ExitCode.GPU_UNUSABLE)
    assert "num_processes x gpus_per_process needs 4 GPUs, and the job has 3." in line


@pytest.mark.parametrize(("visible", "expected"), [("6,4", [6, 4]), (None, [0, 1]), ("", [None, None])])
def test_processes_whose_energy_is_not_measured_still_work_on_gpus_of_their_own(
    machine: Machine, tmp_path: Path, visible: str | None, expected: list[int | None]
) -> None:
    document = on_gpus(num_processes=2, measurement={"energy": "none"})
    job = machine.start(tmp_path / "job", document, visible=visible)
    wait_until(lambda: len(ranks_of(job.output)) == 2)
    seen = {index: process.environ()["CUDA_VISIBLE_DEVICES"] for index, process in ranks_of(job.output).items()}
    result = _result(job.end())

    assert seen == {index: "" if gpu is None else machine.node.gpus[gpu].uuid for index, gpu in enumerate(expected)}
    _has_no_energy(result, "measurement.energy is none")


def test_more_processes_than_requests_are_refused_in_one_line(machine: Machine, tmp_path: Path) -> None:
    document = on_gpus({"n_prompts": 2}, num_processes=3, measurement={"baseline": {"enabled": True}})
    ended = machine.start(tmp_path / "job", document).end(timeout_s=20)
    line = _refused(ended, ExitCode.CONFIG_INVALID)
    assert "workload.n_prompts (2) is below num_processes (3)" in line


def _has_no_energy(result: ExperimentResult, says: str) -> None:
    """Unmeasured everywhere, never 0, with one warning that says why; and the rest is as good as ever."""
    warning = _warning(result, "no_energy_meter")
    assert says in warning
    measured = [result.total_energy_j, result.energy_per_output_token_j, result.energy_adjusted_j]
    assert [*measured, result.baseline_power_w, result.energy_per_device_j, result.timeseries] == [None] * 6
    assert result.energy_source == "none"
    assert set(result.invalid_reasons) <= {"simulated_device"}
    assert result.output_tokens
