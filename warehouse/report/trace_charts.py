"""Charts of single runs: power and temperature of each GPU over time."""

from __future__ import annotations

from collections import Counter

import altair as alt

from warehouse.numerals import brief
from warehouse.report.axes import number_axis
from warehouse.report.charts import FOUR_DIGITS, Chart, Source, finished
from warehouse.report.data import ReportData
from warehouse.report.theme import INK, SOFT, line_of_series, themed, zoom

_HEIGHT = 260
_MOST_DOTS = 40
"""Samples of each GPU; of more, dots would fill the gaps that tell its line from the others."""
TRACES = {"power": ("Power", "power (W)", "W"), "temperature": ("Temperature", "temperature (°C)", "°C")}

_LEAST_SPAN = {"power": "max(5, 0.05 * datum.mean)", "temperature": "5"}
"""Of the axis (W, degrees C)."""


def trace_chart(kind: str, data: ReportData) -> Chart:
    """Every GPU of one run, with the part that the figures describe."""
    name, axis, unit = TRACES[kind]
    gpus = sorted({point["gpu"] for trace in data.traces for point in trace["points"]})
    x_title = "time after the window opened (s)"
    runs, samples = alt.Chart(alt.NamedData("runs")), alt.Chart(alt.NamedData("samples"))
    scale = alt.Scale(zero=False, nice=False, padding=6)
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
    # Without a dot to be seen there still is one to be pointed at.
    dots = alt.OverlayMarkDef(size=8, opacity=1 if len(gpus) == 1 or _most_samples(data) <= _MOST_DOTS else 0)
    line = (
        samples.mark_line(strokeWidth=1.4, interpolate="linear", point=dots, aria=False)
        .encode(
            x=alt.X("at:Q", title=x_title, scale=scale, axis=number_axis()),
            y=alt.Y(f"{kind}:Q", title=axis, scale=alt.Scale(zero=False, nice=True), axis=number_axis()),
            **line_of_series("gpu", gpus),
            tooltip=[
                alt.Tooltip("gpu:N", title="GPU"),
                alt.Tooltip("at:Q", title="time (s)", format=FOUR_DIGITS),
                alt.Tooltip(f"{kind}:Q", title=axis, format=FOUR_DIGITS),
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
        spec=finished(band + edges[0] + edges[1] + words + _room(kind, axis, samples) + line, title, _HEIGHT),
        sources=(
            Source("runs", "runs", "run", ("from", "to"), ("to",)),
            Source("samples", "samples", "run", ("gpu", "at", kind), (kind,)),
        ),
        columns={"gpu": "GPU", "at": "time (s)", kind: axis},
        zoomed={"x": "at"},
        by="trace",
        summaries=summaries,
    )


def _most_samples(data: ReportData) -> int:
    """That are drawn of one GPU."""
    return max(max(Counter(point["gpu"] for point in trace["points"]).values(), default=0) for trace in data.traces)


def _room(kind: str, axis: str, samples: alt.Chart) -> alt.Chart:
    """Nothing to be seen, but as high as the axis at least has to be: noise alone should not look like a signal.

    The values lie in its middle and off its ends, where the words are; it does not go below 0 if they do not.
    """
    found: alt.Chart = (
        samples.transform_aggregate(low=f"min({kind})", high=f"max({kind})", mean=f"mean({kind})")
        .transform_calculate(half=f"max(0.56 * (datum.high - datum.low), ({_LEAST_SPAN[kind]}) / 2)")
        .transform_calculate(bottom="max((datum.low + datum.high) / 2 - datum.half, min(datum.low, 0))")
        .transform_calculate(top="datum.bottom + 2 * datum.half")
        .mark_rule(opacity=0, aria=False)
        .encode(y=alt.Y("bottom:Q", title=axis), y2="top:Q")
    )
    return found


def _trace_sentence(kind: str, unit: str, data: ReportData, at: int) -> str:
    trace = data.traces[at]
    values = [
        point[kind]
        for point in trace["points"]
        if point[kind] is not None and trace["from"] <= point["at"] <= trace["to"]
    ]
    low, high = (brief(min(values)), brief(max(values))) if values else ("", "")
    span = f"{low} {unit} throughout" if low == high else f"{low} to {high} {unit}"
    n_drawn = len({point["gpu"] for point in trace["points"]})
    some = n_drawn < trace["n_gpus"]
    drawn = f" {n_drawn} of {trace['n_gpus']} GPUs are drawn." if some else ""
    seen = f" Inside the window{', of these,' if some else ''} {span}." if values else ""
    several = f", one of {len(data.traces)} runs, of configurations that take little" if len(data.traces) > 1 else ""
    return f"{trace['label']}, {trace['run']}: the cycle in the middle, by energy{several}.{drawn}{seen}"
