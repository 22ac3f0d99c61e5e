"""Charts of latencies: quantiles over all requests of a configuration, and over all gaps between its tokens."""

from __future__ import annotations

import altair as alt

from warehouse.numerals import brief
from warehouse.report.axes import axis_title, number_axis, scale_of
from warehouse.report.charts import (
    FOUR_DIGITS,
    SETTINGS,
    WINDOW,
    Chart,
    Source,
    capital,
    finished,
    lowered,
    named_lines,
    ranked,
    settings_tooltip,
)
from warehouse.report.data import ReportData
from warehouse.report.runs import QUANTILES
from warehouse.report.theme import backend_colour, backend_shape, ordered_backends, zoom

_LINE = 36
LATENCY_NAMES = {
    "ttft": "TTFT, time to first token",
    "tpot": "TPOT, time per output token after the first",
    "itl": "ITL, gap between tokens",
    "e2e": "end-to-end latency, arrival to last token",
}

_OF = {"itl": ", each between two deliveries of a request's tokens", "tpot": " of more than one token"}
"""What they are that quantiles are over."""


def latency_title(kind: str) -> str:
    return f"{capital(LATENCY_NAMES[kind])}: how {_counted(kind)} are spread"


def _counted(kind: str) -> str:
    """What the quantiles are over."""
    return "gaps" if kind == "itl" else "requests"


def _count(kind: str) -> str:
    """Field with how many the quantiles are over."""
    return "n_gaps" if kind == "itl" else f"n_{kind}_requests"


def latency_chart(kind: str, data: ReportData) -> Chart:
    """Quantiles over all requests of each configuration, or over the gaps between its tokens."""
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    counts = {_count(kind): _counted(kind)}
    if kind == "itl" and _some_are_left_out(data):
        counts["n_gaps_read"] = "gaps read"
    fields = {quantile: f"{kind}_{quantile}" for quantile in QUANTILES}
    scale = scale_of([row[field] for row in data.campaigns for field in fields.values()])
    axis = axis_title(f"{LATENCY_NAMES[kind]} (ms)", scale)
    base, y, colour = alt.Chart(alt.NamedData("campaigns")), ranked(), backend_colour(backends)

    def x(quantile: str) -> alt.X:
        return alt.X(f"{fields[quantile]}:Q", title=axis, scale=scale, axis=number_axis(scale))

    def between(low: str, high: str, width: float, opacity: float = 1) -> alt.Chart:
        line: alt.Chart = (
            base.transform_filter(f"isValid(datum.{fields[low]}) && isValid(datum.{fields[high]})")
            .mark_rule(strokeWidth=width, opacity=opacity, yOffset=lowered(8, _LINE), aria=False)
            .encode(x=x(low), x2=fields[high], y=y, color=colour)
        )
        return line

    far = (
        base.transform_filter(f"isValid(datum.{fields['p99']})")
        .mark_point(shape="stroke", angle=90, yOffset=lowered(8, _LINE), size=60, strokeWidth=1.5, aria=False)
        .encode(x=x("p99"), y=y, color=colour)
    )
    # A tooltip says null of what is none.
    texts = {
        f"{field}_text": f"isValid(datum.{field}) ? format(datum.{field}, '{FOUR_DIGITS}') : '-'"
        for field in fields.values()
    }
    middle = (
        base.transform_calculate(**texts)
        .mark_point(filled=True, size=70, opacity=1, yOffset=lowered(8, _LINE), aria=False)
        .encode(
            x=x("p50"),
            y=y,
            color=colour,
            shape=backend_shape(backends),
            tooltip=settings_tooltip(
                [*counts.items(), *((f"{field}_text", f"{one} (ms)") for one, field in fields.items())]
            ),
        )
        .add_params(zoom("x"))
    )
    layers = named_lines(9, step=_LINE) + between("p5", "p95", 1.5) + between("p25", "p75", 8, 0.45) + far + middle
    title = latency_title(kind)
    return Chart(
        name=f"requests-{kind}",
        section="latencies",
        title=title,
        summary=_latency_sentence(kind, data),
        spec=finished(layers, title, WINDOW * _LINE),
        sources=(Source("campaigns", "campaigns", "window", (*SETTINGS, *counts, *fields.values()), (fields["p50"],)),),
        columns={"label": "configuration"} | counts | {field: f"{quantile} (ms)" for quantile, field in fields.items()},
        zoomed={"x": fields["p50"]},
        step=_LINE,
        label="label",
    )


def _latency_sentence(kind: str, data: ReportData) -> str:
    rows = [row for row in data.campaigns if row[f"{kind}_p50"] is not None]
    n = sum(row[_count(kind)] for row in rows)
    least, most = min(row[f"{kind}_p50"] for row in rows), max(row[f"{kind}_p50"] for row in rows)
    medians = f"median {brief(least)} ms" if least == most else f"medians from {brief(least)} to {brief(most)} ms"
    of = _OF.get(kind, "")
    return (
        f"{n:,} {_counted(kind)}{of}, {medians}. The mark is the median, the thick line holds the middle half, the "
        f"thin one 90 % (from 40 {_counted(kind)} on), the stroke is the 99th percentile (from 200 on)."
        + (_left_out(data) if kind == "itl" else "")
    )


def _some_are_left_out(data: ReportData) -> bool:
    return any(row["n_gaps_read"] < row["n_gaps"] for row in data.campaigns)


def _left_out(data: ReportData) -> str:
    """Of whose requests only some are read."""
    if not _some_are_left_out(data):
        return ""
    n_read = sum(row["n_gaps_read"] for row in data.campaigns)
    fewest = min(row["n_gaps_read"] for row in data.campaigns if row["n_gaps_read"] < row["n_gaps"])
    return (
        f" They are too many to read: quantiles are over {n_read:,} of them, at least {fewest:,} of a configuration "
        "that has more, from requests spread evenly over each cycle, always the same ones."
    )
