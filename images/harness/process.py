"""What one process does, read top-down: load, warm up, measured window, summary. All its GPUs are its own."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from images.contract.config import ExperimentConfig
from images.contract.job import JobContext, JobError, MeasurementFailed
from images.contract.latency import lies_in
from images.contract.parts import (
    ComputeMetrics,
    EnergyMetrics,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from images.contract.process import ProcessData, ProcessRecord
from images.harness.backend import Backend, LoadedModel, MemoryUse
from images.harness.findings import meter_findings, meter_verdict
from images.harness.flops import count_flops
from images.harness.latency import RequestRecord, records, requests_table
from images.harness.meter import Meter, Metered
from images.harness.nvml import Device
from images.harness.phases import split_energy
from images.harness.progress import Live, Progress
from images.harness.prompts import check_prompts
from images.harness.warmup import warm_up, warmup_requests
from images.harness.window import Marks, Window, run_window
from images.harness.workload import prepare_passes, prepare_workload, share_of

log = logging.getLogger(__name__)

_MOST_PREPARED = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the experiment's processes this is.

    Attributes:
        index: rank, from 0.
        first_gpu: number in the job of its first GPU.
        devices: its GPUs as the meter sees them; none without a meter.
    """

    experiment_id: str
    config_hash: str
    index: int
    first_gpu: int
    devices: Sequence[Device]


def measure_process(
    config: ExperimentConfig,
    context: JobContext,
    place: Place,
    backend: Backend,
    marks: Marks,
    progress: Progress,
    after_window: Callable[[ProcessData], None],
) -> ProcessData:
    """Measure this process's share of the experiment.

    Args:
        progress: told each phase as it begins, never inside the measured window. A thread of its own looks in there
            too, once a second, at the backend's count and the sampler's latest readings.
        after_window: what has to happen while the model is still loaded and idle.

    Raises:
        JobError: with the cause and what to do.
    """
    check_prompts(config)
    meter = Meter(place.devices, config.measurement.sample_interval_ms / 1e3, first_index=place.first_gpu)
    meter.calibrate()
    progress.phase("load")
    loaded = backend.load(config, context)
    try:
        if loaded.device == "cpu" and not any(device.properties.simulated for device in place.devices):
            meter = Meter((), 1.0)  # whatever the GPUs draw, it is not for this work
        workload = share_of(prepare_workload(config, loaded), place.index, config)
        passes = prepare_passes(workload, config, loaded, place.index, _passes_needed(config))
        with progress.following(lambda: Live(time.perf_counter(), backend.delivered(), meter.power_w())):
            progress.phase("warm_up")
            with meter.watching():
                warmup = warm_up(workload.requests, config, loaded, backend)
            progress.phase("window")
            try:
                window = run_window(passes, config, backend, meter, marks, loaded.slots)
            finally:
                meter.stop()
        progress.phase("close")
        metered = meter.metered(window.opened_s, window.closed_s, window.span)
        rows = [row for one in window.passes for row in records(one, window.opened_s, place.index)]
        memory = backend.memory()
        raw = _raw_result(config, context, place, loaded, window, rows, metered, memory)
        data = ProcessData(
            record=ProcessRecord(
                raw=raw,
                window_s=window.closed_s - window.opened_s,
                span_s=window.span,
                devices=metered.devices,
                activity=metered.activity,
                warmup=warmup,
                warmup_requests=warmup_requests(workload.requests, config, warmup),
                passes=len(window.passes),
                stamped_requests=len(raw.ttft_ms or ()),
                caches_emptied=window.caches_emptied,
                has_chat_template=loaded.tokenizer.has_chat_template,
                cut_prompts=workload.cut_prompts,
                padding_fraction=window.padding_fraction,
                slots=loaded.slots or config.batch_size,
                weights_mb=memory.weights_mb,
                kv_cache_mb=memory.kv_cache_mb,
                peak_memory_mb=memory.peak_mb,
                phases=split_energy(rows, metered, window.described, place.first_gpu),
                prompts_sha256=workload.prompts_sha256,
                device=loaded.device,
                model_commit=loaded.model_commit,
                observed_settings=dict(loaded.observed_settings),
                findings=[*loaded.findings, *backend.findings(), *meter_findings(config, metered, meter.devices)],
                invalid_reasons=meter_verdict(metered, meter.devices, raw.timestamps.duration_sec),
            ),
            requests=requests_table(rows),
            samples=metered.samples,
        )
        after_window(data)
    finally:
        _close(backend)
    return data


def _close(backend: Backend) -> None:
    """What was measured is not given up because the engine stumbles on its way out."""
    try:
        backend.close()
    except (JobError, RuntimeError, OSError) as error:
        log.warning("the backend did not close cleanly: %s", error)


def _passes_needed(config: ExperimentConfig) -> int:
    """Passes to prepare before the window: preparing takes time that must not be measured.

    How long a pass takes is not known yet, so a second each is assumed; should they be shorter, prompts come again.
    """
    return min(max(math.ceil(config.measurement.min_window_s), 1), _MOST_PREPARED)


def _raw_result(
    config: ExperimentConfig,
    context: JobContext,
    place: Place,
    loaded: LoadedModel,
    window: Window,
    rows: Sequence[RequestRecord],
    metered: Metered,
    memory: MemoryUse,
) -> RawProcessResult:
    """Tokens, time, energy and latency of the described part of the window."""
    start_s, end_s = window.described
    own_end_s = min(end_s, window.finished_s - window.opened_s)
    seconds = own_end_s - start_s
    input_tokens, cached_tokens, output_tokens = _tokens(window)
    if input_tokens + output_tokens == 0:
        raise MeasurementFailed(
            "no token was generated in the part of the window that is described.",
            "Raise measurement.window_length_s, or set measurement.methodology: total.",
        )
    whole = [row for row in rows if window.span is None or lies_in(asdict(row), window.span)]
    flops, method = count_flops(
        ((row.input_tokens, row.output_tokens) for row in rows), loaded.shape, loaded.parameters
    )
    # Of a CPU run's GPUs only simulated ones are named: nothing can be computed on them.
    gpu_uuids = [] if not metered.devices and loaded.device == "cpu" else context.gpu_uuids or []
    energies = [device.energy_j for device in metered.devices]
    energy = None if not energies or None in energies else math.fsum(one for one in energies if one is not None)
    return RawProcessResult(
        experiment_id=place.experiment_id,
        process_index=place.index,
        gpu_id=place.first_gpu if gpu_uuids else None,
        gpu_uuids=gpu_uuids or None,
        gpu_name=_gpu_name(place, loaded) if gpu_uuids else None,
        config_name=place.config_hash,
        model_name=config.model,
        backend=config.backend,
        timestamps=Timestamps(
            # The wall clock may be set during the run; its difference is not used.
            start=window.opened_at + timedelta(seconds=start_s),
            end=window.opened_at + timedelta(seconds=own_end_s),
            duration_sec=seconds,
        ),
        inference_metrics=InferenceMetrics(
            total_tokens=input_tokens + output_tokens,
            total_prompts=len(rows),
            avg_tokens_per_second=(input_tokens + output_tokens) / seconds,
            total_inference_time_sec=seconds,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached_tokens,
        ),
        energy_metrics=EnergyMetrics(
            total_energy_joules=energy,
            avg_power_watts=None if energy is None else energy / (end_s - start_s),
            energy_per_token_joules=None if energy is None else energy / (input_tokens + output_tokens),
        ),
        compute_metrics=ComputeMetrics(
            # Of a part of the window it is not known which positions were computed in it.
            total_flops=flops if window.span is None else None,
            flops_method=method,
            peak_memory_mb=memory.peak_mb or _peak_process_memory_mb(),
        ),
        energy_per_device_j=[one for one in energies if one is not None] if energy is not None else None,
        per_request_latencies_ms=[row.e2e_ms for row in whole if row.e2e_ms is not None],
        ttft_ms=[row.ttft_ms for row in whole if row.ttft_ms is not None],
        itl_ms=[gap for row in whole for gap in row.itl_ms or ()],
        idle_tail_s=window.closed_s - window.finished_s if config.num_processes > 1 else None,
    )


def _tokens(window: Window) -> tuple[int, int | None, int]:
    """Input tokens, those of them that a cache served, and output tokens of the described part.

    By time stamp, input at the request's first token.
    """
    inputs = {request.index: len(request.token_ids) for one in window.passes for request in one.requests}
    generations = [generation for one in window.passes for generation in one.generations]
    if window.span is None:
        begun, output_tokens = generations, sum(len(generation.output_ids) for generation in generations)
    else:
        start_s, end_s = (window.opened_s + edge for edge in window.span)
        begun = [one for one in generations if one.delivery_s and start_s <= one.delivery_s[0] <= end_s]
        output_tokens = sum(
            count
            for one in generations
            for stamp, count in zip(one.delivery_s or (), one.delivery_tokens or (), strict=True)
            if start_s <= stamp <= end_s
        )
    cached = [one.cached_input_tokens for one in begun]
    return (
        sum(inputs[one.request_index] for one in begun),
        None if None in cached else sum(count for count in cached if count is not None),
        output_tokens,
    )


def _gpu_name(place: Place, loaded: LoadedModel) -> str:
    return place.devices[0].properties.name if place.devices else loaded.device


def _peak_process_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
