"""Charts of energy against speed, of one kind of work at a time, with the front that none beats in both."""

from __future__ import annotations

import altair as alt

from warehouse.report.charts import (
    SETTINGS,
    Chart,
    Source,
    drawn_values,
    finished,
    number_axis,
    scale_of,
    settings_tooltip,
)
from warehouse.report.data import METRICS, Metric, ReportData, Row
from warehouse.report.theme import SOFT, backend_colour, backend_shape, ordered_backends, themed, zoom

_HEIGHT = 340


def front_chart(other: Metric, data: ReportData) -> Chart:
    """Energy against `other`, of campaigns with the same work; those that none beats in both are joined by a line."""
    energy, key = METRICS[0], other.key
    front = f"{key}_front"
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    compared = [row for row in data.campaigns if comparable(row, other)]
    x_scale, y_scale = (scale_of(drawn_values(one, compared)) for one in (key, "energy"))
    x = alt.X(f"{key}_mean:Q", title=other.axis, scale=x_scale, axis=number_axis())
    y = alt.Y("energy_mean:Q", title=energy.axis, scale=y_scale, axis=number_axis())
    base = alt.Chart(alt.NamedData("campaigns"))
    # What can be had: with this much of `other`, or better, the energy of the nearest campaign that has it.
    line = (
        base.transform_filter(f"datum.{front}")
        .mark_line(
            strokeDash=[5, 3], interpolate="step-before" if not other.less_is_better else "step-after", aria=False
        )
        .encode(x=x, y=y, order=alt.Order(f"{key}_mean:Q"), color=alt.value(themed(SOFT)))
    )
    # Where there are hundreds, their intervals would hide the points.
    faded = alt.when(f"datum.{front}").then(alt.value(1)).otherwise(alt.value(0.45))
    bars = alt.when(f"datum.{front}").then(alt.value(1)).otherwise(alt.value(0.45 if len(compared) < 60 else 0.1))
    across = (
        base.transform_filter(f"isValid(datum.{key}_lo)")
        .mark_rule(aria=False)
        .encode(x=alt.X(f"{key}_lo:Q", title=other.axis, scale=x_scale), x2=f"{key}_hi:Q", y=y)
    )
    upright = (
        base.transform_filter("isValid(datum.energy_lo)")
        .mark_rule(aria=False)
        .encode(x=x, y=alt.Y("energy_lo:Q", title=energy.axis, scale=y_scale), y2="energy_hi:Q")
    )
    points = (
        base.mark_point(filled=True, aria=False)
        .encode(
            x=x,
            y=y,
            shape=backend_shape(backends),
            size=alt.when(f"datum.{front}").then(alt.value(110)).otherwise(alt.value(40)),
            tooltip=settings_tooltip(
                [
                    ("energy_text", energy.axis),
                    ("energy_interval", "95 % interval"),
                    (f"{key}_text", other.axis),
                    (f"{key}_interval", "95 % interval "),
                ]
            ),
        )
        .add_params(zoom("x", "y"))
    )
    coloured = [
        one.encode(color=backend_colour(backends), opacity=opacity)
        for one, opacity in ((across, bars), (upright, bars), (points, faded))
    ]
    title = f"Energy against {other.name}"
    beginning = f"{'Left' if other.less_is_better else 'Right'} and low is better. "
    summaries = _front_sentences(other, data, beginning)
    return Chart(
        name=f"energy-{key}",
        section="fronts",
        title=title,
        summary=summaries[0],
        spec=finished(line + coloured[0] + coloured[1] + coloured[2], title, _HEIGHT),
        sources=(
            Source(
                "campaigns",
                "campaigns",
                "work",
                (
                    *SETTINGS,
                    front,
                    *(f"{one}_{part}" for one in ("energy", key) for part in ("mean", "lo", "hi", "text", "interval")),
                ),
                ("energy_mean", f"{key}_mean"),
            ),
        ),
        columns={
            "label": "configuration",
            "energy_text": f"{energy.axis}",
            f"{key}_text": other.axis,
            front: "on the front",
        },
        zoomed={"x": f"{key}_mean", "y": "energy_mean"},
        by="work",
        summaries=summaries,
    )


def comparable(row: Row, other: Metric) -> bool:
    """Whether a campaign can be on the front of energy and `other`: it has both, and says what work it did."""
    return row["work"] is not None and row["energy_mean"] is not None and row[f"{other.key}_mean"] is not None


def _front_sentences(other: Metric, data: ReportData, beginning: str) -> tuple[str, ...]:
    """How many are on the front, for each kind of work."""
    counts = [[0, 0] for _ in data.works]
    for row in data.campaigns:
        if comparable(row, other):
            counts[row["work"]][0] += 1
            counts[row["work"]][1] += row[f"{other.key}_front"]
    works = (
        f" This is one of {len(data.works)} kinds of work, each held against its own." if len(data.works) > 1 else ""
    )
    sentences = []
    for n, n_front in counts:
        are = "is" if n_front == 1 else "are"
        line = "; the dashed line joins them" if n_front > 1 else ""
        front = (
            f"{beginning}{n_front} of {n:,} configurations that did the same work {are} beaten by none in both{line}."
        )
        sentences.append((front if n else "No configuration of this work has both figures.") + works)
    return tuple(sentences)
