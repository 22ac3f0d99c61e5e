"""From what every process measured to one result, merged once: by the job itself, or later from what it left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from images.contract import files
from images.contract.aggregation import aggregate_results
from images.contract.config import ExperimentConfig
from images.contract.efficiency import extended_metrics
from images.contract.facts import Facts
from images.contract.findings import (
    cool_down_warning,
    find_warnings,
    foreign_warning,
    missing_warning,
    placement_warning,
)
from images.contract.job import JobContext
from images.contract.parts import (
    CoolDown,
    DeviceEnergy,
    EnergyBreakdown,
    EnergySource,
    EnvironmentSnapshot,
    MultiGPUMetrics,
    ThermalThrottleInfo,
    WarmupResult,
)
from images.contract.process import ProcessData, ProcessRecord
from images.contract.result import ExperimentResult

REPRODUCIBILITY_NOTES = (
    "Greedy decoding repeats its tokens on the same hardware, driver and package versions only; "
    "compare figures across machines by their intervals, not by single cycles."
)


def assemble(
    config: ExperimentConfig, context: JobContext, facts: Facts, data: Sequence[ProcessData]
) -> tuple[ExperimentResult, files.Table, files.Table | None]:
    """The result with the rows of its sidecars: requests, and samples where power was sampled.

    Args:
        data: of every process; of those that are left if some are missing, which makes the result invalid.
    """
    records = [one.record for one in data]
    first = records[0]
    devices = [device for record in records for device in record.devices]
    unmetered = [record.raw.process_index for record in records if not record.devices]
    if devices and unmetered:
        facts = facts.model_copy(update={"no_meter": f"process {unmetered[0]} had no meter"})
        devices = []  # a part of the energy is no figure
    elif unmetered and facts.no_meter is None:
        facts = facts.model_copy(update={"no_meter": "the model ran on the CPU"})
    requests = files.concat_tables([one.requests for one in data])
    sampled = [one.samples for one in data if one.samples is not None] if devices else []
    samples = files.concat_tables(sampled) if sampled else None
    window_s = _described_s(first)
    extended = extended_metrics(config, records, requests, metered=bool(devices))
    energy = _total(devices, lambda device: device.energy_j)
    missing = sorted(set(range(config.num_processes)) - {record.raw.process_index for record in records})
    # Idle power is that of all GPUs of the job, so it is no part of what some of them drew.
    baseline_w = _baseline_power_w(facts) if devices and not missing else None
    result = aggregate_results(
        [record.raw for record in records],
        facts.experiment_id,
        facts.config_hash,
        config.measurement.methodology,
        steady_state_window=first.span_s,
        baseline_power_w=baseline_w,
        energy_adjusted_j=None if energy is None or baseline_w is None else energy - baseline_w * window_s,
        energy_per_device_j=_each([device.energy_j for device in devices]),
        energy_breakdown=_breakdown(devices, facts) if devices else None,
        multi_gpu=_multi_gpu(devices),
        environment_snapshot=_environment(facts.environment, records),
        measurement_warnings=context.remarks
        + _warnings(config, facts, records, window_s, extended.schedule_lag_p99_ms)
        + placement_warning(context, _gpu_uuids(records))
        + missing_warning(missing),
        warmup_excluded_samples=sum(record.warmup_requests for record in records),
        warmup_result=_least_warm(records),
        thermal_throttle=_thermal(records, facts.cool_down) if devices else None,
        timeseries=None if samples is None else files.TIMESERIES_FILE,
        effective_config=config.model_dump(mode="json"),
        requests=files.REQUESTS_FILE,
        extended_metrics=extended,
        energy_source=_source(devices),
        invalid_reasons=sorted(
            {code for record in records for code in record.invalid_reasons}
            | ({"foreign_process"} if facts.foreign and devices else set())
            | ({"rank_missing"} if missing else set())
            | ({"simulated_device"} if facts.environment.simulated else set())
        ),
        reproducibility_notes=REPRODUCIBILITY_NOTES,
        prompts_sha256=first.prompts_sha256,
        passes=min(record.passes for record in records),
        study=context.study,
        experiment=context.experiment,
        cycle=context.cycle,
        block=context.block,
        scheduling=context.scheduling,
        attempt=context.attempt,
    )
    return result, requests, samples


def _described_s(record: ProcessRecord) -> float:
    return record.window_s if record.span_s is None else record.span_s[1] - record.span_s[0]


def _each(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _total(devices: Sequence[DeviceEnergy], part: Callable[[DeviceEnergy], float | None]) -> float | None:
    """A sum with an unmeasured part is unmeasured."""
    known = _each([part(device) for device in devices])
    return None if known is None else math.fsum(known)


def _source(devices: Sequence[DeviceEnergy]) -> EnergySource:
    """The weaker one where devices differ."""
    sources = {device.source for device in devices}
    if not devices or None in sources:
        return "none"
    return "nvml_power" if "nvml_power" in sources else "nvml_counter"


def _breakdown(devices: Sequence[DeviceEnergy], facts: Facts) -> EnergyBreakdown:
    counter, integral = _total(devices, lambda d: d.counter_j), _total(devices, lambda d: d.integral_j)
    methods = {device.power_method for device in devices}
    before, after = facts.baseline_before, facts.baseline_after
    held = [one.held_context for one in (before, after) if one is not None]
    return EnergyBreakdown(
        counter_j=counter,
        integral_j=integral,
        ratio=counter / integral if counter is not None and integral else None,
        bound_j=_total(devices, lambda d: d.bound_j),
        counter_bound_j=_total(devices, lambda d: d.counter_bound_j),
        integral_bound_j=_total(devices, lambda d: d.integral_bound_j),
        power_method="average_1s" if "average_1s" in methods else "instant" if "instant" in methods else None,
        power_scope="gpu" if methods - {None} else None,
        update_period_s=max((d.update_period_s for d in devices if d.update_period_s is not None), default=None),
        counter_lag_s=max((d.counter_lag_s for d in devices if d.counter_lag_s is not None), default=None),
        baseline_power_before_w=before.power_w if before else None,
        baseline_power_after_w=after.power_w if after else None,
        baseline_spread_before_w=before.spread_w if before else None,
        baseline_spread_after_w=after.spread_w if after else None,
        baseline_context=all(held) if held else None,
        devices=list(devices),
    )


def _baseline_power_w(facts: Facts) -> float | None:
    """The idle power that the work comes on top of: before load."""
    return facts.baseline_before.power_w if facts.baseline_before is not None else None


def _multi_gpu(devices: Sequence[DeviceEnergy]) -> MultiGPUMetrics | None:
    if len(devices) < 2:
        return None
    return MultiGPUMetrics(num_gpus=len(devices), energy_per_gpu_j=_each([device.energy_j for device in devices]))


def _environment(environment: EnvironmentSnapshot, records: Sequence[ProcessRecord]) -> EnvironmentSnapshot:
    first = records[0]
    uuids = _gpu_uuids(records)
    update: dict[str, object] = {
        "model_commit": first.model_commit,
        "observed_settings": first.observed_settings,
        "device": first.device,
        "gpu_uuids": uuids or None,
    }
    if environment.gpu_names is None or not uuids:
        names = [record.raw.gpu_name or "" for record in records for _ in record.raw.gpu_uuids or ()]
        update["gpu_names"] = names or None
    return environment.model_copy(update=update)


def _gpu_uuids(records: Sequence[ProcessRecord]) -> list[str]:
    return [uuid for record in records for uuid in record.raw.gpu_uuids or ()]


def _warnings(
    config: ExperimentConfig,
    facts: Facts,
    records: Sequence[ProcessRecord],
    window_s: float,
    lag_p99_ms: float | None,
) -> list[str]:
    cached = [record.raw.inference_metrics.cached_input_tokens for record in records]
    found = find_warnings(
        config,
        window_s=window_s,
        n_requests=sum(record.raw.inference_metrics.total_prompts for record in records),
        stamped_requests=sum(record.stamped_requests for record in records),
        warmup=_least_warm(records),
        caches_emptied=all(record.caches_emptied for record in records),
        cached_input_tokens=None if None in cached else sum(count for count in cached if count is not None),
        has_chat_template=records[0].has_chat_template,
        cut_prompts=records[0].cut_prompts,
        no_meter=facts.no_meter,
        no_baseline=facts.no_baseline,
        lag_p99_ms=lag_p99_ms,
    )
    found += cool_down_warning(facts.cool_down)
    found += foreign_warning(facts.foreign if any(record.devices for record in records) else ())
    return found + [finding for record in records for finding in record.findings]


def _least_warm(records: Sequence[ProcessRecord]) -> WarmupResult | None:
    """The warm-up of the process that was least steady."""
    warmups = [record.warmup for record in records if record.warmup is not None]
    if len(warmups) < len(records):
        return None
    return max(warmups, key=lambda one: (not one.converged, math.inf if one.final_cv is None else one.final_cv))


def _thermal(records: Sequence[ProcessRecord], cool_down: CoolDown | None) -> ThermalThrottleInfo:
    activity = [device for record in records for device in record.activity]
    return ThermalThrottleInfo(
        reasons=sorted({reason for device in activity for reason in device.reasons}),
        throttle_duration_sec=max(
            (device.throttle_duration_sec for device in activity if device.throttle_duration_sec is not None),
            default=None,
        ),
        max_temperature_c=max(
            (device.max_temperature_c for device in activity if device.max_temperature_c is not None), default=None
        ),
        devices=activity,
        cool_down=cool_down,
    )
