"""A study of 200 experiments as a lab leaves it: two engines, models and GPU kinds, five batch sizes, five cycles."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from images.contract.config import BackendName, ExperimentConfig
from images.contract.files import REQUESTS_SCHEMA, TIMESERIES_FILE
from images.contract.result import ExperimentResult
from images.contract.work import Workload
from tests.warehouse.results import make_result, samples_table, save_failure

BACKENDS: dict[BackendName, float] = {"pytorch": 1.0, "vllm": 0.45}
"""Time that each takes, against the slowest."""
MODELS = {"org/small-1b": 1.0, "org/large-8b": 4.0}
GPUS = {"NVIDIA H100 80GB HBM3": (0.5, 520.0), "NVIDIA L4": (1.6, 68.0)}
"""Time against what is usual, and power (W)."""
BATCHES = (1, 4, 8, 16, 32)
CYCLES = 5
N_EXPERIMENTS = len(BACKENDS) * len(MODELS) * len(GPUS) * len(BATCHES) * CYCLES
N_REQUESTS = 40
_GAPS = (1, 5, 9, 13, 17)
"""Of one request after another; with the first token 10 on average, as the result says."""
_IMAGE = f"sha256:{'ab' * 32}"
_REVISION = "c0ffee" * 6 + "c0de"


def write_study(root: Path, study: str = "serving") -> None:
    """200 experiments that count, and beside them an invalid and a simulated one, failures and a broken directory."""
    rng = np.random.default_rng(5)
    number = 0
    for cycle in range(1, CYCLES + 1):
        for backend, model, gpu, batch in product(BACKENDS, MODELS, GPUS, BATCHES):
            number += 1
            _write(root, number, _config(backend, model, batch), gpu, cycle, study, rng)
    first = next(iter(GPUS))
    config = _config("vllm", "org/small-1b", 8)
    _write(root, 900, config, first, 6, study, rng, measurement_valid=False, invalid_reasons=["foreign_process"])
    _write(root, 901, config, first, 7, study, rng, environment={"simulated": True})
    for at in (1, 2, 3):
        tried = _config("vllm", "org/large-8b", 512)
        save_failure(
            root,
            at,
            study=study,
            experiment="vllm large 512",
            config=tried.model_dump(mode="json"),
            measurement_config_hash=tried.measurement_config_hash(),
            message="CUDA out of memory",
            advice="Lower batch_size.",
        )
    broken = root / "broken-c001_2026-01-02T03-04-05Z"
    broken.mkdir()
    (broken / "result.json").write_text("{")


def _config(backend: BackendName, model: str, batch: int) -> ExperimentConfig:
    workload = Workload(n_prompts=N_REQUESTS, max_output_tokens=10)
    return ExperimentConfig(backend=backend, model=model, dtype="bfloat16", batch_size=batch, workload=workload)


def _write(
    root: Path,
    number: int,
    config: ExperimentConfig,
    gpu: str,
    cycle: int,
    study: str,
    rng: np.random.Generator,
    environment: dict[str, Any] | None = None,
    **fields: Any,
) -> None:
    times, power_w = GPUS[gpu]
    seconds = 8.0 * BACKENDS[config.backend] * MODELS[config.model] * times / config.batch_size**0.7
    seconds *= rng.normal(1, 0.01)
    board = cycle % 2
    energy_j = power_w * seconds * (1.04 if board else 1.0) * rng.normal(1, 0.01)
    result = make_result(
        number,
        seconds=seconds,
        energy_j=energy_j,
        n_requests=N_REQUESTS,
        config=config,
        environment={
            "device": "cuda",
            "gpu_names": [gpu],
            "gpu_uuids": [f"GPU-{re.sub('[^0-9a-z]', '', gpu.lower())[-8:]}-{board}"],
            "driver_version": "580.65.06",
            "cuda_version": "13.0",
            "power_limits_w": [700.0],
            "image_name": f"joulehouse-{config.backend}",
            "image_id": _IMAGE,
            "git_revision": _REVISION,
            "package_versions": {"torch": "2.13.0", config.backend: "1.0"},
            "node": "node-1",
        }
        | (environment or {}),
        study=study,
        cycle=cycle,
        experiment=f"{config.backend} {config.model.rpartition('/')[2]} {config.batch_size}",
        prompts_sha256="5ca1ab1e" * 8,
        energy_source="nvml_power",
        # The figures are of a part of the window that has neither of its ends.
        measurement_methodology="windowed",
        steady_state_window=(0.1 * seconds, 0.8 * seconds),
        measurement_warnings=["short_duration: too short. Run longer."] if seconds < 2 else [],
        timeseries=TIMESERIES_FILE,
        **fields,
    )
    at = np.linspace(-0.05, seconds + 0.05, 60)
    samples = samples_table([(float(time_s), power_w * rng.normal(1, 0.03)) for time_s in at])
    result.save(root, timeseries=samples, requests=requests_of(result, rng))


def requests_of(result: ExperimentResult, rng: np.random.Generator) -> pa.Table:
    e2e_ms = rng.lognormal(np.log(1e3 * result.total_inference_time_sec / 4), 0.25, N_REQUESTS)
    rows = [
        {
            "process_index": 0,
            "request_index": index,
            "input_tokens": 20,
            "output_tokens": 1 + _GAPS[index % len(_GAPS)],
            "finish_reason": "length",
            "arrival_s": 0.0,
            "ttft_ms": float(value) / 10,
            "e2e_ms": float(value),
            "queue_ms": 0.0,
            "itl_ms": [0.9 * float(value) / _GAPS[index % len(_GAPS)]] * _GAPS[index % len(_GAPS)],
        }
        for index, value in enumerate(e2e_ms)
    ]
    return pa.Table.from_pylist(rows, schema=REQUESTS_SCHEMA)
