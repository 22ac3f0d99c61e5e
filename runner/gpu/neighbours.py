"""Who runs beside whom: what a job draws, and how fast it is, may depend on the work on the host's other GPUs."""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from images.contract.scheduling import Neighbour
from runner.gpu.leases import LeaseFolderUnusable
from runner.gpu.slots import active_leases
from runner.layout import Attempt
from runner.studies.study import Job

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 0.2

_logger = logging.getLogger(__name__)


class Neighbourhood:
    """All jobs of this runner, known exactly, and those of other runners, seen by their leases once a second.

    Jobs without a GPU hold no lease, so those of other runners are not seen.

    Args:
        leases: the folder of all runners' leases; None where no GPU is used.
        output: of this runner, which with its process id tells its own leases.
    """

    def __init__(self, leases: Path | None, output: Path) -> None:
        self._leases = leases
        self._own = (os.getpid(), output)
        self._lock = threading.Lock()
        self._here: dict[Path, Neighbour] = {}
        self._beside: dict[Path, dict[str, Neighbour]] = {}
        self._attempts: dict[Path, Attempt] = {}
        self._looked_s = float("-inf")

    def enter(self, attempt: Attempt, job: Job, gpu_uuids: tuple[str, ...]) -> None:
        """A job starts."""
        own = Neighbour(
            gpu_uuids=list(gpu_uuids),
            study=job.study,
            experiment=job.experiment.name,
            cycle=job.cycle,
            pid=self._own[0],
            seen=datetime.now(UTC),
        )
        key = attempt.folder
        with self._lock:
            self._beside[key] = {str(other): neighbour for other, neighbour in self._here.items()}
            self._attempts[key] = attempt
            self._write(key)
            for other in self._here:
                self._met(other, str(key), own)
            self._here[key] = own
        self.look(now=True)

    def leave(self, attempt: Attempt) -> None:
        """A job ended: from now on nothing is written into its folder. A second time does nothing."""
        self.look()
        with self._lock:
            for record in (self._here, self._beside, self._attempts):
                record.pop(attempt.folder, None)

    def look(self, *, now: bool = False) -> None:
        """See whom other runners have beside us; cheap when called often."""
        if self._leases is None:
            return
        with self._lock:
            if not now and time.monotonic() - self._looked_s < _LOOK_EVERY_S:
                return
            self._looked_s = time.monotonic()
        others = self._others(self._leases)
        with self._lock:
            for key, neighbour in others.items():
                for own in self._here:
                    self._met(own, key, neighbour)

    def _met(self, own: Path, key: str, neighbour: Neighbour) -> None:
        if key not in self._beside[own]:
            self._beside[own][key] = neighbour
            self._write(own)

    def _write(self, own: Path) -> None:
        """No measurement is lost because its neighbours cannot be written down; the next one is tried again."""
        try:
            self._attempts[own].save_neighbours(list(self._beside[own].values()))
        except OSError as error:
            _logger.warning("neighbours_not_written: %s", error)

    def _others(self, leases: Path) -> dict[str, Neighbour]:
        found: dict[str, Neighbour] = {}
        try:
            records = active_leases(leases, patience_s=_PATIENCE_S)
        except LeaseFolderUnusable as error:
            _logger.info("neighbours_not_seen: %s", error)
            return found
        for record in records:
            if (record.pid, record.output) == self._own or record.attempt is None:
                continue  # ours, or a block between two of its jobs
            key = str(record.attempt)
            uuids = [*found[key].gpu_uuids, record.uuid] if key in found else [record.uuid]
            found[key] = Neighbour(
                gpu_uuids=uuids,
                study=record.study,
                experiment=record.experiment,
                cycle=record.cycle,
                pid=record.pid,
                seen=datetime.now(UTC),
            )
        return found
