"""Charts of energy against speed, of one kind of work at a time, with the front that none beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from warehouse.report.axes import axis_title, intervals, is_log, number_axis, scale_of
from warehouse.report.charts import (
    SETTINGS,
    Chart,
    Source,
    finished,
    settings_tooltip,
)
from warehouse.report.data import METRICS, Metric, ReportData, Row
from warehouse.report.fronts import BESIDE
from warehouse.report.labels import LETTER
from warehouse.report.theme import CARD, INK, SOFT, backend_colour, backend_shape, ordered_backends, themed, zoom

_HEIGHT = 340
_FONT_SIZE = 11
_LETTER = LETTER * _FONT_SIZE / 12
_BESIDE = round(BESIDE * _HEIGHT)
"""How far the middle of a name is below its point, or above it (px)."""
_MARGIN = 24
"""Between the points and the ends of the axis of energy, so that the lowest has its name below it, and the highest one
above (px)."""


def front_chart(other: Metric, data: ReportData) -> Chart:
    """Energy against `other`, of campaigns with the same work; those that none beats in both are joined by a line."""
    energy, key = METRICS[0], other.key
    front = f"{key}_front"
    title = f"Energy against {other.name}"
    summaries = _front_sentences(other, data)
    figures = (f"{one}_{part}" for one in ("energy", key) for part in ("mean", "lo", "hi", "text", "interval"))
    fields = (*SETTINGS, f"{key}_name", f"{key}_above", "short", "simulated", front, *figures)
    return Chart(
        name=f"energy-{key}",
        section="fronts",
        title=title,
        summary=summaries[0],
        spec=finished(_marks(other, data), title, _HEIGHT),
        sources=(Source("campaigns", "campaigns", "work", fields, ("energy_mean", f"{key}_mean")),),
        columns={
            "label": "configuration",
            "energy_text": energy.axis,
            f"{key}_text": other.axis,
            front: "on the front",
        },
        zoomed={"x": f"{key}_mean", "y": "energy_mean"},
        by="work",
        summaries=summaries,
    )


def _marks(other: Metric, data: ReportData) -> alt.LayerChart:
    """The front's line, the intervals of both figures, the points, and the names of those on the front."""
    energy, key = METRICS[0], other.key
    compared = [row for row in data.campaigns if comparable(row, other)]
    x_scale, y_scale = (scale_of([row[f"{one}_mean"] for row in compared]) for one in (key, "energy"))
    y_scale.padding = _MARGIN
    x_title, y_title = axis_title(other.axis, x_scale), axis_title(energy.axis, y_scale)
    x = alt.X(f"{key}_mean:Q", title=x_title, scale=x_scale, axis=number_axis(x_scale))
    y = alt.Y("energy_mean:Q", title=y_title, scale=y_scale, axis=number_axis(y_scale, "y"))
    base = alt.Chart(alt.NamedData("campaigns"))
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    on_front = alt.when(f"datum.{key}_front")
    points = base.mark_point(filled=True, aria=False).encode(
        x=x,
        y=y,
        shape=backend_shape(backends),
        size=on_front.then(alt.value(110)).otherwise(alt.value(40)),
        tooltip=settings_tooltip(
            [
                ("energy_text", energy.axis),
                ("energy_interval", "95 % interval"),
                (f"{key}_text", other.axis),
                (f"{key}_interval", "95 % interval "),
            ]
        ),
    )
    # Where there are hundreds, their intervals would hide the points.
    bars = on_front.then(alt.value(1)).otherwise(alt.value(0.45 if len(compared) < 60 else 0.1))
    faded = on_front.then(alt.value(1)).otherwise(alt.value(0.45))
    colour = backend_colour(backends)
    shared: dict[str, Any] = {"color": colour, "opacity": bars}

    def on_x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=x_title, scale=x_scale)

    def on_y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=y_title, scale=y_scale)

    across = intervals(base, key, on_x, wide=is_log(x_scale), channels={"y": y} | shared)
    upright = intervals(base, "energy", on_y, wide=is_log(y_scale), channels={"x": x} | shared)
    drawn = points.encode(color=colour, opacity=faded).add_params(zoom("x", "y"))
    marks: alt.LayerChart = _line(base, other, x, y) + across + upright + drawn + _names(other, x, y)
    return marks


def _line(base: alt.Chart, other: Metric, x: alt.X, y: alt.Y) -> alt.Chart:
    """What can be had: with this much of `other`, or better, the energy of the nearest campaign that has it."""
    line: alt.Chart = (
        base.transform_filter(f"datum.{other.key}_front")
        .mark_line(
            strokeDash=[5, 3], interpolate="step-before" if not other.less_is_better else "step-after", aria=False
        )
        .encode(
            x=x,
            y=y,
            order=alt.Order(f"{other.key}_mean:Q"),
            # Simulated ones are held against each other alone.
            detail="simulated:N",
            color=alt.value(themed(SOFT)),
        )
    )
    return line


def _names(other: Metric, x: alt.X, y: alt.Y) -> alt.LayerChart:
    """Names below their points, or above, on the side of the front where by its meaning there is no point."""
    key = other.key
    base = alt.Chart(alt.NamedData("campaigns")).transform_filter(f"isValid(datum.{key}_name)")
    wide = f"min({_LETTER} * length(datum.{key}_name), width)"
    at_x, at_y = f"scale('x', datum.{key}_mean)", "scale('y', datum.energy_mean)"
    # Past the edge there is no room: then on the other side, so that the steep end of a front stays to be seen.
    beyond, other_side = (
        (f"{at_x} + 4 - {wide}", f"{at_x} + 9") if other.less_is_better else (f"{at_x} - 4", f"{at_x} - 9 - {wide}")
    )
    fits = f"{beyond} >= 0" if other.less_is_better else f"{beyond} + {wide} <= width"
    left = f"clamp({fits} ? {beyond} : {other_side}, 0, width - {wide})"
    inside = f"{at_x} >= 0 && {at_x} <= width && {at_y} >= 0 && {at_y} <= height"

    def text(colour: tuple[str, str], **stroke: Any) -> alt.Chart:
        words: alt.Chart = base.mark_text(
            align="left",
            baseline="middle",
            fontSize=_FONT_SIZE,
            dx=alt.ExprRef(f"{left} - {at_x}"),
            dy=alt.ExprRef(f"datum.{key}_above ? -{_BESIDE} : {_BESIDE}"),
            limit=alt.ExprRef("width"),
            opacity=alt.ExprRef(f"{inside} ? 1 : 0"),
            aria=False,
            **stroke,
        ).encode(x=x, y=y, text=f"{key}_name:N", color=alt.value(themed(colour)))
        return words

    under = text(CARD, stroke=themed(CARD), strokeWidth=3)
    found: alt.LayerChart = alt.LayerChart(layer=[under, text(INK)])
    return found


def comparable(row: Row, other: Metric) -> bool:
    """Whether a campaign can be on the front of energy and `other`: it has both, and says what work it did."""
    return row["work"] is not None and row["energy_mean"] is not None and row[f"{other.key}_mean"] is not None


def _front_sentences(other: Metric, data: ReportData) -> tuple[str, ...]:
    """How many are on the front, for each kind of work; simulated ones are counted by themselves."""
    better = f"{'Left' if other.less_is_better else 'Right'} and low is better."
    works = f" One of {len(data.works)} kinds of work, each held against its own." if len(data.works) > 1 else ""
    sentences = []
    for at, work in enumerate(data.works):
        rows = [row for row in data.campaigns if row["work"] == at and comparable(row, other)]
        counted = [row for row in rows if not row["simulated"]]
        told = [_on_front(counted, other)] if counted or not rows else []
        if len(counted) < len(rows):
            simulated = _on_front([row for row in rows if row["simulated"]], other)
            told.append(f"On simulated GPUs, held against each other alone: {simulated}")
        if other.key == "speed" and work.rate is not None:
            told.append(f"Arrivals, {work.rate} requests/s, set the output tokens/s: only energy can be better.")
        elif len(rows) > 1:
            told.append(better)
        sentences.append(f"{work.label}: {' '.join(told)}{works}")
    return tuple(sentences)


def _on_front(rows: Sequence[Row], other: Metric) -> str:
    n, n_front = len(rows), sum(row[f"{other.key}_front"] for row in rows)
    few = {0: "no configuration has both figures.", 1: "a single configuration did this work."}
    are = "is" if n_front == 1 else "are"
    line = "; the dashed line joins them" if n_front > 1 else ""
    return few.get(n, f"{n_front} of {n:,} configurations that did this work {are} beaten by none in both{line}.")
