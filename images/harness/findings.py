"""What a process's meter saw: warnings, `code: what was seen. What to do.`, and the codes of what makes it invalid.

Both are decided here, while measuring; those of the experiment as a whole in `images/contract/findings.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from images.contract.config import ExperimentConfig
from images.contract.findings import foreign_warning
from images.contract.parts import DeviceActivity, DeviceEnergy
from images.harness.meter import Metered
from images.harness.nvml import Device

MAX_DRIFT_C = 10.0
MIN_CLOCK_SHARE = 0.9
MAX_OVER_LIMIT = 1.1
MIN_DISAGREEMENT = 0.05
INVALID_DISAGREEMENT = 0.20
INVALID_GAP_S = 1.0
MIN_AVERAGED_WINDOW_S = 10.0
_GAP_SLOTS = 5.0
_SHORTEST_GAP_S = 0.25


def meter_findings(config: ExperimentConfig, metered: Metered, devices: Sequence[Device]) -> list[str]:
    """What a process's meter saw that its reader should know."""
    found = []
    for energy, activity, device in zip(metered.devices, metered.activity, devices, strict=True):
        found += _energy_warnings(energy, device, metered, config.measurement.sample_interval_ms / 1e3)
        found += _activity_warnings(activity)
        if device.properties.persistence_mode is False:
            found.append(
                f"persistence_mode_off: the driver may unload {device.uuid} between jobs, so its idle power varies. "
                "Have an administrator run nvidia-smi -pm 1."
            )
        if device.properties.ecc_enabled is False:
            found.append(
                f"ecc_disabled: ECC is off on {device.uuid}, which changes speed and power. "
                "Compare only with runs that have it off, or have it turned on."
            )
    found += [
        f"gpu_lost: {uuid} stopped answering. Its energy is unknown; check dmesg and run again."
        for uuid in metered.lost
    ]
    found += [
        f"counter_backwards: the energy counter of {uuid} fell. Its figure is the power integral; update the driver."
        for uuid in metered.backwards
    ]
    found += [
        f"counter_lost: the energy counter of {uuid} stopped, or could not be read any more. "
        "Its figure is the power integral; check driver and permissions."
        for uuid in metered.silent
    ]
    return found + foreign_warning(metered.newcomers)


def meter_verdict(metered: Metered, devices: Sequence[Device], window_s: float) -> list[str]:
    """Codes of what makes a process's energy unfit for any interval, sorted.

    Args:
        window_s: length of the described part (s).
    """
    codes = set()
    if metered.lost:
        codes.add("gpu_lost")
    if metered.backwards:
        codes.add("counter_backwards")
    if metered.newcomers:
        codes.add("foreign_process")
    if any(device.properties.simulated for device in devices):
        codes.add("simulated_device")
    for energy, device in zip(metered.devices, devices, strict=True):
        if _over_limit(energy, device, window_s):
            codes.add("power_over_limit")
        by_integral = energy.source == "nvml_power"
        if by_integral and (energy.longest_gap_s or 0.0) > INVALID_GAP_S:
            codes.add("sampling_gap")
        if by_integral and energy.power_method == "average_1s" and window_s < MIN_AVERAGED_WINDOW_S:
            codes.add("average_power")
        if _disagreement(energy) > INVALID_DISAGREEMENT:
            codes.add("meter_disagreement")
    return sorted(codes)


def _over_limit(energy: DeviceEnergy, device: Device, seconds: float) -> bool:
    limit_w = device.properties.power_limit_w
    if energy.energy_j is None or limit_w is None or seconds <= 0:
        return False
    return energy.energy_j - (energy.bound_j or 0.0) > MAX_OVER_LIMIT * limit_w * seconds


def _energy_warnings(energy: DeviceEnergy, device: Device, metered: Metered, interval_s: float) -> list[str]:
    found = []
    share = _disagreement(energy)
    if share > 0.0:
        found.append(
            f"meter_disagreement: on {energy.gpu_uuid} counter ({energy.counter_j:.1f} J) and power integral "
            f"({energy.integral_j:.1f} J) differ by {share:.1%}, more than their bounds allow. "
            "Look at timeseries.parquet; lower measurement.sample_interval_ms."
        )
    longest = energy.longest_gap_s
    if longest is not None and longest > max(_GAP_SLOTS * interval_s, _SHORTEST_GAP_S):
        unreadable = metered.unreadable.get(energy.gpu_uuid, 0)
        cause = (
            f"the driver refused {unreadable} readings, or gave impossible ones. Check nvidia-smi and permissions."
            if unreadable
            else "the sampler got no CPU time. Give the job a core for it."
        )
        found.append(f"sampling_gap: {longest:.2f} s without a power sample of {energy.gpu_uuid}; {cause}")
    if energy.energy_j is None and energy.gpu_uuid not in metered.lost:
        found.append(
            f"no_energy_meter: {energy.gpu_uuid} gave too few usable readings in the window. "
            "Check nvidia-smi and permissions, and run again."
        )
    elif energy.integral_j is None and energy.gpu_uuid not in metered.lost:
        found.append(
            f"no_power_readings: the power of {energy.gpu_uuid} could not be read, so nothing confirms its counter. "
            "Check nvidia-smi and permissions."
        )
    limit_w = device.properties.power_limit_w
    if _over_limit(energy, device, metered.seconds):
        found.append(
            f"power_over_limit: the mean power of {energy.gpu_uuid} is above its limit of {limit_w:.0f} W. "
            "Its readings are wrong; update the driver."
        )
    if energy.source == "nvml_power" and energy.power_method == "average_1s":
        found.append(
            f"average_power: {energy.gpu_uuid} gives its power only as a mean over 1 s. "
            f"Measure windows of {MIN_AVERAGED_WINDOW_S:.0f} s and more, or use a newer driver."
        )
    return found


def _disagreement(energy: DeviceEnergy) -> float:
    """Difference of both methods over the larger one, if it is more than 5 % and than their bounds allow, else 0."""
    counter, integral = energy.counter_j, energy.integral_j
    if counter is None or integral is None or max(counter, integral) <= 0:
        return 0.0
    difference = abs(counter - integral)
    share = difference / max(counter, integral)
    # Where they differ by more than both bounds, the difference has become the bound (energy.py).
    unexplained = difference >= max(energy.counter_bound_j or 0.0, energy.integral_bound_j or 0.0)
    return share if share > MIN_DISAGREEMENT and unexplained else 0.0


def _activity_warnings(activity: DeviceActivity) -> list[str]:
    found = []
    if activity.reasons:
        found.append(
            f"throttled: {activity.gpu_uuid} was slowed down for {activity.throttle_duration_sec:.1f} s "
            f"({', '.join(activity.reasons)}). Improve cooling, or compare at the same power limit only."
        )
    start, highest = activity.start_temperature_c, activity.max_temperature_c
    if start is not None and highest is not None and highest - start > MAX_DRIFT_C:
        found.append(
            f"thermal_drift: {activity.gpu_uuid} warmed up by {highest - start:.0f} C in the window. "
            "Raise measurement.warmup.max_rounds or measurement.min_window_s."
        )
    low, high = activity.sm_clock_min_mhz, activity.sm_clock_max_mhz
    if low is not None and high is not None and low < MIN_CLOCK_SHARE * high:
        found.append(
            f"clock_drop: the SM clock of {activity.gpu_uuid} fell from {high:.0f} to {low:.0f} MHz in the window. "
            "Look for throttling or idle gaps; lock the clocks for comparisons."
        )
    return found
