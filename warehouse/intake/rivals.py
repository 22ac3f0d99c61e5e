"""Directories that hold the same experiment: which of them it is taken from. Nothing here knows the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from images.contract import files
from warehouse.intake.records import Broken, Record

_DOCUMENTS = (files.RESULT_FILE, files.FAILURE_FILE)
_SIDECARS = (files.REQUESTS_FILE, files.TIMESERIES_FILE)
_NOT_KNOWN = ""
"""Digest of what was read by an earlier version."""

Key = tuple[str, str]
"""Kind and experiment_id."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The directory that an experiment in the database came from."""

    directory: str
    content_digest: str


@dataclass(frozen=True, slots=True)
class Sorted:
    """A batch after a look at what the database has already.

    Attributes:
        postponed: cannot be judged before another directory is read.
        conflicts: those of `broken` that have the id of another directory.
        moved_from: names of what held an experiment of `taken` until now.
    """

    taken: list[Record]
    duplicates: list[Record]
    postponed: list[Record]
    conflicts: list[Record]
    broken: list[Broken]
    moved_from: list[str]


@dataclass(frozen=True, slots=True)
class Rivals:
    """What is to be known of directories beyond the batch that is sorted.

    Attributes:
        exists: whether a directory is there and holds something.
        same: whether two directories have the same in those files of these names that both have; None: there are
            none, or that cannot be told.
        unread: names that this ingest is to read yet, so that what the database knows of them may be of yesterday.
        holds_now: what was read by this ingest and found no place in the database, by name.
    """

    exists: Callable[[str], bool]
    same: Callable[[str, str, Sequence[str]], bool | None]
    unread: set[str] = field(default_factory=set)
    holds_now: dict[str, Key] = field(default_factory=dict)

    def sort(self, batch: Sequence[Record | Broken], known: Mapping[Key, Holder]) -> Sorted:
        """The first directory of an experiment stays while it is there; the same again is a duplicate, else a conflict.

        Args:
            known: the directories that the database has the batch's experiments from.
        """
        taken: dict[Key, Record] = {}
        parts = Sorted([], [], [], [], [record for record in batch if isinstance(record, Broken)], [])
        read = {record.directory: record for record in batch if isinstance(record, Record)}
        holds_now = self.holds_now | {name: key_of(record) for name, record in read.items()}
        holders = {key: _as_read(key, holder, read) for key, holder in known.items()}
        for record in read.values():
            key = key_of(record)
            holder = holders.get(key)
            if holder is not None and holder.directory != record.directory:
                # A directory that holds something else now, because names were exchanged, holds its experiment no more.
                if holds_now.get(holder.directory, key) == key and self.exists(holder.directory):
                    is_copy = self._is_copy(record, holder)
                    if is_copy:
                        parts.duplicates.append(record)
                        continue
                    if holder.directory in self.unread and holder.directory not in read:
                        parts.postponed.append(record)
                        continue
                    if not self._have_same_files(record, holder):
                        parts.conflicts.append(record)
                        parts.broken.append(Broken(record.directory, _conflict(record, holder, is_copy)))
                        continue
                parts.moved_from.append(holder.directory)  # moved, or aggregated anew
            taken[key] = record
            holders[key] = Holder(record.directory, record.content_digest)
        parts.taken.extend(taken.values())
        return parts

    def remember(self, batch: Sequence[Record | Broken], parts: Sorted) -> None:
        """A batch was stored as it was sorted."""
        self.unread.difference_update(record.directory for record in batch)
        self.holds_now.update({record.directory: key_of(record) for record in (*parts.postponed, *parts.conflicts)})

    def _is_copy(self, record: Record, holder: Holder) -> bool | None:
        """None: that cannot be told."""
        if holder.content_digest == _NOT_KNOWN:
            return self._have_same_files(record, holder)
        if holder.content_digest != record.content_digest:
            return False
        # The digest holds the sizes of the sidecars, which is all that can be compared of what is not at hand.
        return self.same(holder.directory, record.directory, _SIDECARS) is not False

    def _have_same_files(self, record: Record, holder: Holder) -> bool | None:
        same_documents = self.same(holder.directory, record.directory, _DOCUMENTS)
        return same_documents and self.same(holder.directory, record.directory, _SIDECARS) is not False


def key_of(record: Record) -> Key:
    return record.kind, record.experiment_id


def _as_read(key: Key, holder: Holder, read: Mapping[str, Record]) -> Holder:
    """What the database knows of a holder, or what was read of it just now."""
    record = read.get(holder.directory)
    return holder if record is None or key_of(record) != key else Holder(holder.directory, record.content_digest)


def _conflict(record: Record, holder: Holder, is_copy: bool | None) -> str:
    if is_copy is None:
        return (
            f"has the experiment_id {record.experiment_id} of {holder.directory}, which cannot be compared with it "
            "before it is read again. Ingest both at once."
        )
    return (
        f"has the experiment_id {record.experiment_id} of {holder.directory} but other content. "
        "An id names one cycle; remove the directory that is wrong, then ingest again."
    )
