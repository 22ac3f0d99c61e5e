"""Results and campaigns as CSV and JSON for other programs: units in the names, not measured is empty or null.

A text cell of a CSV that a spreadsheet would take for a formula gets an apostrophe before it, as OWASP advises against
CSV injection: names and messages come from anywhere. JSON and Parquet keep every text as it is.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

from images.contract.parts import ExtendedEfficiencyMetrics
from images.contract.result import ExperimentResult
from warehouse.errors import WarehouseError

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
"""What a spreadsheet may take for the beginning of a formula."""
_ANOTHER_PLACE = "Give a file in a folder that exists and can be written."


def export_aggregated_to_csv(results: Iterable[ExperimentResult], path: Path) -> None:
    """Write one row per result into a new file, or instead of `path`; the columns are always the same.

    Lists are JSON text. What a spreadsheet would take for a formula gets an apostrophe before it.

    Raises:
        WarehouseError: it cannot be written; `path` is as it was.
    """
    rows = ([value(result) for value in COLUMNS.values()] for result in results)
    with new_file(Path(path)) as stream:
        stream.write(_csv(list(COLUMNS), rows))


export_to_csv = export_aggregated_to_csv


def export_to_json(results: Iterable[ExperimentResult], path: Path) -> None:
    """Write a list with the whole of each result, as its result.json has it, into a new file or instead of `path`.

    Raises:
        WarehouseError: it cannot be written; `path` is as it was.
    """
    with new_file(Path(path)) as stream:
        stream.write(
            to_json([result.model_dump(mode="json") for result in results], indent=1, inf_nan_mode="null") + b"\n"
        )


def export_campaigns_to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a table of any columns, written as `export_aggregated_to_csv` writes its own.

    Raises:
        WarehouseError: it cannot be written; `path` is as it was.
    """
    with new_file(Path(path)) as stream:
        stream.write(_csv(columns, rows))


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """What is written becomes `path` when the block ends well; until then, or if it fails, `path` is as it was.

    Raises:
        WarehouseError: it cannot be written, or is a DuckDB database.
    """
    # Through a link, as a shell would write; a pipe or a device cannot be replaced.
    target = Path(os.path.realpath(path))
    replaced = can_be_replaced(path)
    with _explained(path, _ANOTHER_PLACE, 2):
        written = scratch_beside(target) if replaced else target
        stream = written.open("wb")
    hint = "Make room there, or give another file."
    try:
        with _explained(path, hint), stream:
            yield stream
        if replaced:
            with _explained(path, hint):
                written.replace(target)
    except BaseException:
        if replaced:
            written.unlink(missing_ok=True)
        raise


def scratch_beside(target: Path) -> Path:
    """A free name in the same folder, so that a rename is all that is left to do. The name is short: it always fits."""
    return target.with_name(f".warehouse-{secrets.token_hex(4)}.tmp")


def can_be_replaced(path: Path) -> bool:
    """Whether a new file may take the place of what is there; a pipe or a device can only be written into.

    Asked before any work is done, so that a name that no file can have is refused then.

    Raises:
        WarehouseError: it is a DuckDB database, a pipe without a name, or no file can have that name.
    """
    with _explained(path, _ANOTHER_PLACE, 2):
        try:
            is_file = stat.S_ISREG(path.stat().st_mode)
        except FileNotFoundError:
            return True
        # As /dev/stdout is where it goes into a pipe.
        if not Path(os.path.realpath(path)).exists():
            raise WarehouseError(f"{path} is no file. Give the name of one.", 2)
        if is_file and _is_database(path):
            raise WarehouseError(f"{path} is a DuckDB database, which would be lost. Give another file.", 2)
        return is_file


def _is_database(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(12)[8:] == b"DUCK"


@contextmanager
def _explained(path: Path, hint: str, exit_code: int = 1) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            hint = "Give a shorter name."
        raise WarehouseError(f"{path} cannot be written ({error.strerror}). {hint}", exit_code) from None


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return to_json(value, inf_nan_mode="null").decode() if isinstance(value, list | tuple | dict) else value


def _field(name: str) -> Callable[[ExperimentResult], Any]:
    return lambda result: getattr(result, name)


def _of(part: str, name: str) -> Callable[[ExperimentResult], Any]:
    return lambda result: getattr(getattr(result, part), name, None)


def _configured(name: str) -> Callable[[ExperimentResult], Any]:
    return lambda result: result.effective_config.get(name)


def _per(part: str, whole: str) -> Callable[[ExperimentResult], float | None]:
    """`part` / `whole`; None where one is not known or nothing can be divided by."""

    def quotient(result: ExperimentResult) -> float | None:
        over, under = getattr(result, part), getattr(result, whole)
        return over / under if over is not None and under else None

    return quotient


def _fields(*names: str) -> dict[str, Callable[[ExperimentResult], Any]]:
    return {name: _field(name) for name in names}


def _parts(part: str, *names: str) -> dict[str, Callable[[ExperimentResult], Any]]:
    return {name: _of(part, name) for name in names}


_LATENCIES = [
    f"{kind}_{figure}"
    for kind in ("ttft", "itl")
    for figure in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "samples")
]
COLUMNS: dict[str, Callable[[ExperimentResult], Any]] = {
    **_fields("experiment_id", "schema_version", "measurement_config_hash"),
    **_fields("study", "experiment", "cycle", "block", "attempt", "backend"),
    "model": _configured("model"),
    "dtype": _configured("dtype"),
    "batch_size": _configured("batch_size"),
    "num_processes": lambda result: len(result.process_results) or None,
    **_fields("measurement_methodology", "start_time", "end_time", "total_inference_time_sec"),
    **_fields("total_tokens", "input_tokens", "output_tokens", "cached_input_tokens", "passes"),
    **_fields("output_tokens_per_second", "total_tokens_per_second", "avg_tokens_per_second"),
    **_fields("energy_source", "total_energy_j", "energy_per_output_token_j", "avg_energy_per_token_j"),
    "tokens_per_joule": _per("total_tokens", "total_energy_j"),
    "joules_per_token": _per("total_energy_j", "total_tokens"),
    "mean_power_w": _per("total_energy_j", "total_inference_time_sec"),
    **_fields("baseline_power_w", "energy_adjusted_j", "energy_per_device_j", "total_flops"),
    **_parts("latency_stats", *_LATENCIES),
    **_parts("extended_metrics", *ExtendedEfficiencyMetrics.model_fields),
    **_fields("measurement_valid", "invalid_reasons", "measurement_warnings", "prompts_sha256"),
    **_parts("environment_snapshot", "device", "cpu_model", "gpu_names", "gpu_uuids", "simulated", "driver_version"),
    **_parts("environment_snapshot", "power_limits_w", "model_commit", "image_name", "image_id", "image_repo_digest"),
    **_parts("environment_snapshot", "git_revision", "launcher", "node"),
}
"""Names of the columns, in their order, and what stands in them."""
