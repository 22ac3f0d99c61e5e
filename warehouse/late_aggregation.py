"""Finishing what a job of several processes could not: its leftover raw results become a result.

Interrupted at any moment it loses and doubles nothing: the raw results go only once the result is on disk, and where
there is a result already, no second one is made.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from images.contract.files import UnreadableResult
from images.contract.leftover import Leftover, describe, load_leftover
from warehouse.contents import Finished
from warehouse.errors import WarehouseError
from warehouse.repository import FileSystemRepository, remove


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Where an experiment's result is.

    Attributes:
        is_new: it was made just now.
        lacks: what is missing in it, if it was made of an incomplete experiment just now.
    """

    directory: Path
    is_new: bool
    lacks: str | None = None


def aggregate(repository: FileSystemRepository, experiment_id: str, *, force: bool = False) -> Aggregated:
    """Make the result of an experiment's raw results, publish it beside their folder, and remove them.

    Args:
        force: also of what is left of an incomplete experiment; the result is invalid then (rank_missing).

    Raises:
        WarehouseError: no id, nothing has it, two folders have it, it is incomplete, it cannot be read or written.
            The raw results are kept.
    """
    folder = repository.raw_folder(experiment_id)
    if folder is None:
        return _aggregated_before(repository, experiment_id)
    return aggregate_folder(repository, folder, force=force)


def aggregate_folder(repository: FileSystemRepository, folder: Path, *, force: bool = False) -> Aggregated:
    """As `aggregate`, of a folder of raw results, whose name is the experiment's id."""
    experiment_id = folder.name
    with _alone(folder) as is_there:
        if not is_there:
            return _aggregated_before(repository, experiment_id)
        try:
            leftover = load_leftover(folder)
            done = _published(repository, leftover) or _publish(repository, leftover, force)
        except UnreadableResult as error:
            raise WarehouseError(
                f"{experiment_id} cannot be aggregated: {error}. Its raw results are kept; "
                f"`warehouse results delete {experiment_id}` removes them."
            ) from None
        remove(folder)
        with suppress(OSError):
            folder.parent.rmdir()  # if it was the last one
    return done


def _aggregated_before(repository: FileSystemRepository, experiment_id: str) -> Aggregated:
    directory = repository.result_directory(experiment_id)
    if directory is not None:
        return Aggregated(directory, is_new=False)
    if repository.failure_directories(experiment_id):
        raise WarehouseError(f"{experiment_id} failed and left no raw results to aggregate. Run it again.")
    raise repository.unknown(experiment_id)


def _published(repository: FileSystemRepository, leftover: Leftover) -> Aggregated | None:
    """The whole result that is there already: somebody was interrupted before the raw results were removed."""
    hash8, cycle = leftover.facts.config_hash[:8], leftover.context.cycle

    def could_be(one: Finished) -> bool:
        named = one.parsed
        return not one.failed and (named is None or (named.hash8, named.cycle) == (hash8, cycle))

    found = [one.path for one in repository.find(leftover.experiment_id, could_be)]
    directory = repository.only(found, leftover.experiment_id)
    if directory is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = repository.load(directory)
    if result.requests is None:
        raise UnreadableResult(f"{directory} has the same id and lacks its requests.parquet")
    if result.measurement_config_hash != leftover.facts.config_hash:
        raise UnreadableResult(f"{directory} has the same id and another configuration")
    return Aggregated(directory, is_new=False)


def _publish(repository: FileSystemRepository, leftover: Leftover, force: bool) -> Aggregated:
    report = leftover.report()
    lacks = None if report.is_complete else describe(report, leftover.damaged)
    if lacks is not None and not force:
        raise WarehouseError(
            f"{leftover.experiment_id} is incomplete: {lacks}. "
            "Run it again, or aggregate what there is, as an invalid result, with --force."
        )
    result, requests, samples = leftover.aggregate()
    beside = leftover.folder.parent.parent
    for unfinished in beside.glob(f".{result.directory_name}.tmp-*"):  # of whoever was killed at this
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        directory = repository.save_aggregated(result, timeseries=samples, requests=requests, beside=beside)
    except OSError as error:
        raise WarehouseError(
            f"the result of {leftover.experiment_id} cannot be written to {beside} ({error.strerror}); its raw results "
            "are kept. Make room there, or correct its permissions, and run it again."
        ) from None
    return Aggregated(directory, is_new=True, lacks=lacks)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Nobody else aggregates this folder in the block; yields False if somebody has done it meanwhile."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        handle = None
    if handle is None:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder.exists() and folder.stat().st_ino == os.fstat(handle).st_ino
    finally:
        os.close(handle)
