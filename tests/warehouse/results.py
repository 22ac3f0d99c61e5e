"""Result directories as jobs leave them, written with the real contract."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from images.contract.aggregation import aggregate_results
from images.contract.config import ExperimentConfig
from images.contract.failure import JobFailure
from images.contract.files import REQUESTS_SCHEMA, TIMESERIES_FILE, TIMESERIES_SCHEMA
from images.contract.parts import (
    ComputeMetrics,
    EnergyMetrics,
    EnvironmentSnapshot,
    InferenceMetrics,
    RawProcessResult,
    Timestamps,
)
from images.contract.result import ExperimentResult
from warehouse.cli import main

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONFIG = ExperimentConfig(backend="stub", batch_size=4, dtype="float32")


def make_result(
    number: int = 1,
    *,
    seconds: float = 2.0,
    energy_j: float | None = None,
    n_requests: int | None = 3,
    environment: dict[str, Any] | None = None,
    config: ExperimentConfig = CONFIG,
    **fields: Any,
) -> ExperimentResult:
    """A result whose id and start follow from `number`; `n_requests` None is a result without request times."""
    count = n_requests or 1
    experiment_id = f"exp_20260102_030405_{number:08x}"
    start = START + timedelta(minutes=number)
    raw = RawProcessResult(
        experiment_id=experiment_id,
        process_index=0,
        gpu_id=None,
        config_name="stub",
        model_name=config.model,
        timestamps=Timestamps.from_times(start, start + timedelta(seconds=seconds)),
        inference_metrics=InferenceMetrics(
            total_tokens=30 * count,
            total_prompts=count,
            avg_tokens_per_second=30 * count / seconds,
            total_inference_time_sec=seconds,
            input_tokens=20 * count,
            output_tokens=10 * count,
        ),
        energy_metrics=EnergyMetrics(total_energy_joules=energy_j, avg_power_watts=None, energy_per_token_joules=None),
        compute_metrics=ComputeMetrics(total_flops=None, peak_memory_mb=None),
        backend=config.backend,
        ttft_ms=[10.0 * seconds] * count,
        itl_ms=[1.5] * count,
    )
    return aggregate_results(
        [raw],
        experiment_id,
        config.measurement_config_hash(),
        effective_config=config.model_dump(mode="json"),
        environment_snapshot=EnvironmentSnapshot(**{"cpu_model": "Test CPU", "device": "none"} | (environment or {})),
        requests=None if n_requests is None else "requests.parquet",
        cycle=number,
    ).model_copy(update=fields)


def requests_table(count: int, **columns: Any) -> pa.Table:
    row = {"process_index": 0, "input_tokens": 20, "output_tokens": 10, "ttft_ms": 1.0, "itl_ms": [1.0, None]} | columns
    return pa.Table.from_pylist([row | {"request_index": index} for index in range(count)], schema=REQUESTS_SCHEMA)


def samples_table(*gpus: Sequence[tuple[float, float | None]], temperature_c: float | None = 40.0) -> pa.Table:
    """timeseries.parquet of one list of (seconds, W) per GPU, in the order of time as a sampler leaves it."""
    found = sorted((time_s, index, power_w) for index, samples in enumerate(gpus) for time_s, power_w in samples)
    rows = [
        {"timestamp_s": time_s, "gpu_power_w": power_w, "gpu_temperature_c": temperature_c, "gpu_index": index}
        for time_s, index, power_w in found
    ]
    return pa.Table.from_pylist(rows, schema=TIMESERIES_SCHEMA)


def save(
    root: Path, result: ExperimentResult, n_requests: int = 3, samples: pa.Table | None = None, **request: Any
) -> Path:
    """The directory that `result` was saved in; every one of its requests has the columns `request`."""
    named = result.model_copy(update={"timeseries": None if samples is None else TIMESERIES_FILE})
    requests = requests_table(n_requests, **request) if result.requests else None
    return named.save(root, timeseries=samples, requests=requests).parent


def save_failure(root: Path, number: int = 1, **fields: Any) -> Path:
    directory = root / f"failed-{number}"
    directory.mkdir(parents=True)
    failure = JobFailure(
        **{
            "experiment_id": f"exp_20260102_030405_f{number:07x}",
            "backend": "stub",
            "measurement_config_hash": CONFIG.measurement_config_hash(),
            "config": CONFIG.model_dump(mode="json"),
            "error_class": "OutOfMemory",
            "exit_code": 12,
            "message": "no memory",
            "time": START,
        }
        | fields
    )
    (directory / "failure.json").write_text(failure.model_dump_json())
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def warehouse(*arguments: str | Path, db: Path) -> int:
    """The exit code of one ``warehouse`` command on `db`."""
    return main([*map(str, arguments), "--db", str(db)])


def rows(db: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query gives."""
    with duckdb.connect(str(db), read_only=True) as connection:
        return connection.execute(query).fetchall()
