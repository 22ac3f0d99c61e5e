"""Warnings, `code: what was seen. What to do.`, and the codes of what makes a measurement invalid.

Warnings never fail a run. Both are decided here, while measuring, and handed to the passive result.
"""

from __future__ import annotations

from collections.abc import Sequence

from images.contract.aggregation import MIN_REQUESTS_P95, MIN_REQUESTS_P99
from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.contract.parts import CoolDown, DeviceActivity, DeviceEnergy, WarmupResult
from images.harness.meter import Metered
from images.harness.nvml import Device

MIN_WINDOW_S = 60.0
MIN_PROMPTS = 30
MAX_DRIFT_C = 10.0
MIN_CLOCK_SHARE = 0.9
MAX_OVER_LIMIT = 1.1
MIN_DISAGREEMENT = 0.05
INVALID_DISAGREEMENT = 0.20
INVALID_GAP_S = 1.0
MIN_AVERAGED_WINDOW_S = 10.0
_GAP_SLOTS = 5.0
_SHORTEST_GAP_S = 0.25


def find_warnings(
    config: ExperimentConfig,
    *,
    window_s: float,
    n_requests: int,
    stamped_requests: int,
    warmup: WarmupResult | None,
    caches_emptied: bool,
    cached_input_tokens: int | None,
    has_chat_template: bool,
    no_meter: str | None,
    no_baseline: str | None,
) -> list[str]:
    """Everything about the experiment as a whole that its reader should know before trusting it.

    Args:
        window_s: length of the measured window (s).
        stamped_requests: requests with latency figures.
        no_meter, no_baseline: why there is none; None if there is one.
    """
    found = []
    if no_meter is not None:
        found.append(f"no_energy_meter: energy was not measured: {no_meter}. Quote speed and latency only.")
    elif no_baseline is not None:
        found.append(f"no_baseline: idle power was not measured: {no_baseline}. Do not quote energy above idle.")
    if window_s < MIN_WINDOW_S:
        found.append(
            f"short_duration: the window lasted {window_s:.1f} s, under {MIN_WINDOW_S:.0f} s. "
            "Raise workload.n_prompts, or set measurement.min_window_s."
        )
    if n_requests < MIN_PROMPTS:
        found.append(f"low_sample_count: {n_requests} requests, under {MIN_PROMPTS}. Raise workload.n_prompts.")
    for percentile, needed in (("p95", MIN_REQUESTS_P95), ("p99", MIN_REQUESTS_P99)):
        if 0 < stamped_requests < needed:
            found.append(
                f"few_requests_for_{percentile}: {stamped_requests} requests, under {needed}. "
                f"Do not quote {percentile}, or raise workload.n_prompts."
            )
    found += _warmup_warnings(warmup)
    if cached_input_tokens or not caches_emptied:
        seen = "an unknown number of" if cached_input_tokens is None else cached_input_tokens
        found.append(
            f"warm_cache: {seen} input tokens came from a cache, or the caches could not be emptied. "
            "Turn the backend's prefix cache off."
        )
    if has_chat_template and config.workload.chat_template == "off" and config.workload.source != "synthetic":
        found.append(
            "no_chat_template: the model has a chat template and the prompts were sent without it. "
            "Set workload.chat_template: model, unless plain completion is what you mean to measure."
        )
    return found


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


def cool_down_warning(cool_down: CoolDown | None) -> list[str]:
    """A warning if the gate's time was over before the GPUs were cool."""
    if cool_down is None or cool_down.reached:
        return []
    return [
        f"not_cooled_down: a GPU was above {cool_down.target_c:.0f} C after {cool_down.waited_s:.0f} s. "
        "Raise measurement.cool_down.timeout_s, or improve cooling."
    ]


def foreign_warning(processes: Sequence[str]) -> list[str]:
    """One warning for all processes of others that were seen on the job's GPUs."""
    if not processes:
        return []
    return [
        f"foreign_process: others used the GPU: {', '.join(processes)}. Their energy is in the figure; "
        "end them and run again."
    ]


def placement_warning(context: JobContext, gpu_uuids: Sequence[str]) -> list[str]:
    """A warning if the GPUs that did the work were whichever were free."""
    scheduling = context.scheduling
    if scheduling is None or scheduling.placement != "any" or not gpu_uuids:
        return []
    return [
        f"gpu_confounded: with placement any this cycle ran on whatever was free, {', '.join(gpu_uuids)}. "
        "Do not compare experiments by it, because boards differ; use placement: block."
    ]


def missing_warning(missing: Sequence[int]) -> list[str]:
    """One warning for all processes that left no whole result."""
    if not missing:
        return []
    return [
        f"rank_missing: nothing is known of process {', '.join(map(str, missing))}. Tokens and energy are those of the "
        "others; run it again."
    ]


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


def _warmup_warnings(warmup: WarmupResult | None) -> list[str]:
    if warmup is None:
        return ["not_warmed_up: the warm-up was turned off. Set measurement.warmup.enabled: true."]
    if warmup.converged:
        return []
    seen = "too few rounds to tell" if warmup.final_cv is None else f"coefficient of variation {warmup.final_cv:.3f}"
    return [
        f"not_warmed_up: throughput was not steady after {warmup.iterations_completed} rounds ({seen}, target "
        f"{warmup.target_cv}). Raise measurement.warmup.max_rounds, or look for other work on the machine."
    ]
