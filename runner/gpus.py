"""The GPUs of this host, by UUID, as far as this process may use them, and who else is on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pynvml

from images.contract.config import ExperimentConfig
from images.contract.gpus import visible_gpus
from images.contract.job import GpuUnusable

_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_ADVICE = "Repair that, or measure on the CPU with --gpus none."


def choose_gpus(config: ExperimentConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """UUIDs of as many GPUs as the experiment needs, the first ones; empty on a host without a driver.

    Raises:
        GpuUnusable: there are too few, or `list_gpus` says so.
    """
    needed = config.num_processes * config.gpus_per_process
    there = list_gpus(environment)
    if 0 < len(there) < needed:
        raise GpuUnusable(
            f"num_processes x gpus_per_process needs {needed} GPUs, and {len(there)} can be used here.",
            "Lower them, widen CUDA_VISIBLE_DEVICES, or measure on the CPU with --gpus none.",
        )
    return there[:needed]


def list_processes(uuids: Sequence[str]) -> list[str]:
    """Compute processes on these GPUs, in words; only the host sees those of others. Empty where nobody can tell."""
    if not uuids:
        return []
    found = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        for uuid in uuids:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            found += [
                f"{_command(process.pid)} (pid {process.pid}) on {uuid}"
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
            ]
    except pynvml.NVMLError:
        return found
    finally:
        pynvml.nvmlShutdown()
    return found


def _uuid(index: int) -> str | None:
    """None of a GPU that has fallen off the bus; the others are as good as ever."""
    try:
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
    except pynvml.NVMLError_GpuIsLost:
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """UUIDs of the host's GPUs inside CUDA_VISIBLE_DEVICES; empty on a host without a driver.

    Raises:
        GpuUnusable: there is a driver, but it does not answer, or the setting names a part of a GPU. A CPU
            measurement in its place would mislead.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in _NO_DRIVER:
            return []
        raise GpuUnusable(f"the NVIDIA driver does not answer ({error}).", _ADVICE) from None
    try:
        named = [_uuid(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return visible_gpus([uuid for uuid in named if uuid is not None], environment)
    except pynvml.NVMLError as error:
        raise GpuUnusable(f"the NVIDIA driver does not name its GPUs ({error}).", _ADVICE) from None
    finally:
        pynvml.nvmlShutdown()
