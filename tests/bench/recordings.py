"""What a few runs measured, with their Parquet files, to be varied into many results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from images.contract import files
from images.contract.aggregation import aggregate_results
from images.contract.parts import (
    ComputeMetrics,
    DeviceActivity,
    DeviceEnergy,
    EnergyBreakdown,
    EnergyMetrics,
    EnvironmentSnapshot,
    ExtendedEfficiencyMetrics,
    InferenceMetrics,
    RawProcessResult,
    ThermalThrottleInfo,
    Timestamps,
    WarmupResult,
)
from images.contract.result import ExperimentResult

OUTPUT_TOKENS = 32
WINDOW_S = 60.0
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Recording:
    """What one run measured: the result to be varied, and its Parquet files to be copied or linked."""

    result: ExperimentResult
    sidecars: list[Path]


def make_recordings(folder: Path, count: int, *, n_processes: int, n_requests: int, n_samples: int) -> list[Recording]:
    """Recordings with Parquet files in `folder`.

    Args:
        n_processes: of each run, with a GPU each.
        n_requests: of each process.
        n_samples: of each GPU.
    """
    rng = np.random.default_rng(7)
    recordings = []
    for number in range(count):
        place = folder / f"recording-{number}"
        place.mkdir(parents=True)
        times = _request_times(rng, n_processes, n_requests)
        files.write_table(place / files.REQUESTS_FILE, files.requests_table(times), files.REQUESTS_FILE)
        files.write_table(place / files.TIMESERIES_FILE, _samples(rng, n_processes, n_samples), files.TIMESERIES_FILE)
        sidecars = [place / files.REQUESTS_FILE, place / files.TIMESERIES_FILE]
        recordings.append(Recording(_recorded_result(times, n_processes, n_requests), sidecars))
    return recordings


def joules(raw: RawProcessResult) -> float:
    """Energy of one process (J)."""
    return raw.energy_metrics.total_energy_joules or 0.0


def _request_times(rng: np.random.Generator, n_processes: int, n_requests: int) -> dict[str, list[Any]]:
    """Columns of requests.parquet; the times are differences of a clock's stamps, as in a real run."""
    count = n_processes * n_requests
    arrival = 1e5 + np.sort(rng.uniform(0, 50, count))
    first = arrival + rng.lognormal(np.log(0.02), 0.2, count)
    steps = rng.lognormal(np.log(0.005), 0.1, (count, OUTPUT_TOKENS - 1))
    stamps = np.column_stack([first, first[:, None] + np.cumsum(steps, axis=1)])
    return {
        "process_index": [index // n_requests for index in range(count)],
        "request_index": list(range(count)),
        "input_tokens": [20 + 37 * index % 480 for index in range(count)],
        "output_tokens": [OUTPUT_TOKENS] * count,
        "finish_reason": ["length"] * count,
        "output_sha256": [rng.bytes(32).hex() for _ in range(count)],
        "arrival_s": (arrival - 1e5).tolist(),
        "ttft_ms": ((first - arrival) * 1e3).tolist(),
        "e2e_ms": ((stamps[:, -1] - arrival) * 1e3).tolist(),
        "queue_ms": rng.lognormal(0, 0.3, count).tolist(),
        "itl_ms": (np.diff(stamps) * 1e3).tolist(),
        "lag_ms": [None] * count,
        "cached_input_tokens": [0] * count,
        "delivery_tokens": [None] * count,
    }


def _samples(rng: np.random.Generator, n_gpus: int, count: int) -> files.Table:
    """Power in the milliwatts and temperature in the degrees that NVML gives."""
    times = np.linspace(0, WINDOW_S, count) + rng.uniform(0, 1e-3, count)
    return files.timeseries_table(
        {
            "timestamp_s": np.repeat(times, n_gpus),
            "gpu_power_w": rng.normal(300, 15, count * n_gpus).round(3),
            "gpu_temperature_c": rng.normal(60, 2, count * n_gpus).round(),
            "gpu_index": np.tile(np.arange(n_gpus, dtype=np.int32), count),
        }
    )


def _recorded_result(times: dict[str, list[Any]], n_processes: int, n_requests: int) -> ExperimentResult:
    raws = list(_raw_results(times, n_processes, n_requests))
    uuids = [f"GPU-{rank}" for rank in range(n_processes)]
    energies = [joules(raw) for raw in raws]
    return aggregate_results(
        raws,
        raws[0].experiment_id,
        "",
        baseline_power_w=140.0,
        energy_adjusted_j=sum(energies) - 140.0 * WINDOW_S,
        energy_per_device_j=energies,
        energy_breakdown=EnergyBreakdown(
            counter_j=sum(energies),
            integral_j=sum(energies) * 1.002,
            ratio=1 / 1.002,
            bound_j=120.0,
            counter_bound_j=120.0,
            integral_bound_j=400.0,
            power_method="instant",
            power_scope="gpu",
            update_period_s=0.1,
            baseline_power_before_w=138.0,
            baseline_power_after_w=142.0,
            devices=[
                DeviceEnergy(
                    gpu_uuid=uuid,
                    energy_j=energy,
                    source="nvml_counter",
                    counter_j=energy,
                    integral_j=energy * 1.002,
                    bound_j=60.0,
                    counter_bound_j=60.0,
                    integral_bound_j=200.0,
                    update_period_s=0.1,
                    power_method="instant",
                    samples=300,
                    longest_gap_s=0.21,
                )
                for uuid, energy in zip(uuids, energies, strict=True)
            ],
        ),
        environment_snapshot=_environment(n_processes),
        warmup_result=WarmupResult(
            converged=True,
            final_cv=0.012,
            target_cv=0.05,
            iterations_completed=4,
            max_rounds=10,
            tokens_per_second=[1610.2, 1701.9, 1711.4, 1708.8],
        ),
        thermal_throttle=ThermalThrottleInfo(
            throttle_duration_sec=0.0,
            max_temperature_c=66.0,
            devices=[
                DeviceActivity(
                    gpu_uuid=uuid,
                    throttle_duration_sec=0.0,
                    start_temperature_c=55.0,
                    max_temperature_c=66.0,
                    sm_clock_min_mhz=1755.0,
                    sm_clock_mean_mhz=1830.5,
                    sm_clock_max_mhz=1980.0,
                    utilisation_mean_percent=96.5,
                )
                for uuid in uuids
            ],
        ),
        extended_metrics=ExtendedEfficiencyMetrics(
            tpot_mean_ms=float(np.mean(times["itl_ms"])), e2e_mean_ms=float(np.mean(times["e2e_ms"]))
        ),
        timeseries=files.TIMESERIES_FILE,
        requests=files.REQUESTS_FILE,
        energy_source="nvml_counter",
        invalid_reasons=[],
        prompts_sha256="5" * 64,
        passes=1,
        study="to be named",
        cycle=1,
        attempt=1,
    )


def _raw_results(times: dict[str, list[Any]], n_processes: int, n_requests: int) -> Iterator[RawProcessResult]:
    for rank in range(n_processes):
        own = slice(rank * n_requests, (rank + 1) * n_requests)
        input_tokens, output_tokens = sum(times["input_tokens"][own]), sum(times["output_tokens"][own])
        tokens = input_tokens + output_tokens
        yield RawProcessResult(
            experiment_id="to be named",
            process_index=rank,
            gpu_id=rank,
            config_name="",
            model_name="",
            timestamps=Timestamps.from_times(_START, _START + timedelta(seconds=WINDOW_S)),
            inference_metrics=InferenceMetrics(
                total_tokens=tokens,
                total_prompts=n_requests,
                avg_tokens_per_second=tokens / WINDOW_S,
                total_inference_time_sec=WINDOW_S,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
            ),
            energy_metrics=EnergyMetrics(
                total_energy_joules=300.0 * WINDOW_S, avg_power_watts=300.0, energy_per_token_joules=None
            ),
            compute_metrics=ComputeMetrics(total_flops=1e15, peak_memory_mb=41e3, flops_method="architecture"),
            gpu_uuids=[f"GPU-{rank}"],
            idle_tail_s=0.4 * rank,
            per_request_latencies_ms=times["e2e_ms"][own],
            ttft_ms=times["ttft_ms"][own],
            itl_ms=[gap for gaps in times["itl_ms"][own] for gap in gaps],
        )


def _environment(n_gpus: int) -> EnvironmentSnapshot:
    return EnvironmentSnapshot(
        image_name="joulehouse-pytorch:0.1",
        image_id=f"sha256:{'a' * 64}",
        git_revision="b" * 40,
        launcher="docker",
        model_commit="c" * 40,
        observed_settings={"dtype": "bfloat16", "attn_implementation": "sdpa", "threads": "8", "cuda": "12.8"},
        python_version="3.11.2",
        platform="Linux-6.1.0-x86_64",
        cpu_model="AMD EPYC 9354 32-Core Processor",
        cpu_count=16,
        memory_total_mb=128e3,
        device="cuda",
        driver_version="570.124.06",
        cuda_version="12.8",
        power_limits_w=[700.0] * n_gpus,
        ecc_enabled=[True] * n_gpus,
        persistence_mode=[True] * n_gpus,
        mig_mode=[False] * n_gpus,
        compute_capabilities=["9.0"] * n_gpus,
        simulated=False,
        package_versions={f"package-{number}": f"{number}.1.2" for number in range(20)},
    )
