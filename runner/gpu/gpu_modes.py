"""Modes of GPUs that decide whether they can be measured; looked at by `runner doctor` only, and never set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pynvml

from images.contract.job import GpuUnusable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GpuModes:
    """None where the driver does not say."""

    uuid: str
    mig: bool | None
    persistence: bool | None


def read_modes(uuids: Sequence[str]) -> list[GpuModes]:
    """
    Raises:
        GpuUnusable: one is lost or not there, or the driver does not answer.
    """
    if not uuids:
        return []
    try:
        pynvml.nvmlInit()
        try:
            return [_read(uuid) for uuid in uuids]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise GpuUnusable(f"the modes of the GPUs cannot be read ({error}).", "Compare with nvidia-smi.") from None


def _read(uuid: str) -> GpuModes:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    mig = _ask(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    persistence = _ask(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle))
    return GpuModes(uuid, None if mig is None else bool(mig), None if persistence is None else bool(persistence))


def _ask(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except pynvml.NVMLError_NotSupported:
        return None
