"""From one directory on disk to the rows it becomes. Nothing here knows the database."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.files import UnreadableResult
from images.contract.parts import RawProcessResult
from images.contract.result import ExperimentResult

Row = dict[str, Any]

_WARNING = re.compile(r"(?P<code>[a-z0-9_]+): (?P<message>.+)", re.DOTALL)

# Columns that are called as their field is.
_RESULT_FIELDS = [
    "experiment_id",
    "schema_version",
    "measurement_config_hash",
    "study",
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
    "simulated",
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
_JSON_FIELDS = ["environment_snapshot", "warmup_result", "energy_breakdown", "thermal_throttle", "aggregation"]
_FAILURE_FIELDS = [
    "experiment_id",
    "measurement_config_hash",
    "study",
    "cycle",
    "attempt",
    "backend",
    "error_class",
    "exit_code",
    "message",
    "advice",
    "log_tail",
]


@dataclass(frozen=True)
class Record:
    """One readable directory.

    Attributes:
        rows: rows as Python has them, by table.
        sidecars: rows as Arrow has them, by table; experiment_id is still to be added.
    """

    directory: str
    kind: Literal["result", "failure"]
    experiment_id: str
    signature: str
    content_sha256: str
    rows: dict[str, list[Row]]
    sidecars: dict[str, files.Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Broken:
    """One directory that cannot be taken, and why, in one line."""

    directory: str
    reason: str


def name_of(directory: Path) -> str:
    """The directory as text that any database takes, also if its name is not UTF-8."""
    return _storable(str(directory))


def signature_of(directory: Path) -> str:
    """Times and sizes of the files that ingest reads; if it is the same, they are not opened again.

    Raises:
        OSError: the files cannot be looked at.
    """
    parts = []
    for name in (files.RESULT_FILE, files.FAILURE_FILE, files.REQUESTS_FILE, files.TIMESERIES_FILE):
        try:
            status = (directory / name).stat()
        except FileNotFoundError:
            continue
        parts.append(f"{name}:{status.st_mtime_ns}:{status.st_size}")
    return " ".join(parts)


def read_directory(directory: Path) -> Record | Broken:
    """Read the result in `directory`, or the failure if there is no result."""
    try:
        # Before reading: a file that changes meanwhile is then read again next time.
        signature = signature_of(directory)
        if (directory / files.RESULT_FILE).exists():
            return _read_result(directory, signature)
        if (directory / files.FAILURE_FILE).exists():
            return _read_failure(directory, signature)
        reason = f"{directory} is half-written: it has neither {files.RESULT_FILE} nor {files.FAILURE_FILE}"
    except UnreadableResult as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or directory} cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        reason = f"{directory} cannot be stored ({error})"
    reason = " ".join(_storable(reason).split())
    return Broken(name_of(directory), f"{reason}. Repair or remove the directory, then ingest again.")


def _read_result(directory: Path, signature: str) -> Record:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = ExperimentResult.from_json(directory)
    named = {"requests": result.requests, "samples": result.timeseries}
    # One that is gone has been read as None, with a warning.
    sidecars = {table: file for table, file in named.items() if file is not None}
    name = name_of(directory)
    return Record(
        directory=name,
        kind="result",
        experiment_id=result.experiment_id,
        signature=signature,
        content_sha256=_digest(directory, [files.RESULT_FILE, *sidecars.values()]),
        rows={
            "experiments": [_experiment_row(result, name)],
            "process_results": [_process_row(result.experiment_id, process) for process in result.process_results],
            "warnings": [
                _warning_row(result.experiment_id, index, text)
                for index, text in enumerate(result.measurement_warnings)
            ],
        },
        sidecars={table: files.load_table(directory, file) for table, file in sidecars.items()},
        notes=[_storable(str(warning.message)) for warning in caught],
    )


def _read_failure(directory: Path, signature: str) -> Record:
    failure = JobFailure.from_json(directory)
    name = name_of(directory)
    row = {column: getattr(failure, column) for column in _FAILURE_FIELDS} | {
        "directory": name,
        "failed_at": failure.time,
        "backend": failure.backend or _typed((failure.config or {}).get("backend"), str),
        "config": _json(failure.config),
        **_config_columns(failure.config or {}),
    }
    return Record(
        directory=name,
        kind="failure",
        experiment_id=failure.experiment_id,
        signature=signature,
        content_sha256=_digest(directory, [files.FAILURE_FILE]),
        rows={"failures": [row]},
    )


def _experiment_row(result: ExperimentResult, directory: str) -> Row:
    config, environment, extended = result.effective_config, result.environment_snapshot, result.extended_metrics
    row = {column: getattr(result, column) for column in _RESULT_FIELDS}
    row |= {column: getattr(result.latency_stats, column, None) for column in _LATENCY_FIELDS}
    row |= {column: getattr(environment, column, None) for column in _ENVIRONMENT_FIELDS}
    row |= {column: getattr(result.energy_breakdown, part, None) for column, part in _BREAKDOWN_FIELDS.items()}
    row |= {column: getattr(result.thermal_throttle, part, None) for column, part in _THERMAL_FIELDS.items()}
    row |= {column: _part_json(getattr(result, column)) for column in _JSON_FIELDS}
    row |= _config_columns(config)
    if row["model"] is None and result.process_results:
        row["model"] = result.process_results[0].model_name
    return row | {
        "directory": directory,
        "num_processes": _typed(config.get("num_processes"), int),
        "gpus_per_process": _typed(config.get("gpus_per_process"), int),
        "tpot_mean_ms": extended.tpot_mean_ms if extended else None,
        "e2e_mean_ms": extended.e2e_mean_ms if extended else None,
        "warmup_converged": result.warmup_result.converged if result.warmup_result else None,
        "effective_config": _json(config),
        **_window_columns(result),
        **_activity_columns(result),
        **_gpu_columns(result),
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


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, allow_nan=False)


def _part_json(part: BaseModel | None) -> str | None:
    return None if part is None else part.model_dump_json()


def _storable(text: str) -> str:
    """Python reads bytes that are not UTF-8 as lone surrogates, which neither a database nor a terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _digest(directory: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
    return digest.hexdigest()
