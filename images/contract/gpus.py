"""Which GPUs a process may use, as CUDA reads CUDA_VISIBLE_DEVICES. NVML itself ignores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from images.contract.job import GpuUnusable

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_NO_GPU = ("", "-1", "NoDevFiles")


def visible_gpus(uuids: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Those of `uuids` that CUDA_VISIBLE_DEVICES names, in its order, by index or by UUID or its start.

    As in CUDA, the list ends at the first entry that names no device. An index is taken in PCI order, as with
    CUDA_DEVICE_ORDER=PCI_BUS_ID; where GPUs of several models are mixed, name them by UUID.

    Raises:
        GpuUnusable: it names a MIG instance, which has no energy of its own, or nothing that is there.
    """
    setting = environment.get(VISIBLE_DEVICES)
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
    if uuids and not chosen and setting.strip() not in _NO_GPU:
        raise GpuUnusable(
            f"CUDA_VISIBLE_DEVICES is '{setting}', which names none of the {len(uuids)} GPUs here.",
            "Correct it; empty it to measure on the CPU.",
        )
    return chosen
