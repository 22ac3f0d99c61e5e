"""What one directory holds, read and judged. Nothing here knows the database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.files import UnreadableResult
from images.contract.result import ExperimentResult, unknown_fields
from warehouse.intake.rows import Row, failure_rows, result_rows
from warehouse.intake.sources import Candidate, StrayFile, Unreachable, sizes_of, storable

_LONGEST_REASON = 500
_SHOWN_KEYS = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One readable directory.

    Attributes:
        place: in its batch.
        rows: rows as Python has them, by table.
        sidecars: the files beside it that it names, by table.
    """

    place: int
    directory: str
    kind: Literal["result", "failure"]
    experiment_id: str
    signature: str
    content_digest: str
    rows: dict[str, list[Row]]
    sidecars: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def campaign_id(self) -> str | None:
        """None of a failure."""
        return self.rows["experiments"][0]["campaign_id"] if self.kind == "result" else None


@dataclass(frozen=True, slots=True)
class Broken:
    """One directory that cannot be taken, and why, in one line."""

    directory: str
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A directory whose files have been looked at from outside: all of them may be opened.

    Attributes:
        place: in its batch.
        directory: where it can be read, which is a copy of the candidate or itself.
        sizes: bytes by name of the files that ingest reads.
    """

    place: int
    candidate: Candidate
    directory: Path
    sizes: Mapping[str, int]


def look_at(place: int, candidate: Candidate, directory: Path | Unreachable, within: Path | None) -> Seen | Broken:
    """Make sure that a directory holds plain files before anybody opens one: a pipe would never end.

    Args:
        within: where links may lead to; see `sizes_of`.
    """
    if isinstance(directory, Unreachable):
        return _broken(candidate, f"{candidate.name} {directory.reason}")
    try:
        return Seen(place, candidate, directory, sizes_of(directory, candidate.files, within))
    except StrayFile as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or directory} cannot be read ({error.strerror})"
    return _broken(candidate, _in_its_name(reason, candidate, directory))


def read_directory(seen: Seen) -> Record | Broken:
    """Read the result in a directory, or the failure if there is no result."""
    directory = seen.directory
    try:
        if files.RESULT_FILE in seen.sizes:
            return _read_result(seen)
        if files.FAILURE_FILE in seen.sizes:
            return _read_failure(seen)
        reason = f"{directory} is half-written: it has neither {files.RESULT_FILE} nor {files.FAILURE_FILE}"
    except UnreadableResult as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or directory} cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        reason = f"{directory} cannot be stored ({error})"
    return _broken(seen.candidate, _in_its_name(reason, seen.candidate, directory))


def _in_its_name(reason: str, candidate: Candidate, directory: Path) -> str:
    """The directory goes by the name that the user knows it by."""
    return storable(reason).replace(storable(str(directory)), candidate.name)


def _broken(candidate: Candidate, reason: str) -> Broken:
    text = " ".join(storable(reason).split())[:_LONGEST_REASON]
    return Broken(candidate.name, f"{text}. Repair or remove the directory, then ingest again.")


def _read_result(seen: Seen) -> Record:
    candidate, directory, sizes = seen.candidate, seen.directory, seen.sizes
    path = directory / files.RESULT_FILE
    raw = files.read_limited(path)
    document = files.parse_json(raw, path)
    result = ExperimentResult.from_document(document, path)
    unknown = unknown_fields(document, result)
    named = {"requests": result.requests, "samples": result.timeseries}
    sidecars = {table: file for table, file in named.items() if file is not None and file in sizes}
    return Record(
        place=seen.place,
        directory=candidate.name,
        kind="result",
        experiment_id=result.experiment_id,
        signature=candidate.signature,
        content_digest=_digest(raw, [sizes[file] for file in sidecars.values()]),
        rows=result_rows(result, document, unknown, candidate.name),
        sidecars=sidecars,
        notes=[
            *(
                f"{candidate.name}/{file} is missing; {table} are not stored"
                for table, file in named.items()
                if file is not None and table not in sidecars
            ),
            *(
                [f"{candidate.name}: keys of another version are kept in unknown_fields: {_first(sorted(unknown))}"]
                if unknown
                else []
            ),
        ],
    )


def _read_failure(seen: Seen) -> Record:
    candidate, directory = seen.candidate, seen.directory
    raw = files.read_limited(directory / files.FAILURE_FILE)
    failure = JobFailure.from_json(directory)
    return Record(
        place=seen.place,
        directory=candidate.name,
        kind="failure",
        experiment_id=failure.experiment_id,
        signature=candidate.signature,
        content_digest=_digest(raw, []),
        rows=failure_rows(failure, candidate.name),
    )


def _digest(document: bytes, sizes: Sequence[int]) -> str:
    return hashlib.blake2b(document + repr(sizes).encode(), digest_size=16).hexdigest()


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_KEYS])
    return shown if len(names) <= _SHOWN_KEYS else f"{shown} and {len(names) - _SHOWN_KEYS} more"
