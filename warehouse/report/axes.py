"""Axes of charts: linear or logarithmic by what is on them, and where their labels are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import altair as alt

from warehouse.report.theme import is_logarithmic

Place = Literal["x", "y"]
# Never an exponent, and as many digits as tell the labels apart however far it is zoomed: the twelfth is only there to
# leave out what a computer adds.
_FORMAT = ",.12~r"
# Zoomed in this far, a logarithmic axis has even steps: there are too few round numbers between its ends.
_EVEN_BELOW = 6
_APART = 4
"""Least gap between labels (px)."""
_NARROWEST = {"x": (230, 115, 75), "y": (105, 60, 35)}
"""Height or width of a power of ten (px) from which on the numbers in `_LEADING` have room for labels."""
_LEADING = ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3))


def scale_of(values: Sequence[float | None]) -> alt.Scale:
    """Logarithmic if all are above 0 and differ by much; never from 0: dots are compared by their places."""
    wide = is_logarithmic(values)
    return alt.Scale(type="log" if wide else "linear", zero=alt.Undefined if wide else False, nice=not wide, padding=8)


def intervals(
    base: alt.Chart,
    key: str,
    along: Callable[[str], alt.X | alt.Y],
    *,
    wide: bool,
    channels: dict[str, Any],
    **of_marks: Any,
) -> alt.LayerChart:
    """A line from the lower to the upper bound of each interval.

    A logarithmic axis has no place for a bound that is not above 0, as intervals of few cycles may have: their lines
    begin at its low end, which they do not move.

    Args:
        along: channel of a field on the axis.
        wide: whether its axis is logarithmic.
        channels: other channels.
        of_marks: properties of the lines.
    """
    low, high = f"{key}_lo", f"{key}_hi"
    place = "x" if isinstance(along(low), alt.X) else "y"
    known = base.transform_filter(f"isValid(datum.{low})")

    def ruled(those: alt.Chart, ends: dict[str, Any]) -> alt.Chart:
        lines: alt.Chart = those.mark_rule(aria=False, **of_marks).encode(**ends, **channels)
        return lines

    above = known.transform_filter(f"datum.{low} > 0") if wide else known
    layers = [ruled(above, {place: along(low), f"{place}2": f"{high}:Q"})]
    if wide:
        low_end = alt.value(0 if place == "x" else "height")
        below = known.transform_filter(f"datum.{low} <= 0")
        layers.append(ruled(below, {place: along(high), f"{place}2": low_end}))
    found: alt.LayerChart = alt.LayerChart(layer=layers)
    return found


def axis_title(name: str, scale: alt.Scale) -> str:
    """What is on an axis, and if it is logarithmic."""
    return f"{name} (log)" if is_log(scale) else name


def number_axis(scale: alt.Scale | None = None, place: Place = "x") -> alt.Axis:
    """With labels up to both ends, also where it is logarithmic."""
    if scale is None or not is_log(scale):
        return alt.Axis(format=_FORMAT, labelOverlap=True, tickCount=6, labelFlush=True)
    return log_axis(f"format(datum.value, '{_FORMAT}')", place)


def log_axis(label: str, place: Place = "x") -> alt.Axis:
    """Of a logarithmic scale.

    Args:
        label: of a tick, as an expression.
    """
    is_even = f"domain('{place}')[1] / domain('{place}')[0] < {_EVEN_BELOW}"
    return alt.Axis(
        values=alt.ExprRef(f"{is_even} ? {_even_steps(place)} : null"),
        labelExpr=f"{is_even} || {_has_room(place)} ? ({label}) : ''",
        labelOverlap="greedy",
        labelSeparation=_APART,
        tickCount=6,
        labelFlush=True,
    )


def percent_axis() -> alt.Axis:
    """Of parts, as differences."""
    text = "datum.value == 0 ? '0 %' : format(100 * datum.value, '+,.8~r') + ' %'"
    return alt.Axis(labelExpr=text, labelOverlap=True, tickCount=6, labelFlush=True)


def _even_steps(place: Place) -> str:
    """Ticks of an axis in steps of 1, 2 or 5, about five of them, as an expression."""
    low, high = f"domain('{place}')[0]", f"domain('{place}')[1]"
    part = f"(({high} - {low}) / 5)"
    power = f"pow(10, floor(log({part}) / LN10 + 1e-9))"
    step = f"({power} * ({part} / {power} > 4 ? 5 : {part} / {power} > 1.5 ? 2 : 1))"
    return f"sequence(ceil({low} / {step}) * {step}, {high}, {step})"


def is_log(scale: alt.Scale) -> bool:
    """Whether a scale of `scale_of` is logarithmic."""
    kind: Any = scale.type
    return bool(kind == "log")


def _has_room(place: Place) -> str:
    """Whether a tick of a logarithmic axis has a label, by its first digit and by how long a power of ten is."""
    of_ten = f"({'width' if place == 'x' else 'height'} * LN10 / log(domain('{place}')[1] / domain('{place}')[0]))"
    digit = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    found = "[1]"
    for narrowest, digits in reversed(list(zip(_NARROWEST[place], _LEADING, strict=True))):
        found = f"({of_ten} >= {narrowest} ? {list(digits)} : {found})"
    return f"indexof({found}, {digit}) >= 0"
