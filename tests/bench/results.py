"""Results of the size that a small real run leaves."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from images.contract import files
from images.contract.aggregation import aggregate_results
from images.contract.config import ExperimentConfig
from images.contract.parts import (
    ComputeMetrics,
    EnergyMetrics,
    EnvironmentSnapshot,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from images.contract.result import ExperimentResult

N_REQUESTS = 100
_OUTPUT_TOKENS = 32


def made_result(number: int, start: datetime) -> ExperimentResult:
    """One process, 100 requests; every tenth result begins a new configuration."""
    config = ExperimentConfig(batch_size=1 + number // 10)
    config_hash = f"{number // 10:016x}"
    tokens = N_REQUESTS * _OUTPUT_TOKENS
    raw = RawProcessResult(
        experiment_id=f"exp_20260101_000000_{number:08x}",
        process_index=0,
        gpu_id=None,
        config_name=config_hash,
        model_name=config.model,
        timestamps=Timestamps.from_times(start, start + timedelta(seconds=60)),
        inference_metrics=InferenceMetrics(
            total_tokens=2 * tokens,
            total_prompts=N_REQUESTS,
            avg_tokens_per_second=2 * tokens / 60,
            total_inference_time_sec=60.0,
            input_tokens=tokens,
            output_tokens=tokens,
        ),
        energy_metrics=EnergyMetrics(total_energy_joules=None, avg_power_watts=None, energy_per_token_joules=None),
        compute_metrics=ComputeMetrics(total_flops=1e12, peak_memory_mb=1000.0, flops_method="architecture"),
        per_request_latencies_ms=[500.0] * N_REQUESTS,
        ttft_ms=[20.0 + number % 7] * N_REQUESTS,
        itl_ms=[5.0] * N_REQUESTS,
    )
    return aggregate_results(
        [raw],
        raw.experiment_id,
        config_hash,
        environment_snapshot=EnvironmentSnapshot(python_version="3.11", package_versions={"torch": "2.13.0"}),
        measurement_warnings=["short_duration: seen. Do something."],
        effective_config=config.model_dump(mode="json"),
        requests=files.REQUESTS_FILE,
        energy_source="none",
        invalid_reasons=[],
        study="bench",
        cycle=1 + number % 10,
        attempt=1,
    )


def made_requests() -> files.Table:
    gaps = np.full(_OUTPUT_TOKENS - 1, 5.0).tolist()
    many = N_REQUESTS
    return files.requests_table(
        {
            "process_index": [0] * many,
            "request_index": list(range(many)),
            "input_tokens": [_OUTPUT_TOKENS] * many,
            "output_tokens": [_OUTPUT_TOKENS] * many,
            "finish_reason": ["length"] * many,
            "output_sha256": [f"{index:064x}" for index in range(many)],
            "arrival_s": [0.0] * many,
            "ttft_ms": [20.0] * many,
            "e2e_ms": [500.0] * many,
            "queue_ms": [1.0] * many,
            "itl_ms": [gaps] * many,
            "lag_ms": [None] * many,
            "cached_input_tokens": [0] * many,
            "delivery_tokens": [None] * many,
        }
    )
