"""The parts of an ExperimentResult, each field with its unit. Not measured is None, never 0."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


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
EnergySource = Literal["nvml_counter", "nvml_power", "none"]
PowerMethod = Literal["instant", "average_1s"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Timestamps(Record):
    """Open and close of one process's measured window."""

    start: UtcDatetime = Field(description="opening mark")
    end: UtcDatetime = Field(description="closing mark")
    duration_sec: float = Field(description="between the two marks (s)")

    @classmethod
    def from_times(cls, start: datetime, end: datetime) -> Self:
        """Both times and the seconds between them."""
        return cls(start=start, end=end, duration_sec=(_utc(end) - _utc(start)).total_seconds())


class InferenceMetrics(Record):
    """Work done by one process in the measured window."""

    total_tokens: int = Field(description="input + output tokens; padding never counts (tokens)")
    total_prompts: int = Field(description="requests finished (requests)")
    avg_tokens_per_second: float = Field(description="total_tokens / total_inference_time_sec (tokens/s)")
    total_inference_time_sec: float = Field(description="close - open of the window (s)")
    input_tokens: int | None = Field(None, description="prompts after tokenising and cutting (tokens)")
    output_tokens: int | None = Field(None, description="ids generated up to and including EOS (tokens)")
    cached_input_tokens: int | None = Field(None, description="input tokens served from a cache (tokens)")


class EnergyMetrics(Record):
    """Energy of one process's devices in the measured window; None without a meter."""

    total_energy_joules: float | None = Field(description="of all devices of the process (J)")
    avg_power_watts: float | None = Field(description="energy / length of the window (W)")
    energy_per_token_joules: float | None = Field(description="per total token (J/token)")


class ComputeMetrics(Record):
    """Arithmetic done and memory held by one process."""

    total_flops: float | None = Field(description="multiply-add counts 2 (FLOP)")
    peak_memory_mb: float | None = Field(description="peak device memory, or process memory on CPU (MB, 10^6 bytes)")
    flops_method: str | None = Field(None, description="architecture or parameters_2N")


class RawProcessResult(Record):
    """What one process measured; written by itself, aggregated later."""

    experiment_id: str = Field(description="of the experiment that it is a part of")
    process_index: int = Field(ge=0, description="rank, from 0")
    gpu_id: int | None = Field(description="index of the first device; None on CPU")
    config_name: str = Field(description="the measurement_config_hash")
    model_name: str = Field(description="hub id, folder or builtin model")
    timestamps: Timestamps
    inference_metrics: InferenceMetrics
    energy_metrics: EnergyMetrics
    compute_metrics: ComputeMetrics
    backend: str = Field("pytorch", description="inference engine")
    gpu_uuids: list[str] | None = Field(None, description="this process's GPUs; None on CPU")
    gpu_name: str | None = Field(None, description="model of the first device")
    energy_per_device_j: list[float] | None = Field(None, description="J, in the order of gpu_uuids")
    per_request_latencies_ms: list[float] = Field(default_factory=list, description="end to end (ms)")
    idle_tail_s: float | None = Field(None, description="waited for slower processes; its energy counts (s)")
    gpu_utilisation_samples: list[float] = Field(
        default_factory=list, description="of time with a kernel running, sample by sample (percent)"
    )
    ttft_ms: list[float] | None = Field(None, description="raw only, dropped from result.json (ms)")
    itl_ms: list[float] | None = Field(None, description="raw only, dropped from result.json (ms)")


class AggregationMetadata(Record):
    """How process results were merged."""

    method: str = Field(
        "sum_energy_avg_throughput",
        description="energy, tokens and FLOP are sums over processes",
    )
    num_processes: int = Field(description="processes merged (processes)")
    temporal_overlap_verified: bool = Field(False, description="the windows of all processes overlap")
    gpu_attribution_verified: bool = Field(
        False, description="no GPU appears in two processes, by UUID where there is one"
    )
    warnings: list[str] = Field(default_factory=list, description="what does not fit together")


class LatencyStatistics(Record):
    """TTFT (arrival to first output token) per request and ITL (every gap between deliveries, pooled).

    Percentiles interpolate linearly (Hyndman and Fan 1996, type 7). p95 needs 40 requests and p99 needs
    200; below that the value is stored and flagged in measurement_warnings.
    """

    ttft_mean_ms: float | None = Field(None, description="mean (ms)")
    ttft_p50_ms: float | None = Field(None, description="median (ms)")
    ttft_p95_ms: float | None = Field(None, description="95th percentile (ms)")
    ttft_p99_ms: float | None = Field(None, description="99th percentile (ms)")
    ttft_min_ms: float | None = Field(None, description="smallest (ms)")
    ttft_max_ms: float | None = Field(None, description="largest (ms)")
    ttft_samples: int = Field(0, description="that the figures are over (requests)")
    itl_mean_ms: float | None = Field(None, description="mean (ms)")
    itl_p50_ms: float | None = Field(None, description="median (ms)")
    itl_p95_ms: float | None = Field(None, description="95th percentile (ms)")
    itl_p99_ms: float | None = Field(None, description="99th percentile (ms)")
    itl_min_ms: float | None = Field(None, description="smallest (ms)")
    itl_max_ms: float | None = Field(None, description="largest (ms)")
    itl_samples: int = Field(0, description="that the figures are over (gaps)")


class WarmupResult(Record):
    """Whether throughput had become steady before the window opened."""

    converged: bool = Field(description="True: under the threshold; False: the cap on rounds was reached")
    final_cv: float | None = Field(description="coefficient of variation over the last `window` rounds; None if fewer")
    target_cv: float = Field(description="coefficient of variation that counts as steady")
    iterations_completed: int = Field(description="before the window opened (rounds)")
    max_rounds: int = Field(description="cap (rounds)")
    tokens_per_second: list[float] = Field(default_factory=list, description="of each round (tokens/s)")


class DeviceEnergy(Record):
    """One GPU's energy between the two marks, by both methods. `images/harness/energy.py` defines the bounds."""

    gpu_uuid: str = Field(description="which GPU")
    energy_j: float | None = Field(description="by the counter where there is one, else by the integral (J)")
    source: Literal["nvml_counter", "nvml_power"] | None = Field(
        None, description="the method that energy_j is of; None: neither gave a figure"
    )
    counter_j: float | None = Field(None, description="by the energy counter (J)")
    integral_j: float | None = Field(None, description="by the trapezoid integral of sampled power (J)")
    bound_j: float | None = Field(None, description="bound of the error of energy_j (J)")
    counter_bound_j: float | None = Field(None, description="bound of the error of counter_j (J)")
    integral_bound_j: float | None = Field(None, description="bound of the error of integral_j (J)")
    update_period_s: float | None = Field(None, description="time between two steps of the counter, measured (s)")
    counter_lag_s: float | None = Field(None, description="how far the counter lags behind; None: not to be seen (s)")
    power_method: PowerMethod | None = Field(
        None, description="instant readings, or the driver's mean over the last second"
    )
    samples: int = Field(0, description="power samples in the window (samples)")
    longest_gap_s: float | None = Field(None, description="longest time without a power sample in the window (s)")


class EnergyBreakdown(Record):
    """Both energy methods and the error bound of the figure, summed over the devices."""

    counter_j: float | None = Field(None, description="by the energy counter (J)")
    integral_j: float | None = Field(None, description="by the power integral (J)")
    ratio: float | None = Field(None, description="counter_j / integral_j")
    bound_j: float | None = Field(None, description="bound of the error of total_energy_j (J)")
    counter_bound_j: float | None = Field(None, description="bound of the error of counter_j (J)")
    integral_bound_j: float | None = Field(None, description="bound of the error of integral_j (J)")
    power_method: PowerMethod | None = Field(
        None, description="instant readings, or the driver's mean over the last second"
    )
    power_scope: str | None = Field(None, description="what the power reading covers: gpu or module")
    update_period_s: float | None = Field(None, description="longest of the devices (s)")
    counter_lag_s: float | None = Field(None, description="longest of the devices; None: no sign of one (s)")
    baseline_power_before_w: float | None = Field(None, description="idle, before load (W)")
    baseline_power_after_w: float | None = Field(None, description="idle with the model loaded, after the window (W)")
    baseline_spread_before_w: float | None = Field(None, description="standard deviation of the samples (W)")
    baseline_spread_after_w: float | None = Field(None, description="standard deviation of the samples (W)")
    baseline_context: bool | None = Field(None, description="the idle GPUs held a CUDA context")
    devices: list[DeviceEnergy] = Field(default_factory=list, description="in the order of the job's GPUs")


class MultiGPUMetrics(Record):
    """Energy over several devices."""

    num_gpus: int = Field(description="devices used (GPUs)")
    energy_per_gpu_j: list[float] | None = Field(None, description="of each GPU, in the order of the job's GPUs (J)")


class DeviceActivity(Record):
    """What one GPU was doing in the window."""

    gpu_uuid: str = Field(description="which GPU")
    reasons: list[str] = Field(default_factory=list, description="clock event reasons that slowed it down")
    throttle_duration_sec: float | None = Field(None, description="time that it was slowed down (s)")
    start_temperature_c: float | None = Field(None, description="first reading in the window (degrees C)")
    max_temperature_c: float | None = Field(None, description="highest in the window (degrees C)")
    sm_clock_min_mhz: float | None = Field(None, description="after the window's first half second (MHz)")
    sm_clock_mean_mhz: float | None = Field(None, description="mean over the same time (MHz)")
    sm_clock_max_mhz: float | None = Field(None, description="highest in the same time (MHz)")
    utilisation_mean_percent: float | None = Field(None, description="percent of time with a kernel running")


class CoolDown(Record):
    """What the cool-down gate waited for before the job began."""

    target_c: float = Field(description="every GPU at or below this (degrees C)")
    waited_s: float = Field(description="how long it waited (s)")
    reached: bool = Field(description="False: the gate gave up waiting")
    temperature_c: float | None = Field(None, description="of the hottest GPU when the wait ended (degrees C)")


class ThermalThrottleInfo(Record):
    """Throttling, temperature and clocks in the window, over all devices."""

    reasons: list[str] = Field(default_factory=list, description="clock event reasons that slowed a GPU down")
    throttle_duration_sec: float | None = Field(None, description="of the device that was throttled longest (s)")
    max_temperature_c: float | None = Field(None, description="highest of all devices in the window (degrees C)")
    devices: list[DeviceActivity] = Field(default_factory=list, description="in the order of the job's GPUs")
    cool_down: CoolDown | None = None


class PhaseEnergy(Record):
    """Energy of prefill and of decode in one process's part of the window; `images/harness/phases.py` defines both.

    Both or neither are known; the note says why they are not.
    """

    prefill_j: float | None = Field(None, description="while every running request waits for its first token (J)")
    decode_j: float | None = Field(None, description="while every running request has had its first token (J)")
    bound_j: float | None = Field(None, description="bound of the error of either (J)")
    mixed_fraction: float | None = Field(
        None, description="share of the busy time with prefill and decode at once; its energy is in neither"
    )
    note: str | None = Field(None, description="not separable: why")


class ExtendedEfficiencyMetrics(Record):
    """Further efficiency figures; `images/contract/efficiency.py` defines them."""

    tpot_mean_ms: float | None = Field(None, description="(e2e - ttft) / (output tokens - 1), mean over requests (ms)")
    tpot_p50_ms: float | None = Field(None, description="median over requests (ms)")
    tpot_p95_ms: float | None = Field(None, description="over requests; needs 40 (ms)")
    e2e_mean_ms: float | None = Field(None, description="arrival to last token, mean over requests (ms)")
    tokens_per_delivery_mean: float | None = Field(None, description="output tokens / deliveries of them")
    padding_fraction: float | None = Field(None, description="padded positions / all prompt positions computed")
    batch_efficiency: float | None = Field(
        None, description="time integral of the running requests / (requests that could run at once x window)"
    )
    kv_cache_hit_rate: float | None = Field(None, description="input tokens served from a cache / input tokens")
    weights_mb: float | None = Field(None, description="the model's, over all processes (MB, 10^6 bytes)")
    peak_memory_mb: float | None = Field(
        None,
        description="highest since load, as the backend says, over all processes: of the GPUs, or of process memory on "
        "the CPU (MB, 10^6 bytes)",
    )
    kv_cache_mb: float | None = Field(None, description="for keys and values, over all processes (MB, 10^6 bytes)")
    goodput_requests_per_second: float | None = Field(
        None, description="requests within all of measurement.limits / window; None without a limit (requests/s)"
    )
    goodput_fraction: float | None = Field(None, description="requests within all limits / requests")
    schedule_lag_p50_ms: float | None = Field(None, description="open loop: handed over later than due, median (ms)")
    schedule_lag_p99_ms: float | None = Field(None, description="open loop: over requests; needs 200 (ms)")
    prefill_energy_j: float | None = Field(
        None, description="while every running request waits for its first token; None if not separable (J)"
    )
    decode_energy_j: float | None = Field(
        None, description="while every running request has had its first token; None if not separable (J)"
    )
    phase_energy_bound_j: float | None = Field(None, description="bound of the error of either (J)")
    phase_energy_note: str | None = Field(None, description="not separable: why")
    mixed_phase_fraction: float | None = Field(
        None, description="share of the busy time with prefill and decode at once; its energy is in neither"
    )


class EnvironmentSnapshot(Record):
    """Where the measurement ran."""

    image_name: str | None = Field(None, description="image reference; None for a local process")
    image_id: str | None = Field(None, description="image content id (sha256:...)")
    image_repo_digest: str | None = Field(None, description="registry digest; None if never pushed")
    git_revision: str | None = Field(None, description="joulehouse's git revision")
    launcher: str | None = Field(None, description="local, docker or kubernetes")
    model_commit: str | None = Field(None, description="commit of the model on the hub; None for a local folder")
    observed_settings: dict[str, str] = Field(
        default_factory=dict, description="what the engine really uses: dtype, attention, threads, CUDA ..."
    )
    python_version: str | None = Field(None, description="of the job's interpreter")
    platform: str | None = Field(None, description="operating system and machine, as Python names them")
    cpu_model: str | None = Field(None, description="name of the CPU")
    cpu_count: int | None = Field(None, description="CPUs this process may use")
    memory_total_mb: float | None = Field(None, description="of the machine (MB, 10^6 bytes)")
    device: str | None = Field(None, description="device the model ran on, as the backend names it")
    driver_version: str | None = Field(None, description="of NVIDIA's driver")
    cuda_version: str | None = Field(None, description="of the driver's CUDA")
    gpu_names: list[str] | None = Field(None, description="in the order of the job's GPUs")
    gpu_uuids: list[str] | None = Field(None, description="of the job's GPUs")
    power_limits_w: list[float] | None = Field(None, description="of each GPU (W)")
    clocks_mhz: list[float] | None = Field(None, description="SM clock of each GPU as the job began (MHz)")
    ecc_enabled: list[bool] | None = Field(None, description="of each GPU")
    persistence_mode: list[bool] | None = Field(None, description="of each GPU")
    mig_mode: list[bool] | None = Field(None, description="of each GPU")
    compute_capabilities: list[str] | None = Field(None, description="such as 9.0")
    simulated: bool | None = Field(None, description="some GPU is a simulation; such figures prove nothing")
    package_versions: dict[str, str] = Field(default_factory=dict, description="of the packages that do the work")
    node: str | None = Field(None, description="host name of the machine")
    pod: str | None = Field(None, description="Kubernetes pod name")
