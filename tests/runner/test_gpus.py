"""CUDA_VISIBLE_DEVICES bounds what the runner uses, as CUDA itself reads it."""

from __future__ import annotations

import pytest

from images.contract.gpus import visible_gpus
from images.contract.job import GpuUnusable
from runner.gpus import list_gpus

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


def test_no_driver_is_no_gpus_and_no_error() -> None:
    assert list_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
