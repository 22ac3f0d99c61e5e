"""The GPUs of this host, by UUID: which of them this process may use, how they are, and who else is on them.

Nothing is ever set on a GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pynvml

from images.contract.gpus import VISIBLE_DEVICES, visible_gpus
from images.contract.job import GpuUnusable

T = TypeVar("T")

_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_UNKNOWN)
_ADVICE = "Repair that, or measure on the CPU with --gpus none."

_SLURM_JOB = "SLURM_JOB_ID"
# A step may have fewer than its job.
_SLURM_GPUS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_SLURM_ADVICE = "Set CUDA_VISIBLE_DEVICES to the GPUs that you may use, or measure on the CPU with --gpus none."


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU at one moment; None where the driver does not say."""

    uuid: str
    name: str | None
    memory_total_mb: float | None
    """MB, 10^6 bytes."""
    memory_used_mb: float | None
    """Held by processes, without what the driver reserves (MB, 10^6 bytes)."""
    temperature_c: float | None
    power_limit_w: float | None
    """The enforced limit: the lowest of all that apply (W)."""
    processes: list[str] | None
    """As `list_processes` words them."""


@dataclass(frozen=True, slots=True)
class _Found:
    uuid: str
    number: int
    """N of /dev/nvidiaN. Slurm names GPUs by it; it need not be the driver's index, and a cgroup does not change it."""


def allocated_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """UUIDs of the GPUs that this process may use; empty on a host without a driver.

    CUDA_VISIBLE_DEVICES decides where it is set. Otherwise a Slurm job has what Slurm gave it, and everybody else
    all GPUs of the host.

    Raises:
        GpuUnusable: there is a driver, but it does not answer; the setting names a part of a GPU or nothing that
            is there; the Slurm job has no GPU. A CPU measurement in its place would mislead.
    """
    found = _find()
    if found is None:
        return []
    if _SLURM_JOB in environment and VISIBLE_DEVICES not in environment:
        return _given_by_slurm(found, environment)
    return visible_gpus([gpu.uuid for gpu in found], environment)


def every_gpu() -> list[str]:
    """UUIDs of all GPUs of the host that answer, whatever the environment says; empty without a driver.

    Raises:
        GpuUnusable: there is a driver, but it does not answer.
    """
    return [gpu.uuid for gpu in _find() or []]


def read_gpus(uuids: Sequence[str]) -> list[GpuState]:
    """How these GPUs are now, in this order.

    Raises:
        GpuUnusable: one is lost or not there, or the driver does not answer.
    """
    if not uuids:
        return []
    if not _start():
        raise GpuUnusable(f"{uuids[0]} cannot be read: there is no NVIDIA driver any more.", _ADVICE)
    try:
        return [_read(uuid) for uuid in uuids]
    finally:
        pynvml.nvmlShutdown()


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
            found += _processes(uuid, pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError:
        return found
    finally:
        pynvml.nvmlShutdown()
    return found


def driver_version() -> str | None:
    """None where there is no driver, or it does not answer."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _start() -> bool:
    """False without a driver. Each True wants one nvmlShutdown."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in _NO_DRIVER:
            return False
        raise GpuUnusable(f"the NVIDIA driver does not answer ({error}).", _ADVICE) from None
    return True


def _find() -> list[_Found] | None:
    """All that answer, in the driver's order; None without a driver."""
    if not _start():
        return None
    try:
        found = [_identify(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise GpuUnusable(f"the NVIDIA driver does not name its GPUs ({error}).", _ADVICE) from None
    finally:
        pynvml.nvmlShutdown()
    return [gpu for gpu in found if gpu is not None]


def _identify(index: int) -> _Found | None:
    """None of a GPU that has fallen off the bus; the others are as good as ever."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError_GpuIsLost:
        return None
    try:
        return _Found(uuid, int(pynvml.nvmlDeviceGetMinorNumber(handle)))
    except pynvml.NVMLError:
        return _Found(uuid, index)


def _given_by_slurm(found: Sequence[_Found], environment: Mapping[str, str]) -> list[str]:
    name = next((name for name in _SLURM_GPUS if environment.get(name)), _SLURM_GPUS[-1])
    setting = environment.get(name, "")
    numbers = _device_numbers(setting)
    if numbers is None:
        raise GpuUnusable(f"{name} is '{setting}', which is no list of GPU numbers.", _SLURM_ADVICE)
    if not numbers:
        raise GpuUnusable(
            f"Slurm job {environment[_SLURM_JOB]} was given no GPU.", f"Ask for some with --gpus. {_SLURM_ADVICE}"
        )
    # Where a cgroup shows the job's GPUs only, they may be numbered anew, and need no name.
    mine = [gpu.uuid for gpu in found if gpu.number in numbers or len(found) == len(numbers)]
    if len(mine) < len(numbers):
        raise GpuUnusable(f"{name} is '{setting}', and only {len(mine)} of these GPUs can be seen here.", _SLURM_ADVICE)
    return mine


def _device_numbers(setting: str) -> set[int] | None:
    """Of `0,2`, `0-3`, `gpu:0,gpu:1` and `gpu:a100:2(IDX:0-1)`; None if it is something else."""
    if setting in ("", "NoDevFiles"):
        return set()
    listed = ",".join(re.findall(r"\(IDX:([\d,-]+)\)", setting)) or setting
    numbers: set[int] = set()
    for entry in listed.split(","):
        match = re.fullmatch(r"(?:gpu:)?(\d+)(?:-(\d+))?", entry.strip())
        if match is None:
            return None
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers


def _read(uuid: str) -> GpuState:
    def ask(call: Callable[[], T]) -> T | None:
        try:
            return call()
        except pynvml.NVMLError as error:
            if error.value in _LOST:
                raise GpuUnusable(
                    f"{uuid} has fallen off the bus.", "Check dmesg; the machine needs a restart."
                ) from None
            return None

    handle = ask(lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid))
    if handle is None:
        raise GpuUnusable(f"{uuid} is not on this host.", "Compare with nvidia-smi -L.")
    memory = ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2))
    temperature = ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    limit_mw = ask(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return GpuState(
        uuid=uuid,
        name=ask(lambda: str(pynvml.nvmlDeviceGetName(handle))),
        memory_total_mb=None if memory is None else memory.total / 1e6,
        memory_used_mb=None if memory is None else memory.used / 1e6,
        temperature_c=None if temperature is None else float(temperature),
        power_limit_w=None if not limit_mw else limit_mw / 1e3,
        processes=ask(lambda: _processes(uuid, handle)),
    )


def _processes(uuid: str, handle: object) -> list[str]:
    running = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    return [f"{_command(process.pid)} (pid {process.pid}) on {uuid}" for process in running]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"
