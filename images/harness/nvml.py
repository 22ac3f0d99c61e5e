"""GPUs as NVML sees them: found by UUID, read in physical units, errors told apart.

The only module of the harness that imports pynvml. NVML ignores CUDA_VISIBLE_DEVICES, so nothing here is
ever found by its index.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pynvml

from images.contract.gpus import visible_gpus
from images.contract.job import GpuUnusable
from images.contract.parts import PowerMethod

T = TypeVar("T")

SIMULATED_PREFIX = "SIMULATED"
THROTTLE_REASONS = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "hw_power_brake",
}
"""Clock event reasons that slow a busy GPU down; idling and asked-for clocks are none."""

_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_UNKNOWN)
_ENERGY = pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
_INSTANT = pynvml.NVML_FI_DEV_POWER_INSTANT
_SCOPE_GPU = 0  # on superchips scope 1 is the whole module
_ABSURD_OVER_LIMIT = 2.0


class MeterUnavailable(Exception):
    """There is nothing that could measure energy; the text says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counter and power of one device at one moment; NaN where they could not be read.

    Attributes:
        time_s: middle of the call, on the clock that was given.
        energy_j: since the driver was loaded (J).
    """

    time_s: float
    energy_j: float
    power_w: float


@dataclass(frozen=True, slots=True)
class State:
    """The rest of what is sampled; NaN where it could not be read, and no reasons then."""

    temperature_c: float
    sm_clock_mhz: float
    utilisation_percent: float
    reasons: int


@dataclass(frozen=True, slots=True)
class Properties:
    """What does not change while a job runs; None where the device does not say."""

    name: str
    compute_capability: tuple[int, int] | None
    power_limit_w: float | None
    sm_clock_mhz: float | None
    ecc_enabled: bool | None
    persistence_mode: bool | None
    mig_mode: bool | None

    @property
    def simulated(self) -> bool:
        return self.name.startswith(SIMULATED_PREFIX)


class Device:
    """One GPU. A reading that fails is NaN; a device that is gone stays `lost`."""

    def __init__(self, uuid: str, handle: object, now_s: Callable[[], float]) -> None:
        self.uuid = uuid
        self.lost = False
        self._handle = handle
        self._now_s = now_s
        self.properties = self._read_properties()
        self.processes_at_start = frozenset(self.processes())
        self._absurd_w = _ABSURD_OVER_LIMIT * (self.properties.power_limit_w or math.inf)
        counter, instant = self._fields()
        self._fields_answer = not (math.isnan(counter) and math.isnan(instant))
        self._instant = self._plausible(instant)
        self._counter_call = math.isnan(counter) and not math.isnan(self._counter())
        self.power_scope = "gpu" if self._instant else None
        self.power_method: PowerMethod | None = None
        if self._instant or self._plausible(self._plain_power()):
            self.power_method = "instant" if self._instant or not self._averages() else "average_1s"
        self.has_counter = self._counter_call or not math.isnan(counter)

    def read(self) -> Reading:
        """Counter and power together, in one call where the driver has one."""
        before = self._now_s()
        energy = power = math.nan
        if self._fields_answer:
            energy, power = self._fields()
        if self._counter_call:
            energy = self._counter()
        if not self._instant and self.power_method is not None:
            power = self._plain_power()
        after = self._now_s()
        return Reading((before + after) / 2.0, energy, power if self._plausible(power) else math.nan)

    def state(self) -> State:
        """Temperature, clock, utilisation and what slows the device down."""
        utilisation = self._ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        reasons = self._ask(self._event_reasons)
        return State(
            temperature_c=_number(self._ask(self._temperature)),
            sm_clock_mhz=_number(self._ask(lambda: pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM))),
            utilisation_percent=_number(utilisation),
            reasons=reasons or 0,
        )

    def memory_used_mb(self) -> float | None:
        """Memory that processes hold (MB, 10^6 bytes), without what the driver reserves."""
        memory = self._ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(self._handle, version=pynvml.nvmlMemory_v2))
        return None if memory is None else float(memory.used) / 1e6

    def processes(self) -> list[int]:
        """Ids of the processes with a context, in the driver's numbering; inside a container often none."""
        found = self._ask(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses_v3(self._handle))
        return [] if found is None else [int(process.pid) for process in found]

    def _plausible(self, power_w: float) -> bool:
        """No GPU idles at 0 W, and none draws a multiple of its limit; false for NaN."""
        return 0.0 < power_w < self._absurd_w

    def _fields(self) -> tuple[float, float]:
        """Energy (J) and instant power (W) in one call; NaN for what is not there."""
        values = self._ask(
            lambda: pynvml.nvmlDeviceGetFieldValues(self._handle, [(_ENERGY, _SCOPE_GPU), (_INSTANT, _SCOPE_GPU)])
        )
        if values is None:
            return math.nan, math.nan
        energy, power = values
        if pynvml.NVML_ERROR_GPU_IS_LOST in (energy.nvmlReturn, power.nvmlReturn):
            self.lost = True
        return (
            energy.value.ullVal / 1e3 if energy.nvmlReturn == pynvml.NVML_SUCCESS else math.nan,
            power.value.uiVal / 1e3 if power.nvmlReturn == pynvml.NVML_SUCCESS else math.nan,
        )

    def _counter(self) -> float:
        millijoules = self._ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return math.nan if millijoules is None else millijoules / 1e3

    def _plain_power(self) -> float:
        milliwatts = self._ask(lambda: pynvml.nvmlDeviceGetPowerUsage(self._handle))
        return math.nan if milliwatts is None else milliwatts / 1e3

    def _averages(self) -> bool:
        """Whether plain power is a mean over 1 s (nvml.h, nvmlDeviceGetPowerUsage: Ampere and newer, but not GA100)."""
        architecture = self._ask(lambda: pynvml.nvmlDeviceGetArchitecture(self._handle))
        return architecture is None or (
            architecture >= pynvml.NVML_DEVICE_ARCH_AMPERE and self.properties.compute_capability != (8, 0)
        )

    def _temperature(self) -> int:
        return int(pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU))

    def _event_reasons(self) -> int:
        try:
            return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
        except pynvml.NVMLError_FunctionNotFound:  # drivers before 535 have the older name
            return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))

    def _read_properties(self) -> Properties:
        ecc = self._ask(lambda: pynvml.nvmlDeviceGetEccMode(self._handle))
        mig = self._ask(lambda: pynvml.nvmlDeviceGetMigMode(self._handle))
        persistence = self._ask(lambda: pynvml.nvmlDeviceGetPersistenceMode(self._handle))
        limit_mw = self._ask(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle))
        clock = self._ask(lambda: pynvml.nvmlDeviceGetMaxClockInfo(self._handle, pynvml.NVML_CLOCK_SM))
        capability = self._ask(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(self._handle))
        return Properties(
            name=str(self._ask(lambda: pynvml.nvmlDeviceGetName(self._handle))),
            compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
            power_limit_w=None if not limit_mw else limit_mw / 1e3,
            sm_clock_mhz=None if clock is None else float(clock),
            ecc_enabled=None if ecc is None else bool(ecc[0]),
            persistence_mode=None if persistence is None else bool(persistence),
            mig_mode=None if mig is None else bool(mig[0]),
        )

    def _ask(self, call: Callable[[], T]) -> T | None:
        """The answer, or None where the device has none."""
        try:
            return call()
        except pynvml.NVMLError as error:
            if error.value in _LOST:
                self.lost = True
            return None


def open_devices(
    uuids: Sequence[str] | None, now_s: Callable[[], float], environment: Mapping[str, str] = os.environ
) -> list[Device]:
    """The GPUs with these UUIDs, in this order.

    Args:
        uuids: None takes all that the process can see, inside CUDA_VISIBLE_DEVICES.

    Raises:
        MeterUnavailable: no driver, or it does not answer.
        GpuUnusable: a GPU is not there, is lost, is named twice, or is shared in a way that has no energy of its own.
    """
    there = _handles()
    chosen = visible_gpus(list(there), environment) if uuids is None else list(uuids)
    for uuid in chosen:
        _require_whole(uuid, chosen, there, environment)
    devices = [Device(uuid, there[uuid], now_s) for uuid in chosen]
    for device in devices:
        if device.lost:
            raise GpuUnusable(f"{device.uuid} has fallen off the bus.", "Check dmesg; the machine needs a restart.")
        if device.properties.mig_mode:
            raise GpuUnusable(
                f"{device.uuid} is split by MIG, and its parts have no energy of their own.",
                "Turn MIG off, or set measurement.energy: none.",
            )
    return devices


def driver_versions() -> tuple[str | None, str | None]:
    """Versions of the driver and of the CUDA it brings; only after `open_devices`."""
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}"
    except pynvml.NVMLError:
        return None, None


def _handles() -> dict[str, object]:
    """All GPUs that answer, by UUID."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        reason = "there is no NVIDIA driver" if error.value in _NO_DRIVER else f"the NVIDIA driver says: {error}"
        raise MeterUnavailable(reason) from None
    found: dict[str, object] = {}
    for index in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found[str(pynvml.nvmlDeviceGetUUID(handle))] = handle
        except pynvml.NVMLError as error:
            if error.value not in _LOST:
                raise MeterUnavailable(f"the NVIDIA driver says: {error}") from None
            # Another one's death is not ours.
    return found


def _require_whole(
    uuid: str, chosen: Sequence[str], there: Mapping[str, object], environment: Mapping[str, str]
) -> None:
    if uuid.startswith("MIG-") or "::" in uuid:
        raise GpuUnusable(
            f"{uuid} is a part or a time slice of a GPU, which has no energy of its own.", "Give the job a whole GPU."
        )
    if chosen.count(uuid) > 1:
        raise GpuUnusable(f"{uuid} is given to the job twice.", "Give every process GPUs of its own.")
    if uuid not in there:
        raise GpuUnusable(
            f"the job was given {uuid}, which is not here; here: {', '.join(there) or 'no GPU'}.",
            "Give the job a GPU of this machine.",
        )
    if environment.get("CUDA_MPS_PIPE_DIRECTORY"):
        raise GpuUnusable(
            "CUDA_MPS_PIPE_DIRECTORY is set: under MPS several clients share one GPU's energy.",
            "Stop MPS, or set measurement.energy: none.",
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
