"""A place that jobs publish to by themselves: each cycle of a study counts once, however often it is tried.

PLACE/{directory}/                     a result or a failure, as `save` makes it
PLACE/raw/{experiment_id}/             what single processes of a failed experiment left
PLACE/.published/{hash}-c001.json      a Manifest: the one try that counts for this cycle
PLACE/.uploads/{experiment_id}/        files on their way
PLACE/.begun/{hash}-c001/{launch}/{try}         a try that began
PLACE/.begun/{hash}-c001/{launch}/{try}.said    a try that failed and could tell why: its failure's directory and code

Readers pass over dot names, so what is on its way is never taken for a result. A place is a folder, or a prefix in
object storage (``s3://bucket/prefix``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from images.contract import files
from images.contract.parts import Record

UPLOADS = ".uploads"
_PUBLISHED = ".published"
_BEGUN = ".begun"
_LAUNCHED_BY_HAND = "alone"
SAID = ".said"
"""End of the name of what a failed try leaves beside the mark of its beginning."""


class StoredFile(Record):
    name: str
    size_bytes: int
    sha256: str = Field(description="of its content, 64 hex digits")


class Manifest(Record):
    """One published directory."""

    experiment_id: str
    directory: str = Field(description="its name in the place")
    files: list[StoredFile] = Field(description="the one that makes it count stands last")

    @classmethod
    def of(cls, directory: Path, experiment_id: str) -> Self:
        """Of a finished directory.

        Raises:
            OSError: it cannot be read.
        """
        marks = (files.RESULT_FILE, files.FAILURE_FILE)
        paths = sorted(directory.iterdir(), key=lambda path: (path.name in marks, path.name))
        return cls(experiment_id=experiment_id, directory=directory.name, files=[_stored(path) for path in paths])

    @classmethod
    def of_raw(cls, folder: Path, experiment_id: str) -> Self:
        """Of what single processes of a failed experiment left; a process may still be at its files.

        Raises:
            OSError: it cannot be read.
        """
        whole = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        marks = sorted(folder.glob(f"{files.COMPLETED_PREFIX}*"))
        return cls(
            experiment_id=experiment_id,
            directory=f"{files.RAW_FOLDER}/{experiment_id}",
            files=[_stored(path) for path in (*whole, *marks)],
        )

    @classmethod
    def parse(cls, raw: bytes) -> Self | None:
        """None if it is no manifest."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError:
            return None


class LastWord(Record):
    """Of a try that failed."""

    directory: str | None = Field(None, description="of its failure, in the place; None: it could not be published")
    exit_code: int = Field(0, description="an ExitCode")

    @classmethod
    def parse(cls, raw: bytes | None) -> Self | None:
        """None if it is none."""
        try:
            return None if raw is None else cls.model_validate_json(raw)
        except ValidationError:
            return None


def claim_key(config_hash: str, cycle: int) -> str:
    """Key of the manifest of the try that counts."""
    return f"{_PUBLISHED}/{_cell(config_hash, cycle)}.json"


def begun_key(config_hash: str, cycle: int, launch: str | None, attempt: str = "") -> str:
    """Key of the mark of a try; without one, the folder of all of this launch.

    Args:
        launch: whose tries count together; in a cluster, its Job's uid. A study that is run again has tries of its own.
    """
    return f"{_BEGUN}/{_cell(config_hash, cycle)}/{launch or _LAUNCHED_BY_HAND}/{attempt}"


def said_key(config_hash: str, cycle: int, launch: str | None, attempt: str) -> str:
    """Key of what a try that failed leaves once its failure is published: a `LastWord`.

    There is nothing under this key of a try that has its result, was ended from outside, or died without a word.

    Args:
        attempt: name of the try; in a cluster, its pod's.
    """
    return f"{begun_key(config_hash, cycle, launch, attempt)}{SAID}"


def _cell(config_hash: str, cycle: int) -> str:
    return f"{config_hash}-c{cycle:03d}"


def _stored(path: Path) -> StoredFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return StoredFile(name=path.name, size_bytes=path.stat().st_size, sha256=digest)
