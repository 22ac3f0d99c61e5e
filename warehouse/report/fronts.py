"""Which campaigns are on a Pareto front, and which of them have names beside them, so that none stands on another."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from warehouse.report.labels import short_labels
from warehouse.report.theme import is_logarithmic

Row = dict[str, Any]

MOST_NAMES = 8
APART = (0.45, 0.055)
"""Names that are nearer than this both across and upright would touch (parts of the width and of the height)."""
BESIDE = 0.038
"""How far the middle of a name is below its point, or above it (part of the height)."""


def mark_fronts(campaigns: Sequence[Row], signs: Mapping[str, int]) -> None:
    """Give each row ``speed_front`` and so on: none with the same work beats it in both energy and this, by the means.

    As in the view ``pareto_front``, but simulated GPUs are held against each other alone. rows.js does the same with
    what filters leave.

    Args:
        signs: of each metric 1 if less is better, else -1.
    """
    for key, sign in signs.items():
        of_work: dict[tuple[int, bool], list[Row]] = defaultdict(list)
        for row in campaigns:
            row[f"{key}_front"] = False
            if row["work"] is not None and None not in (row["energy_mean"], row[f"{key}_mean"]):
                of_work[row["work"], bool(row["simulated"])].append(row)
        for rows in of_work.values():
            last = (math.inf, math.inf)
            for place, row in _in_order(rows, key, sign):
                # Those that are equal in both are on it together.
                row[f"{key}_front"] = place[1] < last[1] or place == last
                last = place if row[f"{key}_front"] else last


def _in_order(rows: Sequence[Row], key: str, sign: int) -> list[tuple[tuple[float, float], Row]]:
    """From the best in `key` on, each with what it has of it and of energy: less is better."""
    places = [((sign * row[f"{key}_mean"], row["energy_mean"]), row) for row in rows]
    return sorted(places, key=lambda one: one[0])


def name_fronts(campaigns: Sequence[Row], keys: Sequence[str]) -> None:
    """Give each row ``speed_name`` and so on for all `keys`: what it is called on the front, None if there is no room.

    ``speed_above``: whether its name stands above its point. And ``short``: what it is called on the front of any part
    of its work, so that it keeps its name whatever filters leave.

    Of each kind of work both ends come first, and those of the measured front always have names; then both ends of the
    simulated front, then from the end of least energy on whatever has room.
    """
    of_any: dict[int | None, list[Row]] = defaultdict(list)
    for row in campaigns:
        of_any[row["work"]].append(row)
    for work, rows in of_any.items():
        names: Sequence[str | None] = [None] * len(rows) if work is None else short_labels(rows)
        for row, name in zip(rows, names, strict=True):
            row["short"] = name
    for key in keys:
        of_work: dict[int, list[Row]] = defaultdict(list)
        for row in campaigns:
            row |= {f"{key}_name": None, f"{key}_above": False}
            if row["work"] is not None and None not in (row["energy_mean"], row[f"{key}_mean"]):
                of_work[row["work"]].append(row)
        is_log = logarithmic(campaigns, key)
        for rows in of_work.values():
            _name_front(rows, key, is_log)


def logarithmic(campaigns: Sequence[Row], key: str) -> list[bool]:
    """Whether the axes of `key` and of energy are, in the chart of both."""
    drawn = [
        row for row in campaigns if row["work"] is not None and None not in (row["energy_mean"], row[f"{key}_mean"])
    ]
    return [is_logarithmic(row[f"{one}_mean"] for row in drawn) for one in (key, "energy")]


def _name_front(rows: Sequence[Row], key: str, is_log: Sequence[bool]) -> None:
    """
    Args:
        is_log: whether the axes of `key` and of energy are logarithmic.
    """
    front = sorted((row for row in rows if row[f"{key}_front"]), key=lambda row: (row["energy_mean"], row["c"]))
    axes = [_places(front, rows, one, log) for one, log in zip((key, "energy"), is_log, strict=True)]
    places = list(zip(*axes, strict=True))
    ends = _ends_of(front)
    chosen: dict[int, tuple[float, float]] = {}
    for at in [*ends, *(at for at in range(len(front)) if at not in ends)]:
        across, upright = places[at]
        # What stands below at one end would touch the other end's name: that one is above.
        for side in (-BESIDE, BESIDE) if at in ends else (-BESIDE,):
            name = (across, upright + side)
            if len(chosen) < MOST_NAMES and all(
                _is_apart(name, place, whatever_across=at in ends and other in ends) for other, place in chosen.items()
            ):
                chosen[at] = name
                front[at][f"{key}_above"] = side > 0
                break
    for at in chosen:
        front[at][f"{key}_name"] = front[at]["short"]


def _ends_of(front: Sequence[Row]) -> list[int]:
    """Places of those that take least and most energy, of what was measured before what was simulated."""
    sides = [[at for at, row in enumerate(front) if bool(row["simulated"]) == simulated] for simulated in (False, True)]
    return list(dict.fromkeys(at for side in sides if side for at in (side[0], side[-1])))


def _places(front: Sequence[Row], rows: Sequence[Row], key: str, log: bool) -> list[float]:
    """Where the points of a front are on an axis that holds all rows with their intervals, from 0 to 1.

    Without the bounds that a logarithm has no place for.
    """

    def on_axis(value: float) -> float:
        return math.log(value) if log else value

    drawn = [value for row in rows for end in ("mean", "lo", "hi") if (value := row[f"{key}_{end}"]) is not None]
    placed = [on_axis(value) for value in drawn if value > 0 or not log]
    low, high = min(placed), max(placed)
    return [(on_axis(row[f"{key}_mean"]) - low) / ((high - low) or 1.0) for row in front]


def _is_apart(one: Sequence[float], other: Sequence[float], *, whatever_across: bool) -> bool:
    """
    Args:
        whatever_across: only how far they are apart upright counts, so that names of any length keep clear.
    """
    across, upright = (abs(a - b) >= least for a, b, least in zip(one, other, APART, strict=True))
    return upright or (across and not whatever_across)
