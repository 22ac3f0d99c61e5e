"""GPU slots, leased by UUID, so that runners of any user on this host never share a GPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from runner.gpu.leases import LeaseFolder, LeaseFolderUnusable, LeaseRecord, process_started

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """The run that leases."""

    output: Path
    study: str | None
    launcher: str


class Slots:
    """The GPUs that one run may use. Its threads may call it.

    Args:
        uuids: in the order in which they are tried.
        folder: `lease_folder()`; made if it is not there.
        exclusive: GPUs that every lease takes beside its own, in exclusive mode: all of the host.

    Raises:
        LeaseFolderUnusable: it cannot be made or written, or it is a file. So do `lease` and `Lease.occupy`.
    """

    def __init__(
        self,
        uuids: Sequence[str],
        folder: Path,
        owner: Owner,
        *,
        exclusive: Sequence[str] = (),
    ) -> None:
        self._uuids = tuple(uuids)
        self._folder = LeaseFolder(folder)
        self._owner = owner
        self._exclusive = tuple(exclusive)
        self.aside: dict[str, str] = {}
        """GPUs that failed, and why."""
        if self._uuids or self._exclusive:
            self._folder.make()

    @property
    def usable(self) -> list[str]:
        """All but those set aside, leased or not."""
        return [uuid for uuid in self._uuids if uuid not in self.aside]

    def set_aside(self, uuid: str, why: str) -> None:
        """Never lease it again in this run."""
        self.aside[uuid] = why

    def forgive(self, uuid: str) -> None:
        """It was set aside wrongly."""
        self.aside.pop(uuid, None)

    def lease(self, n: int, only: Sequence[str] | None = None, avoid: Collection[str] = ()) -> Lease | None:
        """Lease n GPUs, all or none, without waiting; None if they are not free now.

        Args:
            only: exactly these n, in this order; otherwise the lease has them in the run's order.
        """
        candidates = [uuid for uuid in self.usable if uuid not in avoid]
        if only is not None:
            if len(only) != n:
                raise ValueError(f"{n} GPUs, but {len(only)} are named")
            candidates = [uuid for uuid in only if uuid in candidates]
        if len(candidates) < n:
            return None
        with self._folder.alone(), ExitStack() as undo:
            lease = Lease(self._folder, self._owner)
            undo.callback(lease._drop)
            chosen = lease._take(candidates, n)
            beside = [uuid for uuid in self._exclusive if uuid not in chosen]
            if len(chosen) < n or len(lease._take(beside, len(beside))) < len(beside):
                return None
            lease._announce(only or [uuid for uuid in self._uuids if uuid in chosen])
            undo.pop_all()
            return lease


class Lease:
    """GPUs that no other runner gets until `release`. A context manager; `Slots.lease` makes it."""

    def __init__(self, folder: LeaseFolder, owner: Owner) -> None:
        """Holds nothing yet."""
        self.uuids: tuple[str, ...] = ()
        self._folder = folder
        self._owner = owner
        self._locks: dict[str, FileLock] = {}
        self._left: dict[str, list[LeaseRecord]] = {}

    @property
    def left_by(self) -> list[LeaseRecord]:
        """What dead runners left on these GPUs, in exclusive mode also on the others: their jobs may still run there.

        It stays on disk, also after `release`, until `occupy` says that these jobs have ended.
        """
        return [record for records in self._left.values() for record in records]

    def occupy(self, experiment: str, cycle: int, attempt: Path | None) -> None:
        """Say what runs there now, and that nothing else does any more."""
        with self._folder.alone():
            for uuid in self._locks:
                self._folder.write(uuid, [self._record(uuid, experiment, cycle, attempt)])
                self._left[uuid] = []

    def release(self) -> None:
        """Give all GPUs back; a second time does nothing."""
        if not self._locks:
            return
        locks = list(self._locks.values())
        try:
            with self._folder.alone():
                self._drop()
        except LeaseFolderUnusable as error:
            _logger.warning("lease_not_removed: %s", error)
        finally:
            for lock in locks:
                lock.release()

    def leave(self) -> None:
        """Release, but keep on disk what ran there: it could not be ended, and may still run."""
        with self._folder.alone():
            for uuid in self._locks:
                self._left[uuid] = [record for record in self._folder.read(uuid) if record.experiment is not None]
        self.release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take(self, candidates: Iterable[str], n: int) -> list[str]:
        """Lock the first n that are free, or all that are. Only while alone in the folder, like the next two."""
        taken: list[str] = []
        for uuid in candidates:
            lock = self._folder.take(uuid) if len(taken) < n else None
            if lock is not None:
                self._locks[uuid] = lock
                taken.append(uuid)
        return taken

    def _announce(self, uuids: Iterable[str]) -> None:
        self.uuids = tuple(uuids)
        self._left = {uuid: self._folder.read(uuid) for uuid in self._locks}
        for uuid, records in self._left.items():
            self._folder.write(uuid, [*records, self._record(uuid)])

    def _drop(self) -> None:
        locks, self._locks = self._locks, {}
        with ExitStack() as each:  # one that fails does not keep the others
            for uuid, lock in locks.items():
                each.callback(self._folder.give_back, lock)
                if uuid in self._left:
                    each.callback(self._folder.write, uuid, self._left[uuid])

    def _record(
        self, uuid: str, experiment: str | None = None, cycle: int | None = None, attempt: Path | None = None
    ) -> LeaseRecord:
        return LeaseRecord(
            uuid=uuid,
            pid=os.getpid(),
            started=process_started(os.getpid()),
            user=os.getuid(),
            output=self._owner.output,
            study=self._owner.study,
            launcher=self._owner.launcher,
            experiment=experiment,
            cycle=cycle,
            attempt=attempt,
            used=uuid in self.uuids,
            since=datetime.now(UTC),
        )


def active_leases(folder: Path, patience_s: float | None = None) -> list[LeaseRecord]:
    """The leases of all runners, this one's too. Disturbs nobody, and makes no folder.

    Args:
        patience_s: longest wait for the folder (s).

    Raises:
        LeaseFolderUnusable: it is there, but cannot be used.
    """
    return [records[-1] for _, held, records in _look(LeaseFolder(folder), patience_s) if held and records]


def dead_leases(folder: Path) -> list[LeaseRecord]:
    """What dead runners left, also on GPUs that another one has by now. Their jobs may still run there.

    Raises:
        LeaseFolderUnusable: it is there, but cannot be used.
    """
    seen = _look(LeaseFolder(folder))
    return [record for _, held, records in seen for record in (records[:-1] if held else records)]


def forget_dead(folder: Path, ended: Callable[[LeaseRecord], bool]) -> None:
    """Remove what dead runners left, where their jobs have `ended`. GPUs that are leased now are left alone.

    Raises:
        LeaseFolderUnusable: it is there, but cannot be used.
    """
    leases = LeaseFolder(folder)
    if not leases.exists():
        return
    with leases.alone():
        for uuid in leases.uuids():
            lock = leases.take(uuid)
            if lock is not None:
                with ExitStack() as last:
                    last.callback(leases.give_back, lock)
                    leases.write(uuid, [record for record in leases.read(uuid) if not ended(record)])


def _look(folder: LeaseFolder, patience_s: float | None = None) -> list[tuple[str, bool, list[LeaseRecord]]]:
    """Each GPU with a file there, whether a runner has it, and its records."""
    if not folder.exists():
        return []
    seen = []
    # Nobody tries a lock meanwhile, so nobody takes ours for a runner's.
    with folder.alone(patience_s):
        for uuid in folder.uuids():
            lock = folder.take(uuid)
            seen.append((uuid, lock is None, folder.read(uuid)))
            if lock is not None:
                folder.give_back(lock)
    return seen
