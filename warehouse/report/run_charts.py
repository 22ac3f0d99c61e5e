"""Charts of single runs: power and temperature, latencies of requests, and what wanders with time or with the GPU."""

from __future__ import annotations

from typing import Any

import altair as alt

from warehouse.numerals import brief, rough
from warehouse.report.charts import (
    SETTINGS,
    WINDOW,
    Chart,
    Source,
    capital,
    cycles_in_words,
    finished,
    named_lines,
    number_axis,
    percent_axis,
    ranked,
    scale_of,
    settings_tooltip,
)
from warehouse.report.data import METRICS, Metric, ReportData, Row
from warehouse.report.runs import QUANTILES
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

_HEIGHT = 260
_LINE = 36
_LINE_OF_A_GPU = 48
_DATES: Any = {
    **dict.fromkeys(("year", "quarter", "month", "week", "day", "date"), "%d %b"),
    **dict.fromkeys(("hours", "minutes"), "%d %b %H:%M"),
    "seconds": "%H:%M:%S",
}
LATENCY_NAMES = {
    "ttft": "time to first token",
    "tpot": "time per output token after the first",
    "e2e": "arrival to last token",
}
TRACES = {"power": ("Power", "power (W)", "W"), "temperature": ("Temperature", "temperature (°C)", "°C")}


def trace_chart(kind: str, data: ReportData) -> Chart:
    """Every GPU of one run, with the part that the figures describe."""
    name, axis, unit = TRACES[kind]
    gpus = sorted({point["gpu"] for trace in data.traces for point in trace["points"]})
    x_title = "time after the window opened (s)"
    runs, samples = alt.Chart(alt.NamedData("runs")), alt.Chart(alt.NamedData("samples"))
    scale = alt.Scale(zero=False, nice=False, padding=6)
    # Between two bounds that are the same there is nothing to see.
    steady = any(_spread(kind, trace) == 0 for trace in data.traces)
    band = runs.mark_rect(opacity=0.09, aria=False).encode(
        x=alt.X("from:Q", title=x_title, scale=scale), x2="to:Q", color=alt.value(themed(INK))
    )
    edges = [
        runs.mark_rule(strokeDash=[4, 3], strokeWidth=1.5, aria=False).encode(
            x=alt.X(f"{edge}:Q", title=x_title, scale=scale), color=alt.value(themed(SOFT))
        )
        for edge in ("from", "to")
    ]
    words = runs.mark_text(align="left", baseline="top", dx=5, dy=4, fontSize=12, aria=False).encode(
        x=alt.X("from:Q", title=x_title, scale=scale),
        y=alt.value(0),
        text=alt.value("measured window"),
        color=alt.value(themed(SOFT)),
    )
    line = (
        samples.mark_line(strokeWidth=1.4, interpolate="linear", point=alt.OverlayMarkDef(size=8), aria=False)
        .encode(
            x=alt.X("at:Q", title=x_title, scale=scale, axis=number_axis()),
            y=alt.Y(f"{kind}:Q", title=axis, scale=alt.Scale(zero=steady, nice=True), axis=number_axis()),
            color=series_colour("gpu", gpus),
            tooltip=[
                alt.Tooltip("gpu:N", title="GPU"),
                alt.Tooltip("at:Q", title="time (s)", format=".4~g"),
                alt.Tooltip(f"{kind}:Q", title=axis, format=".4~g"),
            ],
        )
        .add_params(zoom("x"))
    )
    title = f"{name} over a run"
    summaries = tuple(_trace_sentence(kind, unit, data, at) for at in range(len(data.traces)))
    return Chart(
        name=kind,
        section="traces",
        title=title,
        summary=summaries[0],
        spec=finished(band + edges[0] + edges[1] + words + line, title, _HEIGHT),
        sources=(
            Source("runs", "runs", "run", ("from", "to"), ("to",)),
            Source("samples", "samples", "run", ("gpu", "at", kind), (kind,)),
        ),
        columns={"gpu": "GPU", "at": "time (s)", kind: axis},
        zoomed={"x": "at"},
        by="trace",
        summaries=summaries,
    )


def latency_chart(kind: str, data: ReportData) -> Chart:
    """Quantiles over all requests of each configuration."""
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    name = LATENCY_NAMES[kind]
    axis = f"{name} (ms)"
    fields = {quantile: f"{kind}_{quantile}" for quantile in QUANTILES}
    scale = scale_of([row[field] for row in data.campaigns for field in fields.values()])
    base, y, colour = alt.Chart(alt.NamedData("campaigns")), ranked(), backend_colour(backends)

    def x(quantile: str) -> alt.X:
        return alt.X(f"{fields[quantile]}:Q", title=axis, scale=scale, axis=number_axis())

    def between(low: str, high: str, width: float, opacity: float = 1) -> alt.Chart:
        line: alt.Chart = (
            base.transform_filter(f"isValid(datum.{fields[low]}) && isValid(datum.{fields[high]})")
            .mark_rule(strokeWidth=width, opacity=opacity, yOffset=8, aria=False)
            .encode(x=x(low), x2=fields[high], y=y, color=colour)
        )
        return line

    far = (
        base.transform_filter(f"isValid(datum.{fields['p99']})")
        .mark_point(shape="stroke", angle=90, yOffset=8, size=60, strokeWidth=1.5, aria=False)
        .encode(x=x("p99"), y=y, color=colour)
    )
    middle = (
        base.mark_point(filled=True, size=70, opacity=1, yOffset=8, aria=False)
        .encode(
            x=x("p50"),
            y=y,
            color=colour,
            shape=backend_shape(backends),
            tooltip=settings_tooltip(
                [("n_requests", "requests"), *((field, f"{one} (ms)") for one, field in fields.items())]
            ),
        )
        .add_params(zoom("x"))
    )
    layers = named_lines(9) + between("p5", "p95", 1.5) + between("p25", "p75", 8, 0.45) + far + middle
    title = f"{capital(name)}: how requests are spread"
    return Chart(
        name=f"requests-{kind}",
        section="latencies",
        title=title,
        summary=_latency_sentence(kind, data),
        spec=finished(layers, title, WINDOW * _LINE),
        sources=(
            Source("campaigns", "campaigns", "window", (*SETTINGS, "n_requests", *fields.values()), (fields["p50"],)),
        ),
        columns={"label": "configuration", "n_requests": "requests"}
        | {field: f"{quantile} (ms)" for quantile, field in fields.items()},
        zoomed={"x": fields["p50"]},
        step=_LINE,
    )


def drift_chart(over: str, metric: Metric, data: ReportData) -> Chart:
    """Each cycle against the mean of its campaign.

    Args:
        over: cycle or time.
    """
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    key = metric.key
    axis = "away from the mean of its campaign"
    base = alt.Chart(alt.NamedData("cycles")).transform_calculate(
        away=f"datum.{key} / datum.{key}_mean - 1",
        # Side by side, always at the same place.
        beside="datum.cycle + ((datum.c * 7919) % 101 - 50) / 140",
        when="datum.time * 1000",
    )
    y = alt.Y("away:Q", title=axis, axis=percent_axis())
    if over == "cycle":
        x = alt.X(
            "beside:Q",
            title="cycle",
            scale=alt.Scale(zero=False, nice=False, padding=30),
            axis=alt.Axis(tickMinStep=1, format="d", grid=False),
        )
    else:
        x = alt.X(
            "when:T",
            title="began at (UTC)",
            scale=alt.Scale(type="utc", nice=False, padding=8),
            axis=alt.Axis(labelOverlap="greedy", labelSeparation=10, format=_DATES),
        )
    points = (
        base.mark_point(filled=True, size=24, opacity=_opacity(len(data.cycles)), aria=False)
        .encode(
            x=x,
            y=y,
            color=backend_colour(backends),
            shape=backend_shape(backends),
            tooltip=[
                alt.Tooltip("label:N", title="configuration"),
                alt.Tooltip("cycle:Q"),
                alt.Tooltip("away:Q", title="away from the mean", format="+.2%"),
                alt.Tooltip(f"{key}:Q", title=metric.axis, format=".4~g"),
                alt.Tooltip("run:N", title="experiment_id"),
            ],
        )
        .add_params(zoom("x", "y"))
    )
    zero = (
        alt.Chart(alt.NamedData("cycles"))
        .mark_rule(strokeWidth=1, aria=False)
        .encode(y=alt.datum(0, title=axis), color=alt.value(themed(SOFT)))
    )
    layers = zero + points
    if over == "cycle":
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
        layers = layers + middle
    title = f"{capital(metric.name)} over {'cycles' if over == 'cycle' else 'time'}"
    return Chart(
        name=f"drift-{over}",
        section="drift",
        title=title,
        summary=_drift_sentence(data)
        if over == "cycle"
        else "The same cycles at the time they began: a machine that warms up, or a "
        "neighbour that comes, shows as a slope or a step that all configurations share.",
        spec=finished(layers, title, 300),
        sources=(
            Source(
                "cycles",
                "cycles",
                "kept",
                ("c", "label", "backend", "cycle", "time", key, f"{key}_mean", "run"),
                (key,),
            ),
        ),
        columns={"label": "configuration", "cycle": "cycle", key: metric.axis, f"{key}_mean": f"mean, {metric.axis}"},
        zoomed={"x": "beside" if over == "cycle" else "when", "y": "away"},
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
            x=alt.X("ratio:Q", title=axis, axis=percent_axis(), scale=alt.Scale(zero=True)),
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


def _spread(kind: str, trace: Row) -> float:
    values: list[float] = [point[kind] for point in trace["points"] if point[kind] is not None]
    return float(max(values) - min(values)) if values else 1.0


def _trace_sentence(kind: str, unit: str, data: ReportData, at: int) -> str:
    trace = data.traces[at]
    values = [
        point[kind]
        for point in trace["points"]
        if point[kind] is not None and trace["from"] <= point["at"] <= trace["to"]
    ]
    low, high = (brief(min(values)), brief(max(values))) if values else ("", "")
    span = f"{low} {unit} throughout" if low == high else f"{low} to {high} {unit}"
    seen = f" Inside the window {span}." if values else ""
    if len(data.traces) == 1:
        return f"{trace['label']}: the cycle in the middle, by energy.{seen}"
    return (
        f"One of {len(data.traces)} runs: each is the cycle in the middle, by energy, of a configuration that takes "
        f"little.{seen}"
    )


def _latency_sentence(kind: str, data: ReportData) -> str:
    rows = [row for row in data.campaigns if row[f"{kind}_p50"] is not None]
    n = sum(row["n_requests"] for row in rows)
    least, most = min(row[f"{kind}_p50"] for row in rows), max(row[f"{kind}_p50"] for row in rows)
    medians = f"median {brief(least)} ms" if least == most else f"medians from {brief(least)} to {brief(most)} ms"
    return (
        f"{n:,} requests, {medians}. The mark is the median, the thick line holds the middle half, the thin one "
        "90 % (from 40 requests on), the stroke is the 99th percentile (from 200 on)."
    )


def _drift_sentence(data: ReportData) -> str:
    n, chance = data.troubles.drift.count, data.troubles.drift_by_chance
    if not n:
        return "No campaign with 5 cycles or more wanders steadily (correlation with time 0.9 or more, either way)."
    worst = data.troubles.drift.rows[0]
    return (
        f"{n:,} {'figure of a campaign wanders' if n == 1 else 'figures of campaigns wander'} steadily with time, "
        f"where chance alone would make about {rough(chance)} look so; most "
        f"{100 * worst['relative_change']:+.1f} % from first to last of {cycles_in_words(worst['n_samples'])}."
    )


def _gpu_sentence(data: ReportData) -> str:
    worst = max(data.gpus, key=lambda row: abs(row["ratio"]))
    n = len({row["uuid"] for row in data.gpus})
    return (
        f"{n} GPUs, those that differ most first. Most: {worst['uuid']}, {100 * worst['ratio']:+.1f} % in "
        f"{worst['metric']}. Lines are one standard deviation of its cycles either way."
    )
