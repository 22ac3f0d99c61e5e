"""The GPUs of a job before any work is done on them: which, whether they can be metered, cool, and its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, GpuUnusable, JobContext
from images.contract.parts import CoolDown, EnvironmentSnapshot
from images.contract.work import CoolDownGate
from images.harness.nvml import Device, MeterUnavailable, driver_versions, open_devices
from images.harness.sampler import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

_FOREIGN_MEMORY_MB = 256.0
"""More than a driver, a display or a persistence daemon holds on a GPU that nobody computes on."""
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class JobGpus:
    """
    Attributes:
        uuids: all GPUs of the job; empty is the CPU.
        devices: the same as the meter sees them; empty without a meter.
        known: the same as far as the driver names them, with or without a meter.
        no_meter: why there is none; None if there is one.
        foreign: processes of others on them, in words.
    """

    uuids: list[str]
    devices: list[Device]
    known: list[Device]
    no_meter: str | None
    foreign: list[str]


def find_gpus(config: ExperimentConfig, context: JobContext, clock: Clock) -> JobGpus:
    """The job's GPUs: those it was told, else those it can see, as many as it needs.

    Raises:
        GpuUnusable: too few or unusable ones, or no meter where `measurement.energy` asks for it.
    """
    devices, no_meter = _open(config, context, clock)
    known = devices or _unmetered(context, clock)
    uuids = [device.uuid for device in known] if known else context.gpu_uuids or []
    needed = config.num_processes * config.gpus_per_process
    if 0 < len(uuids) < needed:
        raise GpuUnusable(
            f"num_processes x gpus_per_process needs {needed} GPUs, and the job has {len(uuids)}.",
            "Give it more GPUs, or lower num_processes.",
        )
    if len(set(uuids)) < len(uuids):
        raise GpuUnusable("a GPU is given to the job twice.", "Give every process GPUs of its own.")
    if not uuids and config.gpus_per_process > 1:
        raise ConfigInvalid("gpus_per_process is above 1, and the job has no GPU.", "Set it to 1 for the CPU.")
    devices = devices[:needed]
    # The host sees more than a container does, and the same processes.
    return JobGpus(uuids[:needed], devices, known[:needed], no_meter, context.foreign_processes or _foreign(devices))


def wait_until_cool(devices: Sequence[Device], gate: CoolDownGate, clock: Clock) -> CoolDown | None:
    """Wait until every GPU is at most as warm as the gate says, or its time is over; None if there is no gate."""
    if gate.max_temperature_c is None or not devices:
        return None
    begun_s = clock.now_s()
    while True:
        hottest = max((device.state().temperature_c for device in devices), key=lambda c: -1.0 if math.isnan(c) else c)
        waited_s = clock.now_s() - begun_s
        if hottest <= gate.max_temperature_c or waited_s >= gate.timeout_s or math.isnan(hottest):
            break
        log.info("cooling down: %.0f C, waiting for %.0f C", hottest, gate.max_temperature_c)
        clock.sleep(min(_LOOK_AGAIN_S, gate.timeout_s - waited_s))
    return CoolDown(
        target_c=gate.max_temperature_c,
        waited_s=waited_s,
        reached=hottest <= gate.max_temperature_c,
        temperature_c=None if math.isnan(hottest) else hottest,
    )


def with_gpus(environment: EnvironmentSnapshot, gpus: JobGpus) -> EnvironmentSnapshot:
    """The snapshot with what the driver says of the job's GPUs."""
    if not gpus.known:
        return environment
    properties = [device.properties for device in gpus.known]
    driver, cuda = driver_versions()
    return environment.model_copy(
        update={
            "driver_version": driver,
            "cuda_version": cuda,
            "gpu_names": [one.name for one in properties],
            "gpu_uuids": list(gpus.uuids),
            "power_limits_w": _all_or_none([one.power_limit_w for one in properties]),
            "clocks_mhz": _all_or_none([one.sm_clock_mhz for one in properties]),
            "ecc_enabled": _all_or_none([one.ecc_enabled for one in properties]),
            "persistence_mode": _all_or_none([one.persistence_mode for one in properties]),
            "mig_mode": _all_or_none([one.mig_mode for one in properties]),
            "compute_capabilities": _all_or_none(
                [None if (it := one.compute_capability) is None else f"{it[0]}.{it[1]}" for one in properties]
            ),
            "simulated": any(one.simulated for one in properties),
        }
    )


def _open(config: ExperimentConfig, context: JobContext, clock: Clock) -> tuple[list[Device], str | None]:
    """The devices, or why there is nothing to measure energy with."""
    wanted = config.measurement.energy
    if wanted == "none":
        return [], "measurement.energy is none"
    devices: list[Device] = []
    reason = None
    try:
        if context.gpu_uuids == []:
            reason = "the job was given no GPU"
        elif not (devices := open_devices(context.gpu_uuids, clock.now_s)):
            reason = "no GPU is visible to the job"
    except MeterUnavailable as error:
        reason = str(error)
    mute = [device.uuid for device in devices if not device.has_counter and device.power_method is None]
    if mute:
        devices, reason = [], f"{mute[0]} tells neither its energy nor its power"
    if reason is not None and wanted == "nvml":
        raise GpuUnusable(f"measurement.energy is nvml, but {reason}.", "Repair that, or set it to auto or none.")
    return devices, reason


def _unmetered(context: JobContext, clock: Clock) -> list[Device]:
    """The job's GPUs where none of them is metered, if the driver can name them: they still say where it ran."""
    try:
        return open_devices(context.gpu_uuids, clock.now_s)
    except (MeterUnavailable, GpuUnusable):
        return []


def _foreign(devices: Sequence[Device]) -> list[str]:
    """Who is on the GPUs already, before this job has a context of its own."""
    found = []
    for device in devices:
        pids = device.processes()
        used_mb = device.memory_used_mb()
        if pids:
            found.append(f"{', '.join(f'pid {pid}' for pid in pids)} on {device.uuid}")
        elif used_mb is not None and used_mb > _FOREIGN_MEMORY_MB:
            found.append(f"{used_mb:.0f} MB in use on {device.uuid} before the job began")
    return found


def _all_or_none(values: list[T | None]) -> list[T] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None
