"""ExperimentResult, schema 2.0, and its parts. Not measured is None, never 0.

The models are passive: warnings and validity are decided while measuring and handed in.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from images.contract import files
from images.contract.files import Table, UnreadableResult
from images.contract.job import only_json
from images.contract.parts import (
    AggregationMetadata,
    EnergyBreakdown,
    EnergySource,
    EnvironmentSnapshot,
    ExtendedEfficiencyMetrics,
    LatencyStatistics,
    Methodology,
    MultiGPUMetrics,
    RawProcessResult,
    Record,
    SidecarName,
    ThermalThrottleInfo,
    UtcDatetime,
    WarmupResult,
)
from images.contract.scheduling import Scheduling

SCHEMA_VERSION = "2.0"
_INDEX = re.compile(r"\.[0-9]+(?=\.)")


class ExperimentResult(Record):
    """One finished cycle. The headline figure is energy_per_output_token_j."""

    schema_version: str = Field(SCHEMA_VERSION, description="of this document")
    experiment_id: str = Field(description="names this cycle's result; unique")
    measurement_config_hash: str = Field(
        description="names the configuration: SHA-256 over what differs from the defaults, its first 16 digits"
    )
    backend: str = Field("pytorch", description="inference engine")
    measurement_methodology: Methodology = Field(
        "total", description="which part of the window is described: all of it, at full load, or a fixed part"
    )
    steady_state_window: tuple[float, float] | None = Field(None, description="from, to after the window opened (s)")
    total_tokens: int = Field(description="input + output tokens of all processes (tokens)")
    total_energy_j: float | None = Field(description="all devices, common open to common close (J)")
    total_inference_time_sec: float = Field(description="common close - common open (s)")
    avg_tokens_per_second: float = Field(
        description="mean over processes of their total-token rate; kept for compatibility (tokens/s)"
    )
    avg_energy_per_token_j: float | None = Field(description="total_energy_j / total_tokens (J/token)")
    total_flops: float | None = Field(description="arithmetic of the described part, padding not counted (FLOP)")
    baseline_power_w: float | None = Field(None, description="sum of the devices' idle means (W)")
    energy_adjusted_j: float | None = Field(None, description="total_energy_j - baseline x window, may be below 0 (J)")
    energy_per_device_j: list[float] | None = Field(None, description="of each GPU, in the order of the job's GPUs (J)")
    energy_breakdown: EnergyBreakdown | None = None
    multi_gpu: MultiGPUMetrics | None = None
    environment_snapshot: EnvironmentSnapshot | None = None
    measurement_warnings: list[str] = Field(default_factory=list, description="code: what was seen. What to do.")
    warmup_excluded_samples: int | None = Field(None, description="requests of the warm-up (requests)")
    reproducibility_notes: str = Field("", description="what a repetition can be expected to give")
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

    study: str | None = Field(None, description="name of the study")
    experiment: str | None = Field(None, description="name of the experiment in the study")
    cycle: int | None = Field(None, description="number of this repetition, from 1")
    block: str | None = Field(None, description="cycle and GPU set that it shares with the study's other experiments")
    scheduling: Scheduling | None = None
    attempt: int | None = Field(None, description="number of this try at the cycle, from 1")
    input_tokens: int | None = Field(None, description="prompts after tokenising and cutting (tokens)")
    output_tokens: int | None = Field(None, description="ids generated up to and including the end token (tokens)")
    cached_input_tokens: int | None = Field(None, description="input tokens served from a cache (tokens)")
    passes: int | None = Field(None, description="whole passes over the workload in the window")
    output_tokens_per_second: float | None = Field(None, description="output_tokens / window (tokens/s)")
    total_tokens_per_second: float | None = Field(None, description="total_tokens / window (tokens/s)")
    energy_per_output_token_j: float | None = Field(None, description="total_energy_j / output_tokens (J/token)")
    energy_source: EnergySource | None = Field(
        None, description="what total_energy_j is of: the energy counter, the power integral, or nothing"
    )
    measurement_valid: bool | None = Field(
        None, description="False: it stays out of every interval, for invalid_reasons"
    )
    invalid_reasons: list[str] = Field(
        default_factory=list, description="codes of what makes it unfit for any interval"
    )
    requests: SidecarName = Field(None, description="relative name of requests.parquet")
    prompts_sha256: str | None = Field(None, description="of the rendered prompts' token ids, in order")

    @property
    def directory_name(self) -> str:
        """``{experiment or model}-{backend}-{hash8}-c{cycle}_{timestamp}``, the name this result is saved under."""
        model = self.effective_config.get("model")
        if model is None and self.process_results:
            model = self.process_results[0].model_name
        name = self.experiment or Path(str(model or "")).name
        return files.directory_name(
            [name, self.backend, self.measurement_config_hash[:8], f"c{self.cycle or 0:03d}"], self.start_time
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
        result = cls.from_document(data, path)
        unknown = sorted({_INDEX.sub("", name) for name in unknown_fields(data, result)})
        if unknown:
            warnings.warn(f"{path}: ignored keys of a newer version: {', '.join(unknown)}", stacklevel=2)
        return _without_missing_sidecars(result, path.parent)

    @classmethod
    def from_document(cls, data: dict[str, Any], path: Path) -> ExperimentResult:
        """The result in what was read from `path`, with no look at its sidecars.

        Raises:
            UnreadableResult: another major schema version, or fields that do not fit.
        """
        check_version(data, path)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise misfit(path, error) from None


AggregatedResult = ExperimentResult


class CompletenessReport(Record):
    """Whether every process of an experiment left a whole result."""

    is_complete: bool = Field(description="nothing is missing and nothing is there twice")
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


def check_version(data: dict[str, Any], path: Path) -> None:
    """
    Raises:
        UnreadableResult: what was read from `path` has another major schema version than this joulehouse reads.
    """
    version = str(data.get("schema_version", "missing"))
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise UnreadableResult(
            f"{path} has schema version {version}; this joulehouse reads {SCHEMA_VERSION.split('.')[0]}.x "
            f"(it writes {SCHEMA_VERSION}). Use a joulehouse that matches the file"
        )


def unknown_fields(data: dict[str, Any], record: BaseModel) -> dict[str, Any]:
    """What of `data` its record does not know, by its path, such as ``energy_breakdown.devices.0.new``."""
    kind = type(record)
    found = {key: data[key] for key in sorted(data.keys() - kind.model_fields.keys())}
    for name in _fields_with_parts(kind):
        value, raw = getattr(record, name), data.get(name)
        if isinstance(value, BaseModel) and isinstance(raw, dict):
            found |= {f"{name}.{key}": one for key, one in unknown_fields(raw, value).items()}
        elif isinstance(value, list) and isinstance(raw, list):
            for at, (part, raw_part) in enumerate(zip(value, raw, strict=False)):
                if isinstance(part, BaseModel) and isinstance(raw_part, dict):
                    found |= {f"{name}.{at}.{key}": one for key, one in unknown_fields(raw_part, part).items()}
    return found


@cache
def _fields_with_parts(kind: type[BaseModel]) -> tuple[str, ...]:
    """Fields that hold records or lists of them."""
    return tuple(name for name, field in kind.model_fields.items() if _holds_records(field.annotation))


def _holds_records(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_holds_records(part) for part in get_args(annotation))


def _without_missing_sidecars(result: ExperimentResult, directory: Path) -> ExperimentResult:
    gone = {
        field: None
        for field in ("timeseries", "requests")
        if (name := getattr(result, field)) is not None and not (directory / name).is_file()
    }
    for field in gone:
        warnings.warn(f"{directory / getattr(result, field)} is missing; {field} is read as None", stacklevel=3)
    return result.model_copy(update=gone)
