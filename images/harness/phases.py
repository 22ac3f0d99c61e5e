"""Energy of prefill and of decode: which of the two the running requests were in, and what the device drew meanwhile.

A request is in prefill from its start to its first token and in decode until its last one. The window falls into
intervals in which only prefill runs, only decode, both (mixed), or nothing. Of each interval the sampled power is
integrated by the trapezoid, its value held from each change of phase to the nearest sample on either side, as at the
window's marks (`energy.py`); mixed and idle intervals are in neither part. Where the sum of all of them is within 5 %
of the window's figure, which is the counter's if there is one, the parts are scaled so that it is the figure.

Error bound of a part, J. The last reading before a change shows what was before; so may any other, for as long as
readings stand still; the first one later than that shows what comes after. Between these two a power step may be
anywhere, and no stamp, set on the host, is later than the device by more. So for each of the part's intervals

    min(its length, time between the two) x (highest - lowest power there), at either end     a power step is shifted
    + its length x highest power, if no reading is known to show this interval                nobody saw it

and once for each device

    + the bound of the integral over the whole window (`energy.py`)                           samples and marks
    + |figure / sum - 1| x the part                                                           difference of methods

Shifts all have one sign, so they add up. A prefill that is shorter than the power reading's own period thus has a bound
above its energy. The parts are not separable, and then not given, if either is below its bound, or if more than a tenth
of the busy time is mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from images.contract.parts import DeviceEnergy, PhaseEnergy
from images.harness.counter import Array, Integral, standing_still
from images.harness.energy import AVERAGED_OVER_S
from images.harness.findings import MIN_DISAGREEMENT
from images.harness.latency import RequestRecord
from images.harness.meter import Metered
from images.harness.window import Span

MOST_MIXED = 0.1
_IDLE, _PREFILL, _DECODE, _MIXED = range(4)


@dataclass(frozen=True, slots=True)
class Phases:
    """The phase between every two changes.

    Attributes:
        edges_s: in seconds after the window opened, rising; shape (n + 1,).
        kinds: idle 0, prefill 1, decode 2, mixed 3; neighbours differ; shape (n,).
    """

    edges_s: Array
    kinds: Array

    @property
    def mixed_fraction(self) -> float | None:
        """Share of the busy time; None if nothing ever ran."""
        lengths = np.diff(self.edges_s)
        busy_s = float(lengths[self.kinds != _IDLE].sum())
        return float(lengths[self.kinds == _MIXED].sum()) / busy_s if busy_s > 0.0 else None


@dataclass(frozen=True, slots=True)
class _Part:
    """One phase's energy on one device, or on several (J)."""

    energy_j: float = 0.0
    bound_j: float = 0.0


def split_energy(
    rows: Sequence[RequestRecord], metered: Metered, described: Span, first_gpu: int = 0
) -> PhaseEnergy | None:
    """Energy of both phases of a process, whose GPUs work on its requests only; None without a meter.

    Args:
        rows: all requests of the window.
        described: the part of the window that `metered` gives the energy of.
        first_gpu: number in the job of the process's first GPU, as in the samples.
    """
    if not metered.devices or metered.samples is None:
        return None
    phases = find_phases(rows, described)
    if phases is None:
        return _not_separable("the backend does not say when requests start and when their tokens come")
    mixed = phases.mixed_fraction
    if mixed is None:
        return _not_separable("no time passed between the requests' stamps")
    if mixed > MOST_MIXED:
        return _not_separable(
            f"in {mixed:.0%} of the busy time some requests were in prefill while others decoded", mixed_fraction=mixed
        )
    parts = []
    for device, (time_s, power_w) in zip(metered.devices, _readings(metered, first_gpu), strict=True):
        if device.energy_j is None or not device.integral_j or device.integral_bound_j is None:
            return _not_separable(f"the power of {device.gpu_uuid} is not known", mixed_fraction=mixed)
        parts.append([_part(phases, kind, device, time_s, power_w) for kind in (_PREFILL, _DECODE)])
    prefill, decode = (_together(part) for part in zip(*parts, strict=True))
    bound_j = max(prefill.bound_j, decode.bound_j)
    for name, part, kind in (("prefill", prefill, _PREFILL), ("decode", decode, _DECODE)):
        if kind in phases.kinds and part.bound_j >= part.energy_j:
            return _not_separable(
                f"the power readings leave a doubt of {part.bound_j:.3g} J in {name}, which took {part.energy_j:.3g} J",
                mixed_fraction=mixed,
                bound_j=bound_j,
            )
    return PhaseEnergy(prefill_j=prefill.energy_j, decode_j=decode.energy_j, bound_j=bound_j, mixed_fraction=mixed)


def find_phases(rows: Sequence[RequestRecord], described: Span) -> Phases | None:
    """The phases of the described part; None if some request's times are not known."""
    if any(row.queue_ms is None or row.ttft_ms is None or row.e2e_ms is None for row in rows):
        return None
    arrived_s = np.array([row.arrival_s for row in rows])
    started_s, first_s, last_s = (
        arrived_s + np.array([getattr(row, latency) for row in rows], dtype=float) / 1e3
        for latency in ("queue_ms", "ttft_ms", "e2e_ms")
    )
    edges_s = np.unique(np.clip(np.concatenate([started_s, first_s, last_s, described]), *described))
    middles_s = (edges_s[1:] + edges_s[:-1]) / 2
    prefill, decode = _running(started_s, first_s, middles_s), _running(first_s, last_s, middles_s)
    kinds = np.where(prefill, np.where(decode, _MIXED, _PREFILL), np.where(decode, _DECODE, _IDLE))
    changes = np.flatnonzero(np.diff(kinds)) + 1
    return Phases(edges_s[np.concatenate([[0], changes, [kinds.size]])], kinds[np.concatenate([[0], changes])])


def _running(from_s: Array, to_s: Array, when_s: Array) -> Array:
    """Whether any of the intervals [from, to) holds each moment."""
    begun = np.searchsorted(np.sort(from_s), when_s, side="right")
    ended = np.searchsorted(np.sort(to_s), when_s, side="right")
    return np.asarray(begun > ended)


def _readings(metered: Metered, first_gpu: int) -> list[tuple[Array, Array]]:
    """Times and power of each device's samples, in the order of the devices."""
    assert metered.samples is not None
    index, time_s, power_w = (metered.samples[name].to_numpy() for name in ("gpu_index", "timestamp_s", "gpu_power_w"))
    chosen = [np.isfinite(power_w) & (index == first_gpu + at) for at in range(len(metered.devices))]
    return [(time_s[one], power_w[one]) for one in chosen]


def _part(phases: Phases, kind: int, device: DeviceEnergy, time_s: Array, power_w: Array) -> _Part:
    """One phase on one device."""
    intervals = np.flatnonzero(phases.kinds == kind)
    if intervals.size == 0:
        return _Part()
    joules = np.diff(_held_at(time_s, power_w, phases.edges_s).at(phases.edges_s))
    energy_j = float(joules[intervals].sum())
    stale_s = AVERAGED_OVER_S if device.power_method == "average_1s" else standing_still(time_s, power_w)
    bound_j, highest_w = device.integral_bound_j or 0.0, float(power_w.max())
    for start_s, end_s in zip(phases.edges_s[intervals].tolist(), phases.edges_s[intervals + 1].tolist(), strict=True):
        bound_j += sum(_shift(edge_s, end_s - start_s, stale_s, time_s, power_w) for edge_s in (start_s, end_s))
        first_known, behind = np.searchsorted(time_s, [start_s + stale_s, end_s])
        if first_known >= behind:
            bound_j += (end_s - start_s) * highest_w
    off = (device.energy_j or 0.0) / float(joules.sum()) - 1.0
    bound_j += abs(off) * energy_j
    return _Part(energy_j * (1.0 + off) if abs(off) <= MIN_DISAGREEMENT else energy_j, bound_j)


def _held_at(time_s: Array, power_w: Array, changes_s: Array) -> Integral:
    """The integral of power that steps at the changes."""
    after = np.searchsorted(time_s, changes_s)
    inside = (after > 0) & (after < time_s.size)
    at, when_s = np.repeat(after[inside], 2), np.repeat(changes_s[inside], 2)
    values = np.stack([power_w[after[inside] - 1], power_w[after[inside]]], axis=1).ravel()
    return Integral(np.insert(time_s, at, when_s), np.insert(power_w, at, values), ())


def _shift(change_s: float, length_s: float, stale_s: float, time_s: Array, power_w: Array) -> float:
    """Energy that a change of phase may have moved into an interval of that length, or out of it (J)."""
    earliest, before, after = np.searchsorted(time_s, [change_s - stale_s, change_s, change_s + stale_s]).tolist()
    earliest, before, after = max(earliest - 1, 0), max(before - 1, 0), min(after, time_s.size - 1)
    doubtful_s = max(float(time_s[after] - time_s[before]), stale_s)
    return min(length_s, doubtful_s) * float(np.ptp(power_w[earliest : after + 1]))


def _together(parts: Iterable[_Part]) -> _Part:
    known = list(parts)
    return _Part(math.fsum(part.energy_j for part in known), math.fsum(part.bound_j for part in known))


def _not_separable(why: str, *, mixed_fraction: float | None = None, bound_j: float | None = None) -> PhaseEnergy:
    return PhaseEnergy(note=f"not separable: {why}", mixed_fraction=mixed_fraction, bound_j=bound_j)
