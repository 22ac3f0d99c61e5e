"""What one process of an experiment leaves, and the folder in which all of them meet.

`{folder}/` holds config.json, context.json and facts.json (facts.py), and of every process ``process_{i}.json``,
``requests_{i}.parquet``, ``samples_{i}.parquet`` where power was sampled, and last an empty
``.completed_{i}``. So whoever aggregates needs nothing else, also long after the job ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from images.contract import files
from images.contract.files import Table, UnreadableResult
from images.contract.parts import (
    CoolDown,
    DeviceActivity,
    DeviceEnergy,
    PhaseEnergy,
    RawProcessResult,
    Record,
    WarmupResult,
)
from images.contract.result import misfit

_INDEX = re.compile("[0-9]{1,6}")


class ProcessRecord(Record):
    """One process's raw result and what else the experiment's result is made of.

    All times of all processes refer to the same two marks.
    """

    raw: RawProcessResult
    window_s: float = Field(description="common close - common open, or the part that is described (s)")
    span_s: tuple[float, float] | None = Field(None, description="described part, from the common open (s)")
    devices: list[DeviceEnergy] = Field(default_factory=list)
    activity: list[DeviceActivity] = Field(default_factory=list)
    cool_down: CoolDown | None = None
    warmup: WarmupResult | None = None
    warmup_requests: int = Field(0, description="requests of the warm-up (requests)")
    passes: int = Field(1, description="whole passes over the workload in the window")
    stamped_requests: int = Field(0, description="requests with latency figures (requests)")
    caches_emptied: bool = True
    has_chat_template: bool = False
    cut_prompts: int = Field(0, description="of the whole workload, longer than max_input_tokens (prompts)")
    padding_fraction: float | None = Field(None, description="padded positions / all prompt positions computed")
    slots: int | None = Field(None, description="requests that the engine works on at once")
    weights_mb: float | None = Field(None, description="the model's (MB, 10^6 bytes)")
    kv_cache_mb: float | None = Field(None, description="for keys and values (MB, 10^6 bytes)")
    peak_memory_mb: float | None = Field(None, description="highest since load, as the backend says (MB, 10^6 bytes)")
    phases: PhaseEnergy | None = Field(None, description="None without a meter")
    prompts_sha256: str | None = None
    device: str | None = None
    model_commit: str | None = None
    observed_settings: dict[str, str] = Field(default_factory=dict)
    findings: list[str] = Field(default_factory=list, description="warnings of this process's meters")
    invalid_reasons: list[str] = Field(default_factory=list, description="codes")


@dataclass(frozen=True, slots=True)
class ProcessData:
    """A record with its tables; times in both count from the common open."""

    record: ProcessRecord
    requests: Table
    samples: Table | None


def write_process(folder: Path, data: ProcessData) -> None:
    """Leave one process's files in `folder`, the marker last.

    Raises:
        OSError: cannot be written; without its marker the process counts as missing.
    """
    index = data.record.raw.process_index
    tables = {files.REQUESTS_FILE: data.requests, files.TIMESERIES_FILE: data.samples}
    for kind, table in tables.items():
        if table is not None:
            files.write_table(folder / _sidecar(kind, index), table, kind)
    files.write_atomic(folder / f"process_{index}.json", data.record.model_dump_json(indent=1))
    (folder / f"{files.COMPLETED_PREFIX}{index}").touch()


def load_processes(folder: Path) -> list[ProcessData]:
    """Whatever processes left whole, by index; one without its marker is passed over.

    Raises:
        UnreadableResult: a file of a completed process is damaged.
    """
    return [load_process(folder, index) for index in completed(folder)]


def completed(folder: Path) -> list[int]:
    """Indices of the processes whose markers are in `folder`, in order."""
    names = (path.name.removeprefix(files.COMPLETED_PREFIX) for path in folder.glob(f"{files.COMPLETED_PREFIX}*"))
    return sorted(int(name) for name in names if _INDEX.fullmatch(name))


def load_process(folder: Path, index: int) -> ProcessData:
    """What the completed process `index` left.

    Raises:
        UnreadableResult: a file of it is missing or damaged.
    """
    path = folder / f"process_{index}.json"
    try:
        record = ProcessRecord.model_validate(files.read_json(path))
    except ValidationError as error:
        raise misfit(path, error) from None
    if record.raw.process_index != index:
        raise UnreadableResult(f"{path} is of process {record.raw.process_index}")
    samples = folder / _sidecar(files.TIMESERIES_FILE, index)
    try:
        return ProcessData(
            record,
            files.load_table(folder, _sidecar(files.REQUESTS_FILE, index), files.REQUESTS_FILE),
            files.load_table(folder, samples.name, files.TIMESERIES_FILE) if samples.exists() else None,
        )
    except FileNotFoundError as error:
        raise UnreadableResult(f"{error.filename} is missing though process {index} completed") from None


def _sidecar(kind: str, index: int) -> str:
    """``requests_{i}.parquet`` and ``samples_{i}.parquet``."""
    stem = "requests" if kind == files.REQUESTS_FILE else "samples"
    return f"{stem}_{index}.parquet"
