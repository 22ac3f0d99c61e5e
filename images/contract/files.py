"""Names, atomic writing and reading of what a job leaves on disk, and the Parquet schemas.

A finished cycle is one directory. It is written under a dot name beside its final place, synced, and
renamed, so a reader sees either nothing or a whole directory, whenever the writer is killed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

Table: TypeAlias = pa.Table

RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
TIMESERIES_FILE = "timeseries.parquet"
REQUESTS_FILE = "requests.parquet"
RAW_FOLDER = "raw"
UNFINISHED_RAW_PREFIX = ".raw-"
"""Folder of an experiment's raw results while its processes run; the experiment id follows."""
COMPLETED_PREFIX = ".completed_"
"""Last file of a process in a folder of raw results: nothing of it is missing."""

MAX_NAME = 80
_TIMESTAMP = "%Y-%m-%dT%H-%M-%SZ"
_FINISHED = re.compile(
    r".*-([0-9a-f]{8})-c([0-9]{3,9})(-failed)?_[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z(?:_[0-9]+)?"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}")
_MAX_JSON_BYTES = 256 * 2**20

TIMESERIES_SCHEMA = pa.schema(
    [
        pa.field("timestamp_s", pa.float64(), nullable=False),
        pa.field("gpu_power_w", pa.float64()),
        pa.field("gpu_temperature_c", pa.float64()),
        pa.field("gpu_index", pa.int32(), nullable=False),
    ]
)
"""One row per sample: seconds since the window opened, W, degrees C, index of the device in the job."""

REQUESTS_SCHEMA = pa.schema(
    [
        pa.field("process_index", pa.int32(), nullable=False),
        pa.field("request_index", pa.int32(), nullable=False),
        pa.field("input_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string()),
        pa.field("output_sha256", pa.string()),
        pa.field("arrival_s", pa.float64()),
        pa.field("ttft_ms", pa.float64()),
        pa.field("e2e_ms", pa.float64()),
        pa.field("queue_ms", pa.float64()),
        pa.field("itl_ms", pa.list_(pa.float64())),
        pa.field("lag_ms", pa.float64()),
        pa.field("cached_input_tokens", pa.int32()),
        pa.field("delivery_tokens", pa.list_(pa.int32())),
    ]
)
"""One row per request; arrival in seconds since the window opened; null is not measured.

lag_ms: how much later than due the harness handed it over, in an open loop; delivery_tokens: null where every delivery
was one token.
"""

SIDECAR_SCHEMAS: dict[str, pa.Schema] = {TIMESERIES_FILE: TIMESERIES_SCHEMA, REQUESTS_FILE: REQUESTS_SCHEMA}
LATER_COLUMNS: dict[str, tuple[str, ...]] = {
    TIMESERIES_FILE: (),
    REQUESTS_FILE: ("lag_ms", "cached_input_tokens", "delivery_tokens"),
}
"""Columns that the first files of schema 2.0 lack; they are read as null there."""


@dataclass(frozen=True, slots=True)
class DirectoryName:
    """What the name of a finished directory says of it.

    Attributes:
        hash8: first 8 digits of the measurement_config_hash.
        cycle: number of the repetition; 0 where it had none.
        failed: whether a failure is in it, and no result.
    """

    hash8: str
    cycle: int
    failed: bool


class UnreadableResult(ValueError):
    """A file that is not what the contract says; the message names the file and the reason."""


def new_experiment_id(now: datetime, random: str | None = None) -> str:
    """``exp_YYYYMMDD_HHMMSS_`` and 8 hex digits, unique per cycle.

    Args:
        now: aware time of the start.
        random: 8 hex digits; drawn if not given.
    """
    return f"exp_{now.astimezone(UTC):%Y%m%d_%H%M%S}_{random or secrets.token_hex(4)}"


def directory_name(parts: list[str], now: datetime) -> str:
    """``{name}_{timestamp}``; the name joins `parts`, [a-z0-9._-], and is cut to 80 characters.

    It is cut at the end of its first part, and only if that is not enough at its own beginning: what tells
    cycles apart stands at the end.
    """
    first, *rest = [re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("-.") for part in parts]
    tail = "".join(f"-{part}" for part in rest if part)
    first = first[: max(0, MAX_NAME - len(tail))].rstrip("-.") or "job"
    name = f"{first}{tail}"[-MAX_NAME:].strip("-.")
    return f"{name}_{now.astimezone(UTC).strftime(_TIMESTAMP)}"


def parse_directory_name(name: str) -> DirectoryName | None:
    """What a result's or failure's directory is, by its name alone; None for any other name.

    A result without a hash, or with one that is not hexadecimal, has a name that says nothing.
    """
    found = _FINISHED.fullmatch(name)
    return None if found is None else DirectoryName(found[1], int(found[2]), found[3] is not None)


def checked_name(name: str) -> str:
    """`name`, if it is one that a file or directory of ours can have, wherever it was read.

    Raises:
        UnreadableResult: it could lead elsewhere.
    """
    if not _NAME.fullmatch(name):
        raise UnreadableResult(f"{name!r} is no name of a result's file or directory")
    return name


def save_directory(output_dir: Path, name: str, documents: Mapping[str, str], tables: Mapping[str, Table]) -> Path:
    """Write `documents` (text) and `tables` (Parquet) as one new directory, atomically.

    If the name is taken, ``_1``, ``_2``, ... is appended, also when several writers race for it.

    Returns:
        The directory's final path.

    Raises:
        OSError: nothing is left behind.
        ValueError: a table does not fit its schema.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    scratch = output_dir / f".{name}.tmp-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        for file, text in documents.items():
            write_synced(scratch / file, text.encode())
        for file, table in tables.items():
            write_table(scratch / file, table, file)
        sync(scratch)
        return publish(scratch, output_dir, name)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def publish(folder: Path, output_dir: Path, name: str) -> Path:
    """Rename the non-empty `folder` to the first free one of name, name_1, name_2, ... in `output_dir`.

    The target is never created beforehand: a rename replaces an empty directory without a word, but
    fails on one with files in it, and every published directory has files in it.
    """
    for target in _candidates(output_dir, name):
        if os.path.lexists(target):
            continue
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                continue  # another writer was faster
            raise
        sync(output_dir)
        return target
    raise AssertionError("unreachable: candidates never end")


def write_atomic(path: Path, text: str, *, synced: bool = False) -> None:
    """Replace one file so that a reader sees the old text or the new one, never a part.

    Args:
        synced: also after the host has lost power.
    """
    scratch = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        if synced:
            write_synced(scratch, text.encode())
        else:
            scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
        if synced:
            sync(path.parent)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_table(path: Path, table: Table, kind: str) -> None:
    """Write and sync one Parquet file with the columns of the sidecar `kind`.

    Raises:
        ValueError: the table does not fit.
        OSError: cannot be written.
    """
    pq.write_table(_conform(table, SIDECAR_SCHEMAS[kind], kind), path, compression="zstd")
    sync(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder of unfinished work; what cannot be removed is left."""
    shutil.rmtree(folder, ignore_errors=True)


def result_file(path: Path) -> Path:
    """`path` itself, or the ``result.json`` in it when it is a directory."""
    return path / RESULT_FILE if path.is_dir() else path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        UnreadableResult: not there, not readable, too large, not JSON (NaN and infinity are not), not an object.
    """
    return parse_json(read_limited(path), path)


def read_limited(path: Path) -> bytes:
    """What a JSON file holds, unless it is too large to be one of ours.

    Raises:
        UnreadableResult: not there, not readable, not a plain file (a pipe would never end), or too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableResult(f"{path} is not a plain file")
        if status.st_size > _MAX_JSON_BYTES:
            raise UnreadableResult(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableResult(f"{path} cannot be read ({error.strerror})") from None


def parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `raw`, which is what `path` holds.

    Raises:
        UnreadableResult: not JSON (NaN, infinity and half a surrogate pair are not), nested too deeply, not an object.
    """
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise UnreadableResult(f"{path} is nested too deeply") from None
        reason = _why_not_json(raw) or error
        raise UnreadableResult(f"{path} is not valid JSON ({reason}); the file is cut off or damaged") from None
    if not isinstance(data, dict):
        raise UnreadableResult(f"{path} holds a {type(data).__name__}, not a JSON object")
    return data


def requests_table(columns: Mapping[str, list[Any]]) -> Table:
    """The rows of requests.parquet from a list per column of ``REQUESTS_SCHEMA``."""
    return pa.table(dict(columns), schema=REQUESTS_SCHEMA)


def timeseries_table(columns: Mapping[str, Any]) -> Table:
    """The rows of timeseries.parquet from an array or list per column of ``TIMESERIES_SCHEMA``."""
    return pa.table(dict(columns), schema=TIMESERIES_SCHEMA)


def concat_tables(tables: Sequence[Table]) -> Table:
    """All rows of tables of one schema, in order."""
    return pa.concat_tables(tables)


def load_table(directory: Path, file: str, kind: str | None = None) -> Table:
    """Read a sidecar named by its result, as its schema has it; what came later is null in an older file.

    Args:
        kind: the sidecar whose schema it has, if its own name does not say.

    Raises:
        UnreadableResult: damaged, or columns are missing.
        FileNotFoundError: not there.
    """
    path = directory / file
    kind = kind or file
    schema = SIDECAR_SCHEMAS.get(kind)
    try:
        # Opened by us, because Arrow takes no path that is not UTF-8; one thread, because files are small and many.
        with path.open("rb") as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
            table = parquet.read(use_threads=False)
        return table if schema is None else _conform(_with_later_columns(table, schema, kind), schema, file)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableResult(f"{path} is damaged ({str(error).splitlines()[0]})") from None


def find_directories(root: Path) -> Iterator[Path]:
    """Directories below `root` with a result, a failure, or only a sidecar that lost its result, in name order.

    Dot names are unfinished work and are passed over; links to directories are not followed. A folder that
    cannot be read is a warning.
    """
    for parent, folders, files in os.walk(root, onerror=_warn_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        finished = RESULT_FILE in files or FAILURE_FILE in files
        if finished or (not folders and not SIDECAR_SCHEMAS.keys().isdisjoint(files)):
            folders.clear()
            yield Path(parent)


def _candidates(output_dir: Path, name: str) -> Iterator[Path]:
    yield output_dir / name
    number = 0
    while True:
        number += 1
        yield output_dir / f"{name}_{number}"


def _with_later_columns(table: Table, schema: pa.Schema, kind: str) -> Table:
    for name in LATER_COLUMNS[kind]:
        if name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    return table


def _conform(table: Table, schema: pa.Schema, file: str) -> Table:
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}")
    if repeated := sorted({name for name in schema.names if table.column_names.count(name) > 1}):
        raise ValueError(f"{file} has the columns {', '.join(repeated)} more than once")
    table = table if table.schema.equals(schema) else table.select(schema.names).cast(schema)
    for column, kind in zip(table.columns, schema, strict=True):
        if column.null_count and not kind.nullable:
            raise ValueError(f"{file} has nulls in {kind.name}")
    return table


def _warn_unreadable(error: OSError) -> None:
    warnings.warn(f"{error.filename} cannot be read ({error.strerror}); it is passed over", stacklevel=2)


def _why_not_json(raw: bytes) -> str | None:
    """In better words than the fast parser's, where there are any."""
    try:
        json.dumps(json.loads(raw, parse_constant=_refuse_constant), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file, also so that it is there after the host has lost power."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Have a file or folder written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
