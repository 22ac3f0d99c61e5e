"""The GPUs of this host, by UUID, as far as this process may use them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pynvml


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """UUIDs of the host's GPUs inside CUDA_VISIBLE_DEVICES; empty without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return visible([pynvml.nvmlDeviceGetUUID(handle) for handle in handles], environment)
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def visible(uuids: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Those of `uuids` that CUDA_VISIBLE_DEVICES names, in its order, by index or by UUID or its start.

    As in CUDA, the list ends at the first entry that names no device.
    """
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isdigit():
            matches = list(uuids[int(entry) : int(entry) + 1])
        else:
            matches = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
        if len(matches) != 1:
            break
        chosen.append(matches[0])
    return chosen
