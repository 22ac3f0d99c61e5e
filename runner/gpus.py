"""The GPUs of this host, by UUID, as far as this process may use them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pynvml

from images.contract.gpus import visible_gpus
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
        return visible_gpus([pynvml.nvmlDeviceGetUUID(handle) for handle in handles], environment)
    except pynvml.NVMLError as error:
        raise GpuUnusable(f"the NVIDIA driver does not name its GPUs ({error}).", _ADVICE) from None
    finally:
        pynvml.nvmlShutdown()
