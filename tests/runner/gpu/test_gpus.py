"""Which GPUs a runner may use, as CUDA and Slurm say it, and how they are; on simulated GPUs."""

from __future__ import annotations

import os

import psutil
import pynvml
import pytest

from images.contract.gpus import visible_gpus
from images.contract.job import GpuUnusable
from runner.gpu.gpus import allocated_gpus, driver_version, every_gpu, list_processes, read_gpus
from tests.gpu_node.node import Node

UUIDS = ["GPU-aaa1", "GPU-aab2", "GPU-ccc3"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, UUIDS),
        ("", []),
        ("2,0", ["GPU-ccc3", "GPU-aaa1"]),
        ("GPU-ccc3", ["GPU-ccc3"]),
        ("GPU-c", ["GPU-ccc3"]),
        ("-1", []),
        ("1,-1,0", ["GPU-aab2"]),  # ends at the first that names none
        ("1,7,0", ["GPU-aab2"]),
    ],
)
def test_visible_devices(setting: str | None, expected: list[str]) -> None:
    environment = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    assert visible_gpus(UUIDS, environment) == expected


@pytest.mark.parametrize("setting", ["GPU-aa", "9", "GPU-beef", "foo"])  # the first one names two
def test_a_setting_that_names_nothing_is_not_taken_for_the_cpu(setting: str) -> None:
    with pytest.raises(GpuUnusable, match=f"CUDA_VISIBLE_DEVICES is '{setting}'"):
        visible_gpus(UUIDS, {"CUDA_VISIBLE_DEVICES": setting})
    assert visible_gpus([], {"CUDA_VISIBLE_DEVICES": setting}) == []


def test_a_part_of_a_gpu_is_refused() -> None:
    with pytest.raises(GpuUnusable, match="no energy of its own"):
        visible_gpus(UUIDS, {"CUDA_VISIBLE_DEVICES": "MIG-1234"})


def indices(node: Node, uuids: list[str]) -> list[int]:
    return [[gpu.uuid for gpu in node.gpus].index(uuid) for uuid in uuids]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, [3, 1]),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "2,5"}, [2, 5]),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "4-6,1"}, [1, 4, 5, 6]),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "gpu:0,gpu:3"}, [0, 3]),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "gpu:a100:3(IDX:0-1,7)"}, [0, 1, 7]),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "2,5", "SLURM_STEP_GPUS": "5"}, [5]),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "2,5", "CUDA_VISIBLE_DEVICES": "0"}, [0]),  # knowingly
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": ""}, []),
        ({"SLURM_JOB_GPUS": "2"}, [0, 1, 2, 3, 4, 5, 6, 7]),  # no job
    ],
)
def test_the_runner_stays_inside_what_it_was_given(
    gpu_node: Node, environment: dict[str, str], expected: list[int]
) -> None:
    assert indices(gpu_node, allocated_gpus(environment)) == expected
    assert indices(gpu_node, every_gpu()) == list(range(8))


def test_slurm_names_device_files_not_the_drivers_order(gpu_node: Node) -> None:
    for index, gpu in enumerate(gpu_node.gpus):
        gpu.minor = 7 - index
    assert indices(gpu_node, allocated_gpus({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0,2"})) == [5, 7]


@pytest.mark.parametrize("minors", [[2, 6], [0, 1]], ids=["as on the host", "numbered anew"])
def test_what_slurms_cgroup_shows_is_ours_however_it_is_numbered(gpu_node: Node, minors: list[int]) -> None:
    shown = [gpu_node.gpus[2], gpu_node.gpus[6]]
    gpu_node.show_only([gpu.uuid for gpu in shown])
    for gpu, minor in zip(shown, minors, strict=True):
        gpu.minor = minor
    assert indices(gpu_node, allocated_gpus({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "2,6"})) == [2, 6]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (None, "Slurm job 7 was given no GPU"),
        ("", "Slurm job 7 was given no GPU"),
        ("NoDevFiles", "Slurm job 7 was given no GPU"),
        ("two", "SLURM_JOB_GPUS is 'two', which is no list of GPU numbers"),
        ("7,8", "only 1 of these GPUs can be seen here"),
    ],
)
def test_a_slurm_job_without_gpus_of_its_own_gets_none_and_is_told_what_to_do(
    gpu_node: Node, setting: str | None, message: str
) -> None:
    environment = {"SLURM_JOB_ID": "7"} | ({} if setting is None else {"SLURM_JOB_GPUS": setting})
    with pytest.raises(GpuUnusable, match=message) as caught:
        allocated_gpus(environment)
    assert "Set CUDA_VISIBLE_DEVICES" in caught.value.advice


def test_a_driver_that_is_there_but_broken_is_not_taken_for_the_cpu(gpu_node: Node) -> None:
    gpu_node.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    for call in (lambda: allocated_gpus({}), every_gpu, lambda: read_gpus(["GPU-1"])):
        with pytest.raises(GpuUnusable, match="the NVIDIA driver does not answer"):
            call()
    assert driver_version() is None


def test_without_a_driver_there_are_no_gpus_and_no_error(gpu_node: Node) -> None:
    gpu_node.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert allocated_gpus({}) == allocated_gpus({"SLURM_JOB_ID": "7"}) == every_gpu() == []
    assert read_gpus([]) == []
    assert driver_version() is None


def test_a_gpu_says_how_it_is(gpu_node: Node) -> None:
    gpu = gpu_node.gpus[3]
    gpu.memory_total, gpu.memory_reserved, gpu.memory_used = 80_000_000_000, 500_000_000, 1_500_000_000
    gpu.temperature(61.0)
    gpu.power_limit_mw = 350_500
    gpu.processes = [(os.getpid(), 2**30)]

    state, other = read_gpus([gpu.uuid, gpu_node.gpus[0].uuid])

    assert (state.uuid, state.name) == (gpu.uuid, "SIMULATED GPU 3")
    assert (state.memory_total_mb, state.memory_used_mb) == (80_000.0, 1_500.0)
    assert (state.temperature_c, state.power_limit_w) == (61.0, 350.5)
    assert state.processes == list_processes([gpu.uuid])
    assert state.processes == [f"{psutil.Process().name()} (pid {os.getpid()}) on {gpu.uuid}"]
    assert (other.uuid, other.processes) == (gpu_node.gpus[0].uuid, [])
    assert driver_version() == "999.00.01-simulated"


def test_what_a_gpu_does_not_say_is_none(gpu_node: Node) -> None:
    gpu_node.gpus[1].power_limit_mw = 0

    state, other = read_gpus([gpu.uuid for gpu in gpu_node.gpus[1:3]])

    assert state.power_limit_w is None
    assert (state.name, other.power_limit_w) == ("SIMULATED GPU 1", 700.0)


def test_a_gpu_that_is_lost_is_named_and_the_others_are_as_good_as_ever(gpu_node: Node) -> None:
    lost = gpu_node.gpus[2]
    lost.fault("gpu_lost", from_s=0.0)

    assert indices(gpu_node, allocated_gpus({})) == indices(gpu_node, every_gpu()) == [0, 1, 3, 4, 5, 6, 7]
    with pytest.raises(GpuUnusable, match=f"{lost.uuid} has fallen off the bus"):
        read_gpus([gpu_node.gpus[0].uuid, lost.uuid])
    with pytest.raises(GpuUnusable, match="GPU-gone is not on this host"):
        read_gpus(["GPU-gone"])
    assert len(read_gpus([gpu_node.gpus[0].uuid])) == 1
