"""A small year of work: studies with several engines, GPUs and drivers, and with what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from images.contract.config import BackendName, ExperimentConfig
from images.contract.files import REQUESTS_SCHEMA, TIMESERIES_FILE
from images.contract.parts import DeviceEnergy, EnergyBreakdown, ExtendedEfficiencyMetrics
from images.contract.result import ExperimentResult
from images.contract.work import ArrivalProcess, Workload
from tests.warehouse.results import make_result, samples_table, save_failure

MODEL = "org/model-1b"
GPUS = {"GPU-a": 1.0, "GPU-b": 1.1, "GPU-c": 0.95}
"""How much energy each takes, against what is usual."""
OUTPUT_TOKENS = 40
_DAY = 1440  # in minutes, which results are numbered by
_OLD_DRIVER, _NEW_DRIVER = "570.86.15", "580.65.06"


@dataclass
class Year:
    """What was written.

    Attributes:
        counting: the results that belong into every summary.
        others: those that do not: invalid, superseded, simulated.
    """

    root: Path
    counting: list[ExperimentResult] = field(default_factory=list)
    others: list[ExperimentResult] = field(default_factory=list)

    def of(self, study: str, **settings: Any) -> list[ExperimentResult]:
        """The results of a study that count and have these fields in their configuration."""
        return [
            result
            for result in self.counting
            if result.study == study and settings.items() <= result.effective_config.items()
        ]


def write_year(root: Path) -> Year:
    """Write every directory, a broken one included."""
    year = Year(root)
    _batch_size_study(year)
    _driver_study(year)
    _length_study(year)
    _open_loop_study(year)
    _what_goes_wrong(year)
    return year


def _batch_size_study(year: Year) -> None:
    """Two engines, three batch sizes, a cycle on each GPU; also one without a GPU."""
    # Energy and time, against each other: one engine is slower and takes less.
    backends: dict[BackendName, tuple[float, float]] = {"pytorch": (0.5, 1.0), "vllm": (0.6, 0.6)}
    number = 0
    for cycle, gpu in enumerate(GPUS, start=1):
        for backend, (energy, time) in backends.items():
            for batch_size in (1, 8, 32):
                number += 1
                # More at once is slower for each request and takes less energy for each token.
                _write(
                    year,
                    number,
                    gpu,
                    _config(backend, batch_size),
                    energy_j=(80 * energy / batch_size**0.5 + number / 10) * GPUS[gpu],
                    seconds=4.0 * time / batch_size**0.5 + 0.01 * cycle,
                    study="batch-size",
                    experiment=f"{backend} {batch_size}",
                    cycle=cycle,
                )
        number += 1
        cpu: dict[str, Any] = {"cpu_model": "Test CPU", "device": "cpu", "gpu_uuids": [], "driver_version": None}
        _write(
            year,
            number,
            None,
            _config("pytorch", 2),
            environment=cpu,
            energy_j=None,
            seconds=9.0 + cycle,
            study="batch-size",
            experiment="cpu",
            cycle=cycle,
        )


def _driver_study(year: Year) -> None:
    """One configuration before and after a new driver, a month apart."""
    for month, driver in enumerate((_OLD_DRIVER, _NEW_DRIVER), start=1):
        for cycle, gpu in enumerate(GPUS, start=1):
            _write(
                year,
                30 * _DAY * month + 60 * cycle,
                gpu,
                _config("vllm", 8),
                environment={"driver_version": driver},
                energy_j=(20 - month) * GPUS[gpu] + 0.1 * cycle,
                seconds=1.0 + 0.01 * cycle,
                study="drivers",
                experiment="vllm 8",
                cycle=cycle,
            )


def _length_study(year: Year) -> None:
    """What the limit on output tokens changes."""
    for place, limit in enumerate((16, 64)):
        for cycle in (1, 2, 3):
            _write(
                year,
                90 * _DAY + 60 * cycle + 10 * place,
                "GPU-a",
                _config("vllm", 8, Workload(n_prompts=4, max_output_tokens=limit)),
                energy_j=30 - limit / 8 + cycle,
                seconds=1.5 + 0.1 * cycle,
                study="lengths",
                experiment=f"{limit} tokens",
                cycle=cycle,
                extended_metrics=_phases(limit, cycle),
            )


def _phases(limit: int, cycle: int) -> ExtendedEfficiencyMetrics:
    """Energy of both phases, but of one cycle, in which they could not be told apart."""
    if (limit, cycle) == (16, 3):
        return ExtendedEfficiencyMetrics(mixed_phase_fraction=0.4, phase_energy_note="not separable: mixed")
    return ExtendedEfficiencyMetrics(
        prefill_energy_j=4.0 + cycle,
        decode_energy_j=limit / 8 + cycle,
        phase_energy_bound_j=0.25 * cycle,
        mixed_phase_fraction=0.01 * cycle,
    )


def _open_loop_study(year: Year) -> None:
    """Requests that arrive on a schedule: one engine keeps up with it, the other does so only while it is slow."""
    backends: dict[BackendName, float] = {"pytorch": 3.0, "vllm": 9.0}
    for place, (backend, most) in enumerate(backends.items()):
        for rate in (2.0, 4.0):
            for cycle, gpu in enumerate(GPUS, start=1):
                goodput = min(rate, most) - 0.01 * cycle
                workload = Workload(n_prompts=4, arrivals=ArrivalProcess(process="poisson", rate_per_s=rate))
                _write(
                    year,
                    120 * _DAY + 60 * cycle + 10 * int(rate) + place,
                    gpu,
                    _config(backend, 8, workload),
                    energy_j=(20.0 + rate + cycle / 10) * GPUS[gpu],
                    seconds=3.0,
                    study="open-loop",
                    experiment=f"{backend} {rate:g}/s",
                    cycle=cycle,
                    extended_metrics=ExtendedEfficiencyMetrics(
                        goodput_requests_per_second=goodput,
                        goodput_fraction=goodput / rate,
                        schedule_lag_p50_ms=0.1,
                        schedule_lag_p99_ms=rate + cycle + place / 2,
                    ),
                )


def _what_goes_wrong(year: Year) -> None:
    config = _config("vllm", 8)
    study: dict[str, Any] = {"study": "batch-size", "experiment": "vllm 8"}
    left_out: dict[int, dict[str, Any]] = {
        100: {"cycle": 4, "measurement_valid": False, "invalid_reasons": ["foreign_process", "sampling_gap"]},
        101: {"cycle": 1, "environment": {"simulated": True}},
    }
    for number, fields in left_out.items():
        _write(year, number, "GPU-b", config, energy_j=9999.0, counts=False, **study, **fields)
    # Cycle 5 was measured twice.
    _write(year, 102, "GPU-b", config, energy_j=8888.0, counts=False, cycle=5, **study)
    _write(year, 103, "GPU-b", config, energy_j=20.0, cycle=5, **study)
    failed = {"backend": "vllm", "study": "batch-size", "advice": "Lower batch_size."}
    for number, (batch_size, error, code) in enumerate(
        [(8, "TimedOut", 14), (512, "OutOfMemory", 12), (512, "OutOfMemory", 12)], start=1
    ):
        tried = _config("vllm", batch_size)
        save_failure(
            year.root,
            number,
            experiment=f"vllm {batch_size}",
            config=tried.model_dump(mode="json"),
            measurement_config_hash=tried.measurement_config_hash(),
            error_class=error,
            exit_code=code,
            message="CUDA out of memory" if code == 12 else "no answer for 600 s",
            **failed,
        )
    broken = year.root / "broken-c001_2026-01-02T03-04-05Z"
    broken.mkdir()
    (broken / "result.json").write_text('{"schema_version": "2.0"')


def _config(backend: BackendName, batch_size: int, workload: Workload | None = None) -> ExperimentConfig:
    return ExperimentConfig(
        backend=backend,
        model=MODEL,
        dtype="bfloat16",
        batch_size=batch_size,
        workload=workload or Workload(n_prompts=4),
    )


def _write(
    year: Year,
    number: int,
    gpu: str | None,
    config: ExperimentConfig,
    *,
    energy_j: float | None,
    seconds: float = 1.0,
    environment: dict[str, Any] | None = None,
    counts: bool = True,
    **fields: Any,
) -> None:
    """One result with its requests; with a meter also with samples of a steady power."""
    power_w = None if energy_j is None else energy_j / seconds
    usual: dict[str, Any] = {
        "device": "cuda",
        "gpu_names": ["Test H100"],
        "gpu_uuids": [gpu],
        "driver_version": _NEW_DRIVER,
        "power_limits_w": [700.0],
        "image_id": "sha256:1",
    }
    on_cpu = {"cpu_model": "Test CPU"} if gpu is None else usual
    breakdown = EnergyBreakdown(
        integral_j=energy_j, devices=[DeviceEnergy(gpu_uuid=str(gpu), energy_j=energy_j, integral_j=energy_j)]
    )
    result = make_result(
        number,
        seconds=seconds,
        energy_j=energy_j,
        n_requests=OUTPUT_TOKENS // 10,
        environment=on_cpu | (environment or {}),
        config=config,
        prompts_sha256="5ca1ab1e" * 8,
        energy_source="none" if energy_j is None else "nvml_power",
        energy_breakdown=None if energy_j is None else breakdown,
        measurement_warnings=[f"short_duration: {seconds:g} s. Run longer."] if seconds < 2 else [],
        timeseries=None if power_w is None else TIMESERIES_FILE,
        **fields,
    )
    samples = None
    if power_w is not None:
        times = [-0.1, *(seconds * (step + 0.5) / 10 for step in range(10)), seconds + 0.1]
        samples = samples_table([(time_s, power_w) for time_s in times])
    result.save(year.root, timeseries=samples, requests=_requests(result))
    (year.counting if counts else year.others).append(result)


def _requests(result: ExperimentResult) -> pa.Table:
    """Each later request waits longer; TTFT is a tenth of the way to the last token."""
    times_ms = [250.0 * result.total_inference_time_sec * (index + 1) for index in range(OUTPUT_TOKENS // 10)]
    rows = [
        {
            "process_index": 0,
            "request_index": index,
            "input_tokens": 20,
            "output_tokens": 10,
            "finish_reason": "length",
            "arrival_s": 0.0,
            "ttft_ms": e2e_ms / 10,
            "e2e_ms": e2e_ms,
            "queue_ms": e2e_ms / 20,
            "itl_ms": [e2e_ms / 10] * 9,
        }
        for index, e2e_ms in enumerate(times_ms)
    ]
    return pa.Table.from_pylist(rows, schema=REQUESTS_SCHEMA)
