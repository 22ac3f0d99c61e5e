"""ExperimentResult, schema 2.0, and its parts. Not measured is None, never 0.

The models are passive: warnings and validity are decided while measuring and handed in.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from images.contract import files
from images.contract.files import Table, UnreadableResult
from images.contract.job import only_json

SCHEMA_VERSION = "2.0"


def _utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{time.isoformat()} is outside the calendar when read as UTC") from None


def _plain_name(name: str | None) -> str | None:
    if name is not None and (name != Path(name).name or name[:1] in ("", ".") or "\\" in name or "\0" in name):
        raise ValueError(f"must be the name of a file beside result.json, not a path: {name!r}")
    return name


UtcDatetime = Annotated[datetime, AfterValidator(_utc)]
"""Aware, UTC; a naive time is read as UTC."""
SidecarName = Annotated[str | None, AfterValidator(_plain_name)]
Methodology = Literal["total", "steady_state", "windowed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Timestamps(_Record):
    """Open and close of one process's measured window."""

    start: UtcDatetime
    end: UtcDatetime
    duration_sec: float = Field(description="s")

    @classmethod
    def from_times(cls, start: datetime, end: datetime) -> Self:
        """Both times and the seconds between them."""
        return cls(start=start, end=end, duration_sec=(_utc(end) - _utc(start)).total_seconds())


class InferenceMetrics(_Record):
    """Work done by one process in the measured window."""

    total_tokens: int = Field(description="input + output tokens; padding never counts (tokens)")
    total_prompts: int = Field(description="requests finished (requests)")
    avg_tokens_per_second: float = Field(description="total_tokens / total_inference_time_sec (tokens/s)")
    total_inference_time_sec: float = Field(description="close - open of the window (s)")
    input_tokens: int | None = Field(None, description="tokens")
    output_tokens: int | None = Field(None, description="ids generated up to and including EOS (tokens)")
    cached_input_tokens: int | None = Field(None, description="input tokens served from a cache (tokens)")


class EnergyMetrics(_Record):
    """Energy of one process's devices in the measured window; None without a meter."""

    total_energy_joules: float | None = Field(description="J")
    avg_power_watts: float | None = Field(description="W")
    energy_per_token_joules: float | None = Field(description="per total token (J/token)")


class ComputeMetrics(_Record):
    """Arithmetic done and memory held by one process."""

    total_flops: float | None = Field(description="multiply-add counts 2 (FLOP)")
    peak_memory_mb: float | None = Field(description="peak device memory, or process memory on CPU (MB, 10^6 bytes)")
    flops_method: str | None = Field(None, description="architecture or parameters_2N")


class RawProcessResult(_Record):
    """What one process measured; written by itself, aggregated later."""

    experiment_id: str
    process_index: int = Field(ge=0, description="rank, from 0")
    gpu_id: int | None = Field(description="index of the first device; None on CPU")
    config_name: str
    model_name: str
    timestamps: Timestamps
    inference_metrics: InferenceMetrics
    energy_metrics: EnergyMetrics
    compute_metrics: ComputeMetrics
    backend: str = "pytorch"
    gpu_uuids: list[str] | None = None
    gpu_name: str | None = None
    energy_per_device_j: list[float] | None = Field(None, description="J, in the order of gpu_uuids")
    per_request_latencies_ms: list[float] = Field(default_factory=list, description="end to end (ms)")
    gpu_utilisation_samples: list[float] = Field(default_factory=list, description="percent")
    ttft_ms: list[float] | None = Field(None, description="raw only, dropped from result.json (ms)")
    itl_ms: list[float] | None = Field(None, description="raw only, dropped from result.json (ms)")


class AggregationMetadata(_Record):
    """How process results were merged."""

    method: str = "sum_energy_avg_throughput"
    num_processes: int = Field(description="processes merged (processes)")
    temporal_overlap_verified: bool = False
    gpu_attribution_verified: bool = False
    warnings: list[str] = Field(default_factory=list)


class LatencyStatistics(_Record):
    """TTFT (arrival to first output token) per request and ITL (every gap between deliveries, pooled).

    Percentiles interpolate linearly (Hyndman and Fan 1996, type 7). p95 needs 40 requests and p99 needs
    200; below that the value is stored and flagged in measurement_warnings.
    """

    ttft_mean_ms: float | None = Field(None, description="ms")
    ttft_p50_ms: float | None = Field(None, description="ms")
    ttft_p95_ms: float | None = Field(None, description="ms")
    ttft_p99_ms: float | None = Field(None, description="ms")
    ttft_min_ms: float | None = Field(None, description="ms")
    ttft_max_ms: float | None = Field(None, description="ms")
    ttft_samples: int = Field(0, description="requests")
    itl_mean_ms: float | None = Field(None, description="ms")
    itl_p50_ms: float | None = Field(None, description="ms")
    itl_p95_ms: float | None = Field(None, description="ms")
    itl_p99_ms: float | None = Field(None, description="ms")
    itl_min_ms: float | None = Field(None, description="ms")
    itl_max_ms: float | None = Field(None, description="ms")
    itl_samples: int = Field(0, description="gaps")


class WarmupResult(_Record):
    """Whether throughput had become steady before the window opened."""

    converged: bool = Field(description="True: under the threshold; False: the cap on rounds was reached")
    final_cv: float | None = Field(description="coefficient of variation over the last `window` rounds; None if fewer")
    target_cv: float = Field(description="coefficient of variation that counts as steady")
    iterations_completed: int = Field(description="rounds")
    max_rounds: int = Field(description="cap (rounds)")
    tokens_per_second: list[float] = Field(default_factory=list, description="of each round (tokens/s)")


class EnergyBreakdown(_Record):
    """Both energy methods and the error bound of the figure."""

    counter_j: float | None = Field(None, description="by the energy counter (J)")
    integral_j: float | None = Field(None, description="by the power integral (J)")
    ratio: float | None = Field(None, description="counter_j / integral_j")
    bound_j: float | None = Field(None, description="bound of the error of total_energy_j (J)")
    baseline_power_before_w: float | None = Field(None, description="W")
    baseline_power_after_w: float | None = Field(None, description="W")


class MultiGPUMetrics(_Record):
    """Energy over several devices."""

    num_gpus: int = Field(description="devices used (GPUs)")
    energy_per_gpu_j: list[float] | None = Field(None, description="J")


class ThermalThrottleInfo(_Record):
    """Throttling seen in the window."""

    reasons: list[str] = Field(default_factory=list)
    throttle_duration_sec: float | None = Field(None, description="s")
    max_temperature_c: float | None = Field(None, description="degrees C")


class ExtendedEfficiencyMetrics(_Record):
    """Further efficiency figures."""

    tpot_mean_ms: float | None = Field(None, description="(e2e - ttft) / (output tokens - 1), mean over requests (ms)")
    e2e_mean_ms: float | None = Field(None, description="arrival to last token, mean over requests (ms)")
    padding_fraction: float | None = Field(None, description="padded positions / all prompt positions computed")


class EnvironmentSnapshot(_Record):
    """Where the measurement ran."""

    image_name: str | None = None
    image_id: str | None = None
    image_repo_digest: str | None = None
    git_revision: str | None = None
    launcher: str | None = None
    model_commit: str | None = None
    observed_settings: dict[str, str] = Field(
        default_factory=dict, description="what the engine really uses: dtype, attention, threads, CUDA ..."
    )
    python_version: str | None = None
    platform: str | None = None
    cpu_model: str | None = None
    cpu_count: int | None = Field(None, description="CPUs this process may use")
    memory_total_mb: float | None = Field(None, description="MB, 10^6 bytes")
    device: str | None = Field(None, description="device the model ran on, as the backend names it")
    driver_version: str | None = None
    cuda_version: str | None = None
    gpu_names: list[str] | None = None
    gpu_uuids: list[str] | None = None
    power_limits_w: list[float] | None = Field(None, description="W")
    clocks_mhz: list[float] | None = Field(None, description="MHz")
    ecc_enabled: list[bool] | None = None
    persistence_mode: list[bool] | None = None
    mig_mode: list[bool] | None = None
    package_versions: dict[str, str] = Field(default_factory=dict)
    node: str | None = None
    pod: str | None = None


class ExperimentResult(_Record):
    """One finished cycle. The headline figure is energy_per_output_token_j."""

    schema_version: str = SCHEMA_VERSION
    experiment_id: str
    measurement_config_hash: str
    backend: str = "pytorch"
    measurement_methodology: Methodology = "total"
    steady_state_window: tuple[float, float] | None = Field(None, description="from, to after the window opened (s)")
    total_tokens: int = Field(description="input + output tokens of all processes (tokens)")
    total_energy_j: float | None = Field(description="all devices, common open to common close (J)")
    total_inference_time_sec: float = Field(description="common close - common open (s)")
    avg_tokens_per_second: float = Field(
        description="mean over processes of their total-token rate; kept for compatibility (tokens/s)"
    )
    avg_energy_per_token_j: float | None = Field(description="total_energy_j / total_tokens (J/token)")
    total_flops: float | None = Field(description="FLOP")
    baseline_power_w: float | None = Field(None, description="sum of the devices' idle means (W)")
    energy_adjusted_j: float | None = Field(None, description="total_energy_j - baseline x window, may be below 0 (J)")
    energy_per_device_j: list[float] | None = Field(None, description="J")
    energy_breakdown: EnergyBreakdown | None = None
    multi_gpu: MultiGPUMetrics | None = None
    environment_snapshot: EnvironmentSnapshot | None = None
    measurement_warnings: list[str] = Field(default_factory=list, description="code: what was seen. What to do.")
    warmup_excluded_samples: int | None = Field(None, description="requests of the warm-up (requests)")
    reproducibility_notes: str = ""
    timeseries: SidecarName = Field(None, description="relative file name")
    start_time: UtcDatetime = Field(description="opening mark of the measured window")
    end_time: UtcDatetime = Field(description="closing mark of the measured window")
    effective_config: Annotated[dict[str, Any], AfterValidator(only_json)] = Field(
        default_factory=dict, description="the whole ExperimentConfig"
    )
    process_results: list[RawProcessResult] = Field(default_factory=list)
    aggregation: AggregationMetadata | None = None
    thermal_throttle: ThermalThrottleInfo | None = None
    warmup_result: WarmupResult | None = None
    latency_stats: LatencyStatistics | None = None
    extended_metrics: ExtendedEfficiencyMetrics | None = None

    study: str | None = None
    cycle: int | None = Field(None, description="number of this repetition, from 1")
    block: str | None = None
    attempt: int | None = Field(None, description="number of this try at the cycle, from 1")
    input_tokens: int | None = Field(None, description="tokens")
    output_tokens: int | None = Field(None, description="tokens")
    cached_input_tokens: int | None = Field(None, description="tokens")
    passes: int | None = Field(None, description="whole passes over the workload in the window")
    output_tokens_per_second: float | None = Field(None, description="output_tokens / window (tokens/s)")
    total_tokens_per_second: float | None = Field(None, description="total_tokens / window (tokens/s)")
    energy_per_output_token_j: float | None = Field(None, description="total_energy_j / output_tokens (J/token)")
    energy_source: Literal["nvml_counter", "nvml_power", "none"] | None = None
    measurement_valid: bool | None = None
    invalid_reasons: list[str] = Field(default_factory=list, description="codes")
    requests: SidecarName = Field(None, description="relative name of requests.parquet")
    prompts_sha256: str | None = Field(None, description="of the rendered prompts' token ids, in order")

    @property
    def directory_name(self) -> str:
        """``{model}-{backend}-{hash8}-c{cycle}_{timestamp}``, the name this result is saved under."""
        model = self.effective_config.get("model")
        if model is None and self.process_results:
            model = self.process_results[0].model_name
        return files.directory_name(
            [Path(str(model or "")).name, self.backend, self.measurement_config_hash[:8], f"c{self.cycle or 0:03d}"],
            self.start_time,
        )

    def save(self, output_dir: Path, *, timeseries: Table | None = None, requests: Table | None = None) -> Path:
        """Write the result and its sidecars as one new directory in `output_dir`, atomically.

        Args:
            output_dir: made if missing.
            timeseries: ``files.TIMESERIES_SCHEMA``; given exactly if the field `timeseries` is set.
            requests: ``files.REQUESTS_SCHEMA``; given exactly if the field `requests` is set.

        Returns:
            Path of the new result.json.

        Raises:
            ValueError: a field and its table do not agree, or a table lacks columns.
            OSError: cannot be written; nothing is left behind.
        """
        tables: dict[str, Table] = {}
        for field, expected, table in (
            (self.timeseries, files.TIMESERIES_FILE, timeseries),
            (self.requests, files.REQUESTS_FILE, requests),
        ):
            if (field is None) != (table is None) or field not in (None, expected):
                raise ValueError(
                    f"the result names {field!r} and the table is {'missing' if table is None else 'given'}; "
                    f"set the field to {expected!r} exactly when its table is given"
                )
            if table is not None:
                tables[expected] = table
        text = self.model_dump_json(indent=1)
        return files.save_directory(Path(output_dir), self.directory_name, {files.RESULT_FILE: text}, tables) / (
            files.RESULT_FILE
        )

    @classmethod
    def from_json(cls, path: Path) -> ExperimentResult:
        """Load a result.json, or the one in a directory, with a look at its sidecars.

        A sidecar that is gone is a warning and its field None. Unknown keys (from a newer 2.x) are
        ignored with one warning.

        Raises:
            UnreadableResult: not JSON, another major schema version, or fields that do not fit.
        """
        path = files.result_file(Path(path))
        data = files.read_json(path)
        _check_version(data, path)
        try:
            result = cls.model_validate(data)
        except ValidationError as error:
            raise misfit(path, error) from None
        unknown = sorted(_unknown_keys(data, result))
        if unknown:
            warnings.warn(f"{path}: ignored keys of a newer version: {', '.join(unknown)}", stacklevel=2)
        return _without_missing_sidecars(result, path.parent)


AggregatedResult = ExperimentResult


class CompletenessReport(_Record):
    """Whether every process of an experiment left a whole result."""

    is_complete: bool
    expected: int = Field(description="processes")
    found: int = Field(description="process results, duplicates included")
    missing: list[int] = Field(default_factory=list, description="process indices without a result")
    duplicates: list[int] = Field(default_factory=list, description="process indices with more than one")
    missing_markers: list[int] = Field(default_factory=list, description="process indices without .completed_{i}")


def misfit(path: Path, error: ValidationError) -> UnreadableResult:
    """The first thing that does not fit, and how many more, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return UnreadableResult(f"{path} does not fit the schema: {where}: {message}{more}")


def _check_version(data: dict[str, Any], path: Path) -> None:
    version = str(data.get("schema_version", "missing"))
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise UnreadableResult(
            f"{path} has schema version {version}; this joulehouse reads {SCHEMA_VERSION.split('.')[0]}.x "
            f"(it writes {SCHEMA_VERSION}). Use a joulehouse that matches the file"
        )


def _unknown_keys(data: dict[str, Any], record: BaseModel, prefix: str = "") -> set[str]:
    known = type(record).model_fields
    unknown = {prefix + key for key in data if key not in known}
    for name in known:
        value, raw = getattr(record, name), data.get(name)
        pairs = zip(value, raw, strict=False) if isinstance(value, list) and isinstance(raw, list) else [(value, raw)]
        for part, part_raw in pairs:
            if isinstance(part, BaseModel) and isinstance(part_raw, dict):
                unknown |= _unknown_keys(part_raw, part, f"{prefix}{name}.")
    return unknown


def _without_missing_sidecars(result: ExperimentResult, directory: Path) -> ExperimentResult:
    gone = {
        field: None
        for field in ("timeseries", "requests")
        if (name := getattr(result, field)) is not None and not (directory / name).is_file()
    }
    for field in gone:
        warnings.warn(f"{directory / getattr(result, field)} is missing; {field} is read as None", stacklevel=3)
    return result.model_copy(update=gone)
