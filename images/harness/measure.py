"""One measured experiment, read top-down: load, warm up, measured window, close, aggregate.

Time, tokens and latency come from the same window of the same run. There is no energy meter yet:
energy is None and its source is "none".
"""

from __future__ import annotations

import gc
import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from images.contract import files
from images.contract.aggregation import aggregate_results
from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, GpuUnusable, JobContext, JobError, MeasurementFailed
from images.contract.parts import (
    ComputeMetrics,
    EnergyMetrics,
    EnvironmentSnapshot,
    ExtendedEfficiencyMetrics,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
    WarmupResult,
)
from images.contract.result import ExperimentResult
from images.harness.backend import Backend, Generation, LoadedModel, Request
from images.harness.environment import snapshot_environment
from images.harness.findings import find_warnings
from images.harness.flops import count_flops
from images.harness.latency import RequestRecord, mean, records, requests_table
from images.harness.workload import PreparedWorkload, largest_batch, prepare_workload, warmup_pass, warmup_round

log = logging.getLogger(__name__)

REPRODUCIBILITY_NOTES = (
    "Greedy decoding repeats its tokens on the same hardware, driver and package versions only; "
    "compare figures across machines by their intervals, not by single cycles."
)


@dataclass(frozen=True, slots=True)
class Window:
    """The measured window: both marks, what came back between them, and whether caches were empty."""

    opened_s: float
    closed_s: float
    opened_at: datetime
    generations: list[Generation]
    caches_emptied: bool

    @property
    def seconds(self) -> float:
        return self.closed_s - self.opened_s


@dataclass(frozen=True, slots=True)
class Measured:
    """The result and its per-request rows."""

    result: ExperimentResult
    requests: files.Table


def measure(
    config: ExperimentConfig,
    context: JobContext,
    experiment_id: str,
    backend: Backend,
    report: Callable[[str], None],
) -> Measured:
    """Run one experiment on `backend`.

    Args:
        report: told the name of each phase as it begins; never called inside the measured window.

    Raises:
        JobError: with the cause and what to do.
    """
    preflight(config)
    config_hash = context.measurement_config_hash or config.measurement_config_hash()
    environment = snapshot_environment(context, backend.packages)
    report("load")
    loaded = backend.load(config, context)
    try:
        workload = prepare_workload(config, loaded)
        report("warm_up")
        warmup = warm_up(workload, config, loaded, backend)
        report("window")
        window = run_window(workload.requests, backend)
        report("close")
        raw, rows = summarise_process(config, experiment_id, loaded, workload, window, backend, config_hash, context)
        padding = backend.padding_fraction()
    finally:
        _close(backend)
    result = aggregate_results(
        [raw],
        experiment_id,
        config_hash,
        config.measurement.methodology,
        environment_snapshot=_with_model(environment, loaded, context),
        measurement_warnings=_warnings(config, loaded, warmup, window, rows, raw),
        warmup_excluded_samples=_warmup_requests(workload, config, warmup),
        warmup_result=warmup,
        effective_config=config.model_dump(mode="json"),
        requests=files.REQUESTS_FILE,
        extended_metrics=_extended(rows, padding),
        energy_source="none",
        invalid_reasons=[],
        reproducibility_notes=REPRODUCIBILITY_NOTES,
        prompts_sha256=workload.prompts_sha256,
        passes=1,
        study=context.study,
        cycle=context.cycle,
        block=context.block,
        attempt=context.attempt,
    )
    return Measured(result, requests_table(rows))


def _close(backend: Backend) -> None:
    """What was measured is not given up because the engine stumbles on its way out."""
    try:
        backend.close()
    except (JobError, RuntimeError, OSError) as error:
        log.warning("the backend did not close cleanly: %s", error)


def preflight(config: ExperimentConfig) -> None:
    """Refuse what cannot be measured yet, before any time is spent.

    Raises:
        ConfigInvalid, GpuUnusable.
    """
    measurement = config.measurement
    if measurement.methodology != "total":
        raise ConfigInvalid(
            f"measurement.methodology '{measurement.methodology}' cannot be measured yet.", "Set it to total."
        )
    if measurement.min_window_s > 0:
        raise ConfigInvalid(
            "measurement.min_window_s cannot be honoured yet.", "Leave it at 0 and raise workload.n_prompts."
        )
    if config.num_processes > 1 or config.gpus_per_process > 1:
        raise ConfigInvalid(
            "several processes or GPUs in one job cannot be measured yet.",
            "Leave num_processes and gpus_per_process at 1.",
        )
    if measurement.energy == "nvml":
        raise GpuUnusable("measurement.energy is nvml, but there is no NVML meter yet.", "Set it to auto or none.")


def warm_up(
    workload: PreparedWorkload, config: ExperimentConfig, loaded: LoadedModel, backend: Backend
) -> WarmupResult | None:
    """One pass in every measured shape, then rounds until the last few agree, or the cap; None if turned off."""
    settings = config.measurement.warmup
    if not settings.enabled:
        return None
    if settings.full_pass:
        backend.run(warmup_pass(workload.requests, config, loaded.tokenizer))
        backend.drain()
    rates: list[float] = []
    for index in range(settings.max_rounds):
        requests = warmup_round(workload.requests, config, loaded.tokenizer, index)
        rates.append(_rate(requests, backend))
        variation = coefficient_of_variation(rates[-settings.window :]) if len(rates) >= settings.window else None
        log.info("warm-up round %d: %.1f tokens/s", index + 1, rates[-1])
        if variation is not None and variation <= settings.cv_threshold:
            break
    return WarmupResult(
        converged=variation is not None and variation <= settings.cv_threshold,
        final_cv=variation,
        target_cv=settings.cv_threshold,
        iterations_completed=len(rates),
        max_rounds=settings.max_rounds,
        tokens_per_second=rates,
    )


def run_window(requests: Sequence[Request], backend: Backend) -> Window:
    """Drain, empty caches, mark, all requests, drain, mark.

    Raises:
        MeasurementFailed: a request did not come back, or came back twice.
    """
    gc.collect()  # not in the window
    backend.drain()
    caches_emptied = backend.reset_caches()
    backend.drain()
    opened_at = datetime.now(UTC)
    opened_s = time.perf_counter()
    generations = backend.run(requests)
    backend.drain()
    closed_s = time.perf_counter()
    returned = sorted(generation.request_index for generation in generations)
    if returned != [request.index for request in requests]:
        raise MeasurementFailed(
            f"{len(requests)} requests went in and {len(returned)} came back.", "Report this as a bug of the backend."
        )
    window = Window(opened_s, closed_s, opened_at, generations, caches_emptied)
    for request, generation in zip(requests, sorted(generations, key=lambda one: one.request_index), strict=True):
        _check_promises(request, generation, window)
    return window


def _check_promises(request: Request, generation: Generation, window: Window) -> None:
    """What every figure rests on: counts add up and every mark lies inside the window.

    Raises:
        MeasurementFailed: a bug of the backend; better no figure than a wrong one.
    """
    produced = len(generation.output_ids)
    times, tokens = generation.delivery_s, generation.delivery_tokens
    problem = None
    if not 0 < produced <= request.max_output_tokens:
        problem = f"{produced} output tokens, {request.max_output_tokens} allowed"
    elif times is not None and (tokens is None or len(times) != len(tokens) or sum(tokens) != produced):
        problem = "deliveries that do not add up to its output tokens"
    elif times is not None and list(times) != sorted(times):
        problem = "time stamps that run backwards"
    elif times and not window.opened_s <= times[0] <= times[-1] <= window.closed_s:
        problem = "time stamps outside the measured window"
    if problem is not None:
        raise MeasurementFailed(f"request {request.index} came back with {problem}.", "Report this as a backend's bug.")


def summarise_process(
    config: ExperimentConfig,
    experiment_id: str,
    loaded: LoadedModel,
    workload: PreparedWorkload,
    window: Window,
    backend: Backend,
    config_name: str,
    context: JobContext,
) -> tuple[RawProcessResult, list[RequestRecord]]:
    """What this process measured, and its per-request rows."""
    used_gpus = _used_gpus(loaded, context)
    rows = records(workload.requests, window.generations, window.opened_s)
    input_tokens = sum(row.input_tokens for row in rows)
    output_tokens = sum(row.output_tokens for row in rows)
    cached = [generation.cached_input_tokens for generation in window.generations]
    flops, method = count_flops(
        ((row.input_tokens, row.output_tokens) for row in rows), loaded.shape, loaded.parameters
    )
    raw = RawProcessResult(
        experiment_id=experiment_id,
        process_index=0,
        gpu_id=0 if used_gpus else None,
        gpu_uuids=used_gpus or None,
        gpu_name=loaded.device if used_gpus else None,
        config_name=config_name,
        model_name=config.model,
        backend=config.backend,
        timestamps=Timestamps(
            # The wall clock may be set during the run; its difference is not used.
            start=window.opened_at,
            end=window.opened_at + timedelta(seconds=window.seconds),
            duration_sec=window.seconds,
        ),
        inference_metrics=InferenceMetrics(
            total_tokens=input_tokens + output_tokens,
            total_prompts=len(rows),
            avg_tokens_per_second=(input_tokens + output_tokens) / window.seconds,
            total_inference_time_sec=window.seconds,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=None if None in cached else sum(count for count in cached if count is not None),
        ),
        energy_metrics=EnergyMetrics(total_energy_joules=None, avg_power_watts=None, energy_per_token_joules=None),
        compute_metrics=ComputeMetrics(
            total_flops=flops,
            flops_method=method,
            peak_memory_mb=backend.peak_memory_mb() or _peak_process_memory_mb(),
        ),
        per_request_latencies_ms=[row.e2e_ms for row in rows if row.e2e_ms is not None],
        ttft_ms=[row.ttft_ms for row in rows if row.ttft_ms is not None],
        itl_ms=[gap for row in rows for gap in row.itl_ms or ()],
    )
    return raw, rows


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Sample standard deviation (ddof 1) over the mean."""
    array = np.asarray(values)
    return float(array.std(ddof=1) / array.mean())


def _rate(requests: Sequence[Request], backend: Backend) -> float:
    started = time.perf_counter()
    generations = backend.run(requests)
    backend.drain()
    tokens = sum(len(request.token_ids) for request in requests) + sum(len(one.output_ids) for one in generations)
    return tokens / (time.perf_counter() - started)


def _warnings(
    config: ExperimentConfig,
    loaded: LoadedModel,
    warmup: WarmupResult | None,
    window: Window,
    rows: Sequence[RequestRecord],
    raw: RawProcessResult,
) -> list[str]:
    return find_warnings(
        config,
        window_s=window.seconds,
        n_requests=len(rows),
        stamped_requests=sum(row.ttft_ms is not None for row in rows),
        warmup=warmup,
        caches_emptied=window.caches_emptied,
        cached_input_tokens=raw.inference_metrics.cached_input_tokens,
        has_chat_template=loaded.tokenizer.has_chat_template,
    )


def _warmup_requests(workload: PreparedWorkload, config: ExperimentConfig, warmup: WarmupResult | None) -> int:
    if warmup is None:
        return 0
    in_pass = len(workload.requests) if config.measurement.warmup.full_pass else 0
    return in_pass + warmup.iterations_completed * len(largest_batch(workload.requests, config))


def _extended(rows: Sequence[RequestRecord], padding: float | None) -> ExtendedEfficiencyMetrics:
    return ExtendedEfficiencyMetrics(
        tpot_mean_ms=mean(row.tpot_ms for row in rows),
        e2e_mean_ms=mean(row.e2e_ms for row in rows),
        padding_fraction=padding,
    )


def _with_model(environment: EnvironmentSnapshot, loaded: LoadedModel, context: JobContext) -> EnvironmentSnapshot:
    return environment.model_copy(
        update={
            "model_commit": loaded.model_commit,
            "observed_settings": dict(loaded.observed_settings),
            "device": loaded.device,
            "gpu_uuids": _used_gpus(loaded, context) or None,
            "gpu_names": [loaded.device] * len(_used_gpus(loaded, context)) or None,
        }
    )


def _used_gpus(loaded: LoadedModel, context: JobContext) -> list[str]:
    """The GPUs that the job was given, unless it was told to leave them alone."""
    return [] if loaded.device in ("cpu", "none") else context.gpu_uuids or []


def _peak_process_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
