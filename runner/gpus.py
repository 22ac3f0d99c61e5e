"""The GPUs of this host, by UUID, as far as this process may use them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pynvml

from images.contract.job import GpuUnusable

_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_ADVICE = "Repair that, or measure on the CPU with --gpus none."


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
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return visible([pynvml.nvmlDeviceGetUUID(handle) for handle in handles], environment)
    except pynvml.NVMLError as error:
        raise GpuUnusable(f"the NVIDIA driver does not name its GPUs ({error}).", _ADVICE) from None
    finally:
        pynvml.nvmlShutdown()


def visible(uuids: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Those of `uuids` that CUDA_VISIBLE_DEVICES names, in its order, by index or by UUID or its start.

    As in CUDA, the list ends at the first entry that names no device. An index is taken in PCI order, as with
    CUDA_DEVICE_ORDER=PCI_BUS_ID; where GPUs of several models are mixed, name them by UUID.

    Raises:
        GpuUnusable: a MIG instance, which has no energy of its own.
    """
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.startswith("MIG-"):
            raise GpuUnusable(
                f"CUDA_VISIBLE_DEVICES names the MIG instance {entry}, which has no energy of its own.",
                "Turn MIG off, or name a whole GPU.",
            )
        if entry.isdigit():
            matches = list(uuids[int(entry) : int(entry) + 1])
        else:
            matches = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
        if len(matches) != 1:
            break
        chosen.append(matches[0])
    return chosen
