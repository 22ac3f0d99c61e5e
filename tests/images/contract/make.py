"""Small real objects of the contract, for tests to vary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from images.contract import files
from images.contract.parts import ComputeMetrics, EnergyMetrics, InferenceMetrics, RawProcessResult, Timestamps
from images.contract.result import ExperimentResult

OPEN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def raw(
    index: int = 0,
    *,
    energy_j: float | None = 25.0,
    tokens: int = 300,
    output_tokens: int | None = 100,
    start_s: float = 0.0,
    seconds: float = 10.0,
    **changes: Any,
) -> RawProcessResult:
    """One process's result; starts `start_s` after OPEN."""
    start = OPEN + timedelta(seconds=start_s)
    fields: dict[str, Any] = {
        "experiment_id": "exp_20260301_120000_0123abcd",
        "process_index": index,
        "gpu_id": index,
        "config_name": "tiny",
        "model_name": "builtin:tiny-llama",
        "timestamps": Timestamps.from_times(start, start + timedelta(seconds=seconds)),
        "inference_metrics": InferenceMetrics(
            total_tokens=tokens,
            total_prompts=10,
            avg_tokens_per_second=tokens / seconds,
            total_inference_time_sec=seconds,
            input_tokens=None if output_tokens is None else tokens - output_tokens,
            output_tokens=output_tokens,
        ),
        "energy_metrics": EnergyMetrics(
            total_energy_joules=energy_j, avg_power_watts=None, energy_per_token_joules=None
        ),
        "compute_metrics": ComputeMetrics(total_flops=1e9, peak_memory_mb=None),
    }
    return RawProcessResult(**{**fields, **changes})


def result(**changes: Any) -> ExperimentResult:
    """A result with the required fields only, plus `changes`."""
    fields: dict[str, Any] = {
        "experiment_id": "exp_20260301_120000_0123abcd",
        "measurement_config_hash": "0123456789abcdef",
        "total_tokens": 300,
        "total_energy_j": None,
        "total_inference_time_sec": 10.0,
        "avg_tokens_per_second": 30.0,
        "avg_energy_per_token_j": None,
        "total_flops": None,
        "start_time": OPEN,
        "end_time": OPEN + timedelta(seconds=10),
        "effective_config": {"model": "builtin:tiny-llama"},
        "cycle": 1,
    }
    return ExperimentResult(**{**fields, **changes})


def result_with_sidecars(**changes: Any) -> ExperimentResult:
    """A result that names both sidecars; save it with timeseries() and requests()."""
    return result(timeseries=files.TIMESERIES_FILE, requests=files.REQUESTS_FILE, **changes)


def timeseries() -> pa.Table:
    """Two samples, one of them without power."""
    return pa.table(
        {
            "timestamp_s": [-0.05, 0.05],
            "gpu_power_w": [71.5, None],
            "gpu_temperature_c": [41.0, 42.0],
            "gpu_index": [0, 0],
        },
        schema=files.TIMESERIES_SCHEMA,
    )


def requests() -> pa.Table:
    """Two requests: one measured per token, one without any times."""
    unmeasured = {"finish_reason": None, "output_sha256": None, "arrival_s": None, "ttft_ms": None, "e2e_ms": None}
    counts = {"process_index": 0, "input_tokens": 7, "output_tokens": 3, "queue_ms": None}
    return pa.Table.from_pylist(
        [
            {
                **counts,
                "request_index": 0,
                "finish_reason": "length",
                "output_sha256": "ab" * 32,
                "arrival_s": 0.0,
                "ttft_ms": 12.5,
                "e2e_ms": 30.5,
                "itl_ms": [9.0, 9.0],
            },
            {**counts, **unmeasured, "request_index": 1, "itl_ms": None},
        ],
        schema=files.REQUESTS_SCHEMA,
    )
