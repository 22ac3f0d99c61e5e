"""Late aggregation: raw results of processes in, one ExperimentResult out. Nothing is written here.

Energy, tokens and FLOPs are summed; latencies are concatenated and then summarised, never averaged
over averages; the window runs from the earliest open to the latest close.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from images.contract.files import COMPLETED_PREFIX, RAW_FOLDER
from images.contract.parts import (
    AggregationMetadata,
    EnergyBreakdown,
    EnvironmentSnapshot,
    ExtendedEfficiencyMetrics,
    LatencyStatistics,
    Methodology,
    MultiGPUMetrics,
    RawProcessResult,
    ThermalThrottleInfo,
    WarmupResult,
)
from images.contract.result import CompletenessReport, ExperimentResult
from images.contract.scheduling import Scheduling

MIN_REQUESTS_P95 = 40
MIN_REQUESTS_P99 = 200

Number = TypeVar("Number", int, float)


def validate_process_completeness(
    experiment_id: str, raw_results: Sequence[RawProcessResult], expected_processes: int, results_dir: Path
) -> CompletenessReport:
    """Four checks: the count, contiguous indices from 0, no duplicates, and every marker file.

    Args:
        results_dir: folder of the markers, or one that holds them in ``raw/{experiment_id}``.
    """
    kept = Path(results_dir) / RAW_FOLDER / experiment_id
    folder = kept if kept.is_dir() else Path(results_dir)
    indices = Counter(raw.process_index for raw in raw_results)
    expected = range(expected_processes)
    missing = [index for index in expected if index not in indices]
    duplicates = sorted(index for index, count in indices.items() if count > 1)
    missing_markers = [index for index in expected if not (folder / f"{COMPLETED_PREFIX}{index}").exists()]
    return CompletenessReport(
        is_complete=len(raw_results) == expected_processes and not (missing or duplicates or missing_markers),
        expected=expected_processes,
        found=len(raw_results),
        missing=missing,
        duplicates=duplicates,
        missing_markers=missing_markers,
    )


def aggregate_results(
    raw_results: Sequence[RawProcessResult],
    experiment_id: str,
    measurement_config_hash: str,
    measurement_methodology: Methodology = "total",
    steady_state_window: tuple[float, float] | None = None,
    baseline_power_w: float | None = None,
    energy_adjusted_j: float | None = None,
    energy_per_device_j: list[float] | None = None,
    energy_breakdown: EnergyBreakdown | None = None,
    multi_gpu: MultiGPUMetrics | None = None,
    environment_snapshot: EnvironmentSnapshot | None = None,
    measurement_warnings: list[str] | None = None,
    warmup_excluded_samples: int | None = None,
    warmup_result: WarmupResult | None = None,
    thermal_throttle: ThermalThrottleInfo | None = None,
    timeseries: str | None = None,
    effective_config: dict[str, Any] | None = None,
    *,
    requests: str | None = None,
    extended_metrics: ExtendedEfficiencyMetrics | None = None,
    energy_source: Literal["nvml_counter", "nvml_power", "none"] | None = None,
    invalid_reasons: list[str] | None = None,
    reproducibility_notes: str = "",
    prompts_sha256: str | None = None,
    passes: int | None = None,
    study: str | None = None,
    experiment: str | None = None,
    cycle: int | None = None,
    block: str | None = None,
    scheduling: Scheduling | None = None,
    attempt: int | None = None,
) -> ExperimentResult:
    """Merge the raw results of one experiment's processes, once.

    A sum with an unmeasured part is None, not the sum of the rest.

    Raises:
        ValueError: no raw results.
    """
    if not raw_results:
        raise ValueError(f"no process results for {experiment_id}")
    ordered = sorted(raw_results, key=lambda raw: raw.process_index)
    start = min(raw.timestamps.start for raw in ordered)
    end = max(raw.timestamps.end for raw in ordered)
    inference = [raw.inference_metrics for raw in ordered]
    # One process keeps its own monotonic duration: wall clocks can be set while it runs.
    seconds = inference[0].total_inference_time_sec if len(ordered) == 1 else (end - start).total_seconds()
    total_tokens = sum(metrics.total_tokens for metrics in inference)
    output_tokens = _sum(metrics.output_tokens for metrics in inference)
    energy = _sum(raw.energy_metrics.total_energy_joules for raw in ordered)
    return ExperimentResult(
        experiment_id=experiment_id,
        measurement_config_hash=measurement_config_hash,
        backend=ordered[0].backend,
        measurement_methodology=measurement_methodology,
        steady_state_window=steady_state_window,
        total_tokens=total_tokens,
        total_energy_j=energy,
        total_inference_time_sec=seconds,
        avg_tokens_per_second=sum(metrics.avg_tokens_per_second for metrics in inference) / len(ordered),
        avg_energy_per_token_j=_ratio(energy, total_tokens),
        total_flops=_sum(raw.compute_metrics.total_flops for raw in ordered),
        baseline_power_w=baseline_power_w,
        energy_adjusted_j=energy_adjusted_j,
        energy_per_device_j=energy_per_device_j,
        energy_breakdown=energy_breakdown,
        multi_gpu=multi_gpu,
        environment_snapshot=environment_snapshot,
        measurement_warnings=measurement_warnings or [],
        warmup_excluded_samples=warmup_excluded_samples,
        reproducibility_notes=reproducibility_notes,
        timeseries=timeseries,
        start_time=start,
        end_time=end,
        effective_config=effective_config or {},
        process_results=[raw.model_copy(update={"ttft_ms": None, "itl_ms": None}) for raw in ordered],
        aggregation=_metadata(ordered),
        thermal_throttle=thermal_throttle,
        warmup_result=warmup_result,
        latency_stats=summarise_latencies(
            [time for raw in ordered for time in raw.ttft_ms or ()],
            [time for raw in ordered for time in raw.itl_ms or ()],
        ),
        extended_metrics=extended_metrics,
        study=study,
        experiment=experiment,
        cycle=cycle,
        block=block,
        scheduling=scheduling,
        attempt=attempt,
        input_tokens=_sum(metrics.input_tokens for metrics in inference),
        output_tokens=output_tokens,
        cached_input_tokens=_sum(metrics.cached_input_tokens for metrics in inference),
        passes=passes,
        output_tokens_per_second=_ratio(output_tokens, seconds),
        total_tokens_per_second=_ratio(total_tokens, seconds),
        energy_per_output_token_j=_ratio(energy, output_tokens),
        energy_source=energy_source,
        measurement_valid=None if invalid_reasons is None else not invalid_reasons,
        invalid_reasons=invalid_reasons or [],
        requests=requests,
        prompts_sha256=prompts_sha256,
    )


def summarise_latencies(ttft_ms: Sequence[float], itl_ms: Sequence[float]) -> LatencyStatistics | None:
    """Mean, percentiles and range of both, pooled over all processes (ms); None if there are neither.

    Percentiles: Hyndman and Fan (1996), type 7, numpy's default.
    """
    if not ttft_ms and not itl_ms:
        return None
    return LatencyStatistics(**_summary("ttft", ttft_ms), **_summary("itl", itl_ms))


def _summary(prefix: str, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {f"{prefix}_samples": 0}
    array = np.asarray(values, dtype=float)
    p50, p95, p99 = np.percentile(array, [50, 95, 99])
    return {
        f"{prefix}_mean_ms": float(array.mean()),
        f"{prefix}_p50_ms": float(p50),
        f"{prefix}_p95_ms": float(p95),
        f"{prefix}_p99_ms": float(p99),
        f"{prefix}_min_ms": float(array.min()),
        f"{prefix}_max_ms": float(array.max()),
        f"{prefix}_samples": int(array.size),
    }


def _metadata(ordered: Sequence[RawProcessResult]) -> AggregationMetadata:
    warnings = []
    latest_start = max(raw.timestamps.start for raw in ordered)
    earliest_end = min(raw.timestamps.end for raw in ordered)
    overlap = latest_start <= earliest_end
    if not overlap:
        warnings.append("processes did not run at the same time")
    claims = _claimed_gpus(ordered)
    shared = sorted(gpu for gpu, count in claims.items() if count > 1)
    warnings += [f"{gpu} appears in multiple processes" for gpu in shared]
    return AggregationMetadata(
        num_processes=len(ordered),
        temporal_overlap_verified=overlap,
        gpu_attribution_verified=bool(claims) and not shared,
        warnings=warnings,
    )


def _claimed_gpus(ordered: Sequence[RawProcessResult]) -> Counter[str]:
    """How many processes claim each device: by UUID, by gpu_id where there is none."""
    claims: Counter[str] = Counter()
    for raw in ordered:
        if raw.gpu_uuids:
            claims.update(set(raw.gpu_uuids))
        elif raw.gpu_id is not None:
            claims[f"GPU {raw.gpu_id}"] += 1
    return claims


def _sum(parts: Iterable[Number | None]) -> Number | None:
    known = list(parts)
    return None if any(part is None for part in known) else sum(part for part in known if part is not None)


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
