"""From a result or a failure to the rows that it becomes. Nothing here knows the disk or the database."""

from __future__ import annotations

import hashlib
import re
from statistics import fmean
from typing import Any

from pydantic_core import to_json

from images.contract.failure import JobFailure
from images.contract.parts import RawProcessResult
from images.contract.result import ExperimentResult

Row = dict[str, Any]

_WARNING = re.compile(r"(?P<code>[a-z0-9_]+): (?P<message>.+)", re.DOTALL)
CONDITIONS = (
    "study",
    "measurement_config_hash",
    "hardware",
    "gpu_count",
    "image",
    "driver_version",
    "power_limits_w",
    "model_commit",
    "is_simulated",
)
"""What cycles must have in common for one interval to be over them."""

_LEAST, _MOST = 1e-60, 1e60
"""Of figures that are not 0; ratios of two and their squares are then finite."""
_MOST_COUNTED = 2**63 - 1
_NEVER_NEGATIVE = ("_tokens", "_prompts", "_samples", "_sec", "passes")
_ASKED = ("max_output_tokens", "ignore_eos")
# Columns that are called as their field is.
_RESULT_FIELDS = [
    "experiment_id",
    "schema_version",
    "measurement_config_hash",
    "study",
    "experiment",
    "cycle",
    "block",
    "attempt",
    "backend",
    "measurement_methodology",
    "start_time",
    "end_time",
    "total_inference_time_sec",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "passes",
    "output_tokens_per_second",
    "total_tokens_per_second",
    "avg_tokens_per_second",
    "energy_source",
    "total_energy_j",
    "energy_per_output_token_j",
    "avg_energy_per_token_j",
    "energy_adjusted_j",
    "energy_per_device_j",
    "baseline_power_w",
    "total_flops",
    "measurement_valid",
    "invalid_reasons",
    "reproducibility_notes",
    "prompts_sha256",
]
_LATENCY_FIELDS = [
    f"{time}_{part}"
    for time in ("ttft", "itl")
    for part in ["mean_ms", "p50_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "samples"]
]
_ENVIRONMENT_FIELDS = [
    "model_commit",
    "device",
    "cpu_model",
    "driver_version",
    "image_name",
    "image_id",
    "image_repo_digest",
    "git_revision",
    "launcher",
    "node",
    "pod",
    "simulated",
]
_EXTENDED_FIELDS = [
    "tpot_mean_ms",
    "tpot_p50_ms",
    "tpot_p95_ms",
    "e2e_mean_ms",
    "tokens_per_delivery_mean",
    "goodput_requests_per_second",
    "goodput_fraction",
    "schedule_lag_p50_ms",
    "schedule_lag_p99_ms",
    "padding_fraction",
    "batch_efficiency",
    "kv_cache_hit_rate",
    "weights_mb",
    "peak_memory_mb",
    "kv_cache_mb",
    "prefill_energy_j",
    "decode_energy_j",
    "phase_energy_bound_j",
    "phase_energy_note",
    "mixed_phase_fraction",
]
_BREAKDOWN_FIELDS = {
    "energy_bound_j": "bound_j",
    "energy_counter_j": "counter_j",
    "energy_counter_bound_j": "counter_bound_j",
    "energy_integral_j": "integral_j",
    "energy_integral_bound_j": "integral_bound_j",
    "energy_update_period_s": "update_period_s",
    "baseline_power_before_w": "baseline_power_before_w",
    "baseline_power_after_w": "baseline_power_after_w",
}
_THERMAL_FIELDS = {
    "max_temperature_c": "max_temperature_c",
    "throttle_duration_s": "throttle_duration_sec",
    "throttle_reasons": "reasons",
}
_JSON_FIELDS = [
    "environment_snapshot",
    "warmup_result",
    "energy_breakdown",
    "thermal_throttle",
    "aggregation",
    "scheduling",
    "extended_metrics",
    "multi_gpu",
]
_FAILURE_FIELDS = [
    "experiment_id",
    "measurement_config_hash",
    "study",
    "experiment",
    "cycle",
    "attempt",
    "backend",
    "error_class",
    "exit_code",
    "message",
    "advice",
    "log_tail",
]


def result_rows(result: ExperimentResult, document: Row, unknown: Row, directory: str) -> dict[str, list[Row]]:
    """Rows by table.

    Args:
        document: as it was read, so that the parts that are kept as JSON lose nothing.
        unknown: what of it the result does not know.
        directory: name of where it lies.

    Raises:
        ValueError: a figure that nobody can have measured; it would spoil the sums of all that it stands beside.
    """
    experiment_id = result.experiment_id
    rows = {
        "experiments": [_experiment_row(result, document, unknown, directory)],
        "process_results": [_process_row(experiment_id, process) for process in result.process_results],
    }
    for row in (*rows["experiments"], *rows["process_results"]):
        _require_measurable(row)
    if not experiment_id or result.end_time < result.start_time or result.total_inference_time_sec < 0:
        raise ValueError("it has no experiment_id, or ends before it begins")
    warnings = [_warning_row(experiment_id, index, text) for index, text in enumerate(result.measurement_warnings)]
    return rows | {"warnings": warnings}


def _require_measurable(row: Row) -> None:
    for name, value in row.items():
        for one in value if isinstance(value, list) else (value,):
            if not isinstance(one, int | float) or not one:
                continue
            least = _LEAST if isinstance(one, float) else 0
            most = _MOST if isinstance(one, float) else _MOST_COUNTED
            if not least <= abs(one) <= most or (one < 0 and name.endswith(_NEVER_NEGATIVE)):
                raise ValueError(f"{name} is {one:.6g}, which cannot have been measured")


def failure_rows(failure: JobFailure, directory: str) -> dict[str, list[Row]]:
    """Rows by table."""
    config = failure.config or {}
    row = {column: getattr(failure, column) for column in _FAILURE_FIELDS} | {
        "directory": directory,
        "failed_at": failure.time,
        "backend": failure.backend or _typed(config.get("backend"), str),
        "config": _json(failure.config),
        **_config_columns(config),
    }
    return {"failures": [row]}


def _experiment_row(result: ExperimentResult, document: Row, unknown: Row, directory: str) -> Row:
    config, environment = result.effective_config, result.environment_snapshot
    row = {column: getattr(result, column) for column in _RESULT_FIELDS}
    row |= {column: getattr(result.latency_stats, column, None) for column in _LATENCY_FIELDS}
    row |= {column: getattr(environment, column, None) for column in _ENVIRONMENT_FIELDS}
    row |= {column: getattr(result.energy_breakdown, part, None) for column, part in _BREAKDOWN_FIELDS.items()}
    row |= {column: getattr(result.thermal_throttle, part, None) for column, part in _THERMAL_FIELDS.items()}
    row |= {column: getattr(result.extended_metrics, column, None) for column in _EXTENDED_FIELDS}
    row |= {column: _json(document.get(column)) for column in _JSON_FIELDS}
    row |= _config_columns(config)
    if row["model"] is None and result.process_results:
        row["model"] = result.process_results[0].model_name
    row |= {
        "directory": directory,
        "warmup_excluded_requests": result.warmup_excluded_samples,
        "num_processes": _typed(config.get("num_processes"), int),
        "gpus_per_process": _typed(config.get("gpus_per_process"), int),
        "warmup_converged": result.warmup_result.converged if result.warmup_result else None,
        "effective_config": _json(config),
        "unknown_fields": _json(unknown) if unknown else None,
        **_window_columns(result),
        **_activity_columns(result),
        **_gpu_columns(result),
        **_scheduling_columns(result),
    }
    row |= _labels(row)
    return row | {"campaign_id": campaign_id(row), "work_id": work_id(row, config)}


def _labels(row: Row) -> Row:
    """What a run is called and judged by, beside its own figures."""
    device, simulated = row["device"], bool(row["simulated"])
    cpu = ", ".join(filter(None, ("CPU", row["cpu_model"])))
    other = cpu if device in ("none", "cpu") else device
    return {
        "hardware": row["gpu_name"] or other or "not recorded",
        "image": row["image_repo_digest"] or row["image_id"],
        "is_simulated": simulated,
        # A simulated run is invalid for that alone; counted here as well, it would be told of twice.
        "is_invalid": row["measurement_valid"] is False
        and not (simulated and row["invalid_reasons"] == ["simulated_device"]),
        "superseded": False,
    }


def campaign_id(row: Row) -> str:
    """16 hex digits that name the campaign of a run, or of anything else with the `CONDITIONS`."""
    parts = [row[name] for name in CONDITIONS]
    return hashlib.blake2b(to_json(parts), digest_size=8).hexdigest()


def work_id(row: Row, config: Row) -> str | None:
    """16 hex digits that name what was asked of the model; None where the prompts were not recorded."""
    if row["prompts_sha256"] is None:
        return None
    workload, sampling = (config.get(part) for part in ("workload", "sampling"))
    asked = [workload.get(name) for name in _ASKED] if isinstance(workload, dict) else None
    temperature = sampling.get("temperature") if isinstance(sampling, dict) else None
    parts = [row["model"], row["prompts_sha256"], row["measurement_methodology"], asked, temperature]
    return hashlib.blake2b(to_json([*parts, *_asked_otherwise(workload)]), digest_size=8).hexdigest()


def _asked_otherwise(workload: Any) -> list[Any]:
    """Output lengths and arrivals where they are not what they always were before one could choose.

    The lengths of the inputs are in the digest of the prompts.
    """
    found = []
    for part, kind, usual in (("output_lengths", "distribution", "fixed"), ("arrivals", "process", "closed")):
        chosen = workload.get(part) if isinstance(workload, dict) else None
        if isinstance(chosen, dict) and chosen.get(kind, usual) != usual:
            found.append([part, sorted(chosen.items())])
    return found


def _scheduling_columns(result: ExperimentResult) -> Row:
    scheduling = result.scheduling
    adaptive = scheduling.adaptive if scheduling else None
    pilot = adaptive.pilot[0] if adaptive and len(adaptive.pilot) == 1 else None
    neighbours = scheduling.neighbours if scheduling else None
    return {
        "placement": scheduling.placement if scheduling else None,
        "job_order": scheduling.order if scheduling else None,
        "order_seed": scheduling.seed if scheduling else None,
        "position": scheduling.position if scheduling else None,
        "n_neighbours": None if neighbours is None else len(neighbours),
        "adaptive_metric": adaptive.metric if adaptive else None,
        "adaptive_pilot_s": pilot.s if pilot else None,
        "adaptive_pilot_cycles": adaptive.min if adaptive else None,
    }


def _window_columns(result: ExperimentResult) -> Row:
    """From where to where the figures count, in seconds after the window opened."""
    part = result.steady_state_window if result.measurement_methodology != "total" else None
    start, end = part or (0.0, result.total_inference_time_sec)
    return {"window_from_s": start, "window_to_s": end}


def _activity_columns(result: ExperimentResult) -> Row:
    thermal = result.thermal_throttle
    devices = thermal.devices if thermal else []
    clocks = [device.sm_clock_mean_mhz for device in devices if device.sm_clock_mean_mhz is not None]
    return {
        "sm_clock_mean_mhz": fmean(clocks) if clocks else None,
        "cool_down_waited_s": thermal.cool_down.waited_s if thermal and thermal.cool_down else None,
    }


def _gpu_columns(result: ExperimentResult) -> Row:
    """What the environment recorded, or else what the processes did; NULL where neither did."""
    environment, processes = result.environment_snapshot, result.process_results
    names = environment.gpu_names if environment else None
    uuids = environment.gpu_uuids if environment else None
    limits = environment.power_limits_w if environment else None
    if names is None:
        names = [process.gpu_name for process in processes if process.gpu_name] or None
    if uuids is None:
        uuids = sorted({uuid for process in processes for uuid in process.gpu_uuids or ()}) or None
    devices = uuids if uuids is not None else environment.gpu_names if environment else None
    return {
        "gpu_name": " + ".join(sorted(set(names))) or None if names else None,
        "gpu_count": len(devices) if devices is not None else None,
        "gpu_uuids": uuids,
        "power_limits_w": sorted(set(limits)) if limits is not None else None,
    }


def _process_row(experiment_id: str, process: RawProcessResult) -> Row:
    inference, energy, compute = process.inference_metrics, process.energy_metrics, process.compute_metrics
    return {
        "experiment_id": experiment_id,
        "process_index": process.process_index,
        "config_name": process.config_name,
        "model_name": process.model_name,
        "backend": process.backend,
        "gpu_id": process.gpu_id,
        "gpu_name": process.gpu_name,
        "gpu_uuids": process.gpu_uuids,
        "start_time": process.timestamps.start,
        "end_time": process.timestamps.end,
        "total_inference_time_sec": inference.total_inference_time_sec,
        "total_prompts": inference.total_prompts,
        "total_tokens": inference.total_tokens,
        "input_tokens": inference.input_tokens,
        "output_tokens": inference.output_tokens,
        "cached_input_tokens": inference.cached_input_tokens,
        "avg_tokens_per_second": inference.avg_tokens_per_second,
        "idle_tail_s": process.idle_tail_s,
        "total_energy_j": energy.total_energy_joules,
        "avg_power_w": energy.avg_power_watts,
        "energy_per_token_j": energy.energy_per_token_joules,
        "total_flops": compute.total_flops,
        "flops_method": compute.flops_method,
        "peak_memory_mb": compute.peak_memory_mb,
    }


def _warning_row(experiment_id: str, index: int, text: str) -> Row:
    match = _WARNING.fullmatch(text)
    return {
        "experiment_id": experiment_id,
        "warning_index": index,
        "code": match["code"] if match else None,
        "message": match["message"] if match else text,
    }


def _config_columns(config: dict[str, Any]) -> Row:
    """Of a configuration as anybody may have written it: what is not of its type is NULL here and kept in the JSON."""
    return {
        "model": _typed(config.get("model"), str),
        "dtype": _typed(config.get("dtype"), str),
        "batch_size": _typed(config.get("batch_size"), int),
    }


def _typed(value: Any, kind: type) -> Any:
    return value if type(value) is kind else None


def _json(value: Any) -> str | None:
    return to_json(value).decode() if isinstance(value, dict) else None
