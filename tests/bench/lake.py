"""Many result directories as a year of studies leaves them, made fast.

A few recordings (what two processes measured in one run, with their Parquet files) are made with the contract; every
directory then has its own configuration, ids, times and energies over one of them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from images.contract import files
from images.contract.config import ExperimentConfig
from images.contract.failure import JobFailure
from images.contract.parts import EnergyBreakdown, EnergyMetrics, RawProcessResult, Timestamps
from images.contract.result import ExperimentResult
from images.contract.scheduling import Scheduling, block_name
from images.contract.work import Workload
from tests.bench.recordings import OUTPUT_TOKENS, WINDOW_S, Recording, joules

_MODELS = ["org/model-1b", "org/model-3b", "org/model-8b", "org/model-14b", "org/model-32b"]
_GPUS = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB")
_N_NODES = 4
"""With eight GPUs each, half of the nodes with each kind."""
_START = datetime(2026, 1, 1, tzinfo=UTC)
_WARNINGS = [
    "no_baseline: no idle power was measured. Set measurement.baseline.enabled: true.",
    "ecc_disabled: ECC memory is off on some GPU. Turn it on, or compare only GPUs that have it off.",
    "short_p99: 100 requests are too few for a 99th percentile. Measure at least 200.",
]

Part = TypeVar("Part")


@dataclass(frozen=True)
class Study:
    """One study, the `number`th of its year, of `n_configs` configurations from the `first_config`th on."""

    number: int
    n_configs: int
    first_config: int = 0

    @property
    def name(self) -> str:
        return f"study-{self.number:03d}"


def write_results(
    root: Path, study: Study, recordings: list[Recording], cycles: range, n_configs: int | None = None, *, link: bool
) -> None:
    """Write one directory for each of `cycles` of the study's first `n_configs` configurations (all, if not told).

    Args:
        link: sidecars are links to those of the recordings, not copies.
    """
    rng = np.random.default_rng([study.number, cycles.start])
    folder = root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    for cycle in cycles:
        for index in range(n_configs or study.n_configs):
            recording = recordings[int(rng.integers(len(recordings)))]
            result = _varied(recording.result, study, index, cycle, rng)
            directory = folder / result.directory_name
            directory.mkdir()
            (directory / files.RESULT_FILE).write_text(result.model_dump_json(indent=1))
            for sidecar in recording.sidecars:
                if link:
                    os.link(sidecar, directory / sidecar.name)
                else:
                    shutil.copyfile(sidecar, directory / sidecar.name)


def write_failures(root: Path, study: Study, count: int) -> None:
    """One failed job for each of the study's first `count` configurations."""
    for index in range(count):
        config, config_hash, dumped = _configured(study.first_config + index, 1)
        failure = JobFailure(
            experiment_id=f"exp_20260101_000000_f{study.number:02x}{index:05x}",
            backend=config.backend,
            measurement_config_hash=config_hash,
            config=dumped,
            study=study.name,
            cycle=1,
            attempt=1,
            error_class="OutOfMemory",
            exit_code=12,
            message="the GPU has no memory left.",
            advice="Make batch_size smaller.",
            time=_START + timedelta(days=7 * study.number, seconds=index),
        )
        name = files.directory_name(["failed", config.backend, config_hash[:8], "c001", "failed"], failure.time)
        directory = root / study.name / name
        directory.mkdir(parents=True)
        (directory / files.FAILURE_FILE).write_text(failure.model_dump_json(indent=1))


@cache
def _configured(index: int, n_processes: int) -> tuple[ExperimentConfig, str, dict[str, Any]]:
    """The `index`th configuration that studies measure, its hash, and how a result holds it."""
    config = ExperimentConfig(
        model=_MODELS[index % len(_MODELS)],
        dtype="bfloat16" if index // len(_MODELS) % 2 else "float16",
        batch_size=1 + index // (2 * len(_MODELS)),
        num_processes=n_processes,
        workload=Workload(max_output_tokens=OUTPUT_TOKENS),
    )
    return config, config.measurement_config_hash(), config.model_dump(mode="json")


def _varied(base: ExperimentResult, study: Study, index: int, cycle: int, rng: np.random.Generator) -> ExperimentResult:
    """`base` as a cycle of another configuration, at its own time, on its own GPUs, with its own speed and energy."""
    n_processes = len(base.process_results)
    config, config_hash, dumped = _configured(study.first_config + index, n_processes)
    position = cycle * study.n_configs + index
    start = _START + timedelta(days=7 * study.number, seconds=30 * position)
    # Each configuration has its own speed and power, and each cycle strays 1 % around them.
    end = start + timedelta(seconds=WINDOW_S * (1 - index % 13 / 20) * rng.normal(1, 0.01))
    power_w = 300.0 * (1 + index % 17 / 20) * rng.normal(1, 0.01)
    node = index % _N_NODES
    gpu = _GPUS[node * len(_GPUS) // _N_NODES]
    uuids = [f"GPU-{node:08x}-0000-0000-0000-{(cycle + rank) % 8:012x}" for rank in range(n_processes)]
    experiment_id = f"exp_{start:%Y%m%d_%H%M%S}_{study.number:03x}{position:05x}"
    seconds = (end - start).total_seconds()
    own = {"experiment_id": experiment_id, "config_name": config_hash, "model_name": config.model, "gpu_name": gpu}
    times = Timestamps.from_times(start, end)
    raws = [
        raw.model_copy(update={**own, "timestamps": times, "gpu_uuids": [uuid], **_metrics(raw, seconds, power_w)})
        for raw, uuid in zip(base.process_results, uuids, strict=True)
    ]
    energies = [joules(raw) for raw in raws]
    rates = [raw.inference_metrics.avg_tokens_per_second for raw in raws]
    output_tokens = base.output_tokens or 1
    invalid = ["throttled"] if position % 97 == 0 else []
    return base.model_copy(
        update={
            "experiment_id": experiment_id,
            "measurement_config_hash": config_hash,
            "effective_config": dumped,
            "study": study.name,
            "cycle": cycle,
            "block": block_name(cycle, uuids),
            "scheduling": Scheduling(placement="block", order="shuffled", seed=study.number, position=index + 1),
            "start_time": start,
            "end_time": end,
            "total_inference_time_sec": seconds,
            "avg_tokens_per_second": fmean(rates),
            "output_tokens_per_second": output_tokens / seconds,
            "total_tokens_per_second": base.total_tokens / seconds,
            "process_results": raws,
            "total_energy_j": sum(energies),
            "energy_per_device_j": energies,
            "energy_per_output_token_j": sum(energies) / output_tokens,
            "avg_energy_per_token_j": sum(energies) / base.total_tokens,
            "energy_adjusted_j": sum(energies) - (base.baseline_power_w or 0.0) * seconds,
            "energy_breakdown": _breakdown(base, energies, uuids),
            "environment_snapshot": _part(base.environment_snapshot).model_copy(
                update={"gpu_names": [gpu] * n_processes, "gpu_uuids": uuids, "node": f"node-{node}"}
            ),
            "measurement_warnings": _WARNINGS[: position % len(_WARNINGS) + 1],
            "measurement_valid": not invalid,
            "invalid_reasons": invalid,
        }
    )


def _metrics(raw: RawProcessResult, seconds: float, power_w: float) -> dict[str, Any]:
    tokens = raw.inference_metrics.total_tokens
    energy_j = power_w * seconds
    rate = {"avg_tokens_per_second": tokens / seconds, "total_inference_time_sec": seconds}
    return {
        "inference_metrics": raw.inference_metrics.model_copy(update=rate),
        "energy_metrics": EnergyMetrics(
            total_energy_joules=energy_j, avg_power_watts=power_w, energy_per_token_joules=energy_j / tokens
        ),
        "energy_per_device_j": [energy_j],
    }


def _breakdown(base: ExperimentResult, energies: list[float], uuids: list[str]) -> EnergyBreakdown:
    breakdown = _part(base.energy_breakdown)
    devices = [
        device.model_copy(update={"gpu_uuid": uuid, "energy_j": energy, "counter_j": energy})
        for device, energy, uuid in zip(breakdown.devices, energies, uuids, strict=True)
    ]
    return breakdown.model_copy(update={"counter_j": sum(energies), "devices": devices})


def _part(part: Part | None) -> Part:
    assert part is not None, "recordings have every part"
    return part
