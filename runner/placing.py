"""Where units run: GPU sets, leased by UUID, or the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from images.contract.job import GpuUnusable
from runner.execute import Place
from runner.gpu.leases import LeaseFolderUnusable
from runner.gpu.settle import busy_gpus
from runner.gpu.slots import Lease, Slots
from runner.studies.plan import Unit
from runner.view.progress import Progress

_BUSY_S = 30.0
"""How long a GPU that somebody uses is not looked at again."""


class Placing:
    """
    Args:
        slots: the GPUs to lease; None on the CPU.
        patience_s: longest wait for the GPUs that a block was begun on (s).
    """

    def __init__(self, slots: Slots | None, patience_s: float, progress: Progress) -> None:
        self._slots, self._patience_s, self._progress = slots, patience_s, progress
        self._in_use: set[str] = set()
        self._busy_since_s: dict[str, float] = {}
        self._refused_since_s: dict[tuple[str, ...], float] = {}

    def require_possible(self, unit: Unit) -> None:
        """
        Raises:
            GpuUnusable: too few GPUs are left that work.
        """
        if self._slots is not None and unit.n_gpus > len(self._slots.usable):
            raise GpuUnusable(
                f"{unit.jobs[0].label} needs {unit.n_gpus} GPUs, and {len(self._slots.usable)} are left that work.",
                "Repair the GPUs that were set aside, and run again.",
            )

    def find(self, unit: Unit) -> Place | None:
        """A place for it; None if there is none now. It is the caller's until the end of `held`."""
        if self._slots is None:
            return Place()
        lease = self._lease(self._slots, unit)
        if lease is None:
            return None
        self._refused_since_s.pop(unit.only or (), None)
        self._in_use |= set(lease.uuids)
        return Place(lease.uuids, lease)

    @property
    def _gpus(self) -> Slots:
        assert self._slots is not None, "a place with GPUs was leased"
        return self._slots

    @contextmanager
    def held(self, place: Place) -> Iterator[None]:
        try:
            with place.lease or nullcontext():
                yield
        finally:
            self._in_use -= set(place.gpu_uuids)

    def set_aside(self, place: Place, why: str) -> None:
        """Do not use its GPUs again in this run."""
        for uuid in place.gpu_uuids:
            self._gpus.set_aside(uuid, why)
            self._progress.note(f"{uuid} is set aside until the next run: {why}")

    def forgive(self, uuids: Iterable[str], why: str) -> None:
        """They were set aside wrongly."""
        for uuid in uuids:
            self._gpus.forgive(uuid)
            self._progress.note(f"{uuid} is used again: {why}")

    def still_possible(self, unit: Unit) -> Unit:
        """A block whose GPUs are not here any more goes on elsewhere."""
        if unit.only is None or (self._slots is not None and set(unit.only) <= set(self._slots.usable)):
            return unit
        return self._elsewhere(unit, "cannot be used now")

    def after_refusal(self, unit: Unit) -> Unit:
        """A begun block does not wait for other runners for ever; for another block of this one it does."""
        if unit.only is None or self._in_use & set(unit.only):
            return unit
        since_s = self._refused_since_s.setdefault(unit.only, time.monotonic())
        if time.monotonic() - since_s <= self._patience_s:
            return unit
        return self._elsewhere(unit, f"another runner has had for {self._patience_s:g} s")

    def _elsewhere(self, unit: Unit, why: str) -> Unit:
        self._progress.note(
            f"cycle {unit.cycle}: its earlier results are from {', '.join(unit.only or ())}, which {why}; the "
            "rest is measured on other GPUs, as another block"
        )
        return replace(unit, only=None)

    def _lease(self, slots: Slots, unit: Unit) -> Lease | None:
        """GPUs that somebody uses without a lease are left to them as long as the study has others.

        They are looked at once they are ours: a question to a driver may disturb what others measure.
        """
        try:
            if unit.only is not None:
                return slots.lease(unit.n_gpus, only=unit.only)
            while True:
                avoid = self._known_busy()
                has_others = len(set(slots.usable) - avoid) >= unit.n_gpus
                lease = slots.lease(unit.n_gpus, avoid=avoid if has_others else ())
                if lease is None or not has_others or lease.left_by or not (busy := busy_gpus(lease.uuids)):
                    return lease
                self._busy_since_s |= dict.fromkeys(busy, time.monotonic())
                lease.release()
        except LeaseFolderUnusable as error:
            self._progress.waiting(f"waiting: {error}")
            return None

    def _known_busy(self) -> set[str]:
        return {uuid for uuid, seen_s in self._busy_since_s.items() if time.monotonic() - seen_s < _BUSY_S}
