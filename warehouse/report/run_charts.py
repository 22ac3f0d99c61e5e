"""Charts of what wanders: cycles with their number or with time, and GPUs against their fellows."""

from __future__ import annotations

from typing import Any

import altair as alt

from warehouse.numerals import counted, rough
from warehouse.report.axes import percent_axis
from warehouse.report.charts import WINDOW, Chart, Source, capital, finished
from warehouse.report.data import METRICS, Metric, ReportData
from warehouse.report.theme import (
    INK,
    SHAPES,
    SOFT,
    backend_colour,
    backend_shape,
    legend,
    ordered_backends,
    series_colour,
    themed,
    zoom,
)

_LINE_OF_A_GPU = 48
_HALF_A_DATE = 45
"""Nearer to the ends of its axis (px) a date would stand out of the chart."""
_DATES: Any = {
    **dict.fromkeys(("year", "quarter", "month", "week", "day", "date"), "%d %b"),
    **dict.fromkeys(("hours", "minutes"), "%d %b %H:%M"),
    "seconds": "%H:%M:%S",
}


def drift_chart(over: str, metric: Metric, data: ReportData) -> Chart:
    """Each cycle against the mean of its campaign.

    Args:
        over: cycle or time.
    """
    key = metric.key
    title = f"{capital(metric.name)} over {'cycles' if over == 'cycle' else 'time'}"
    of_time = (
        "The same cycles at the time they began: a machine that warms up, or a "
        "neighbour that comes, shows as a slope or a step that all configurations share."
    )
    fields = ("c", "label", "backend", "cycle", "time", key, f"{key}_mean", "run")
    return Chart(
        name=f"drift-{over}",
        section="drift",
        title=title,
        summary=f"{_drift_sentence(data)} A bar is the mean over all that is drawn of a cycle."
        if over == "cycle"
        else of_time,
        spec=finished(_drift_marks(over, metric, data), title, 300),
        sources=(Source("cycles", "cycles", "kept", fields, (key,)),),
        columns={
            "label": "configuration",
            "cycle": "cycle",
            key: metric.axis,
            f"{key}_mean": f"mean, {metric.axis}",
            "run": "experiment_id",
        },
        zoomed={"x": "beside" if over == "cycle" else "when", "y": "away"},
    )


def _drift_marks(over: str, metric: Metric, data: ReportData) -> alt.LayerChart:
    """Every cycle as a point; over cycles also what all of them have in common."""
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    axis = "away from the mean of its campaign"
    base = alt.Chart(alt.NamedData("cycles")).transform_calculate(
        away=f"datum.{metric.key} / datum.{metric.key}_mean - 1",
        # Side by side, always at the same place.
        beside="datum.cycle + ((datum.c * 7919) % 101 - 50) / 140",
        when="datum.time * 1000",
    )
    zero = (
        alt.Chart(alt.NamedData("cycles"))
        .mark_rule(strokeWidth=1, aria=False)
        .encode(y=alt.datum(0, title=axis), color=alt.value(themed(SOFT)))
    )
    points = (
        base.mark_point(filled=True, size=24, opacity=_opacity(len(data.cycles)), aria=False)
        .encode(
            x=_over_cycles() if over == "cycle" else _over_time(),
            y=alt.Y("away:Q", title=axis, scale=alt.Scale(nice=False, padding=8), axis=percent_axis()),
            color=backend_colour(backends),
            shape=backend_shape(backends),
            tooltip=[
                alt.Tooltip("label:N", title="configuration"),
                alt.Tooltip("cycle:Q"),
                alt.Tooltip("away:Q", title="away from the mean", format="+.2%"),
                alt.Tooltip(f"{metric.key}:Q", title=metric.axis, format=".4~g"),
                alt.Tooltip("run:N", title="experiment_id"),
            ],
        )
        .add_params(zoom("x", "y"))
    )
    marks: alt.LayerChart = zero + points
    if over != "cycle":
        return marks
    middle = (
        base.transform_aggregate(away="mean(away)", groupby=["cycle"])
        .mark_tick(orient="horizontal", thickness=3, width=34, aria=False)
        .encode(
            x=alt.X("cycle:Q"),
            y=alt.Y("away:Q", title=axis),
            color=alt.value(themed(INK)),
            tooltip=[alt.Tooltip("cycle:Q"), alt.Tooltip("away:Q", title="mean of all", format="+.3%")],
        )
    )
    marks += middle
    return marks


def _over_cycles() -> alt.X:
    return alt.X(
        "beside:Q",
        title="cycle",
        scale=alt.Scale(zero=False, nice=False, padding=30),
        axis=alt.Axis(tickMinStep=1, format="d", grid=False),
    )


def _over_time() -> alt.X:
    return alt.X(
        "when:T",
        title="began at (UTC)",
        scale=alt.Scale(type="utc", nice=False, padding=8),
        axis=alt.Axis(labelOverlap="greedy", labelSeparation=10, labelFlush=_HALF_A_DATE, format=_DATES),
    )


def gpu_chart(data: ReportData) -> Chart:
    """How each GPU differs from its fellows; as far as one standard deviation of its cycles."""
    metrics = list(dict.fromkeys(row["metric"] for row in data.gpus))
    axis = "away from its fellows"
    base = alt.Chart(alt.NamedData("gpus"))
    # Sorted by the number that each name begins with.
    y = alt.Y(
        "name:N", title=None, axis=alt.Axis(labelExpr="slice(datum.label, 3)", ticks=False, domain=False, grid=True)
    )
    colour = series_colour("metric", metrics)
    shape = alt.Shape(
        "metric:N",
        title=None,
        legend=legend(metrics),
        scale=alt.Scale(domain=metrics, range=list(SHAPES[: len(metrics)])),
    )
    # On lines of their own, one for each metric.
    offset = alt.YOffset("metric:N", scale=alt.Scale(domain=metrics))
    spread = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(aria=False)
        .encode(x=alt.X("low:Q", title=axis), x2="high:Q", y=y, yOffset=offset, color=colour)
    )
    points = (
        base.mark_point(filled=True, size=60, opacity=1, aria=False)
        .encode(
            x=alt.X("ratio:Q", title=axis, axis=percent_axis(), scale=alt.Scale(zero=True, nice=False, padding=8)),
            y=y,
            yOffset=offset,
            color=colour,
            shape=shape,
            tooltip=[
                alt.Tooltip("uuid:N", title="GPU"),
                alt.Tooltip("gpu:N", title="model"),
                alt.Tooltip("metric:N"),
                alt.Tooltip("ratio:Q", title="away from its fellows", format="+.2%"),
                alt.Tooltip("n:Q", title="cycles"),
            ],
        )
        .add_params(zoom("x"))
    )
    title = "GPUs against their fellows"
    return Chart(
        name="drift-gpu",
        section="drift",
        title=title,
        summary=_gpu_sentence(data),
        spec=finished(spread + points, title, WINDOW * _LINE_OF_A_GPU),
        sources=(
            Source("gpus", "gpus", "gpu", ("name", "uuid", "gpu", "metric", "n", "ratio", "low", "high"), ("ratio",)),
        ),
        columns={"uuid": "GPU", "gpu": "model", "metric": "metric", "n": "cycles", "ratio": "GPU / mean - 1"},
        zoomed={"x": "ratio"},
        step=_LINE_OF_A_GPU,
        lines="name",
    )


def _opacity(n: int) -> float:
    """Of dots, so that thousands do not become one."""
    return float(min(0.75, max(0.12, 0.75 * (500 / max(n, 1)) ** 0.5)))


def drift_metric(data: ReportData) -> Metric | None:
    """The first that campaigns with several cycles have."""
    return next((one for one in METRICS if any(row[f"{one.key}_n"] > 1 for row in data.campaigns)), None)


def _drift_sentence(data: ReportData) -> str:
    n, chance = data.troubles.drift.count, data.troubles.drift_by_chance
    if not n:
        return "No campaign with 5 cycles or more wanders steadily (correlation with time 0.9 or more, either way)."
    worst = data.troubles.drift.rows[0]
    # Not known of any if the worst has none: from 0 there is no change in percent.
    most = (
        f"; most {100 * worst['relative_change']:+.1f} % from first to last of {counted(worst['n_samples'], 'cycle')}"
        if worst["relative_change"] is not None
        else ""
    )
    return (
        f"{n:,} {'figure of a campaign wanders' if n == 1 else 'figures of campaigns wander'} steadily with time, "
        f"where chance alone would make about {rough(chance)} look so{most}."
    )


def _gpu_sentence(data: ReportData) -> str:
    worst = max(data.gpus, key=lambda row: abs(row["ratio"]))
    n = len({row["uuid"] for row in data.gpus})
    which = (
        f"{n} GPUs, those that differ most first"
        if n == data.n_gpus
        else (f"{n} of {data.n_gpus:,} GPUs, those that differ most")
    )
    return (
        f"{which}. Most: {worst['uuid']}, {100 * worst['ratio']:+.1f} % in "
        f"{worst['metric']}. Lines are one standard deviation of its cycles either way."
    )
