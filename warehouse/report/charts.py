"""Every chart of a report as a Vega-Lite specification without data, and the rows that each draws.

A page hands rows to its charts as its reader filters them; `static_spec` has the rows of an unfiltered page in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from warehouse.numerals import counted, rough
from warehouse.report.axes import axis_title, intervals, is_log, number_axis, scale_of
from warehouse.report.data import METRICS, Metric, ReportData, Row
from warehouse.report.labels import LINE_HEIGHT, lines_of
from warehouse.report.theme import (
    CARD,
    INK,
    backend_colour,
    backend_shape,
    configured,
    ordered_backends,
    themed,
    zoom,
)

WINDOW = 16
"""Configurations that are drawn at once where each has a line of its own."""
FOUR_DIGITS = ",.4~r"
"""Format of a figure on which a pointer is; never with an exponent."""
_STEP = 40
_TOLD_AS_TIMES = 1.1
"""Ratio (1) from which on it is told; below it two digits of it would be near 1.0."""
SETTINGS = ("label", "study", "experiment", "model", "backend", "hardware", "batch", "dtype")


@dataclass(frozen=True)
class Source:
    """A data set of a chart.

    Attributes:
        name: as the specification calls it.
        table: campaigns, cycles, samples, runs, gpus or ratios.
        scope: which of its rows: window (campaigns drawn by rank), kept (all that the filters leave), work (of those
            the ones that did the chosen work), run (of the chosen trace), gpu (of the GPUs that the filters leave),
            pair (of the chosen pair of campaigns), ratio (of the chosen metric of a comparison).
        fields: of the row, or else of its campaign.
        needs: rows in which one of these is not known are left out.
    """

    name: str
    table: str
    scope: str
    fields: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: also the name of its file.
        spec: Vega-Lite, without data.
        zoomed: by axis the field that its zoom is called after.
        step: height of a line of its own for each configuration or GPU (px); None if it has none.
        columns: of the table beside it, by field.
        cycles: of a second table, with the single cycles that are drawn; empty if there is none.
        lines: field that lines of their own go by.
        label: field of what stands over each line, in as many lines of text as the chart's width makes it; None if
            nothing does.
        by: what is chosen of it, such as the work; its place is also that of the sentence in `summaries`.
    """

    name: str
    section: str
    title: str
    summary: str
    spec: dict[str, Any]
    sources: tuple[Source, ...]
    columns: Mapping[str, str]
    zoomed: Mapping[str, str]
    step: int | None = None
    lines: str = "rank"
    label: str | None = None
    by: str | None = None
    summaries: tuple[str, ...] = ()
    cycles: Mapping[str, str] = field(default_factory=dict)


def metric_chart(metric: Metric, data: ReportData) -> Chart:
    """Mean and stored interval of each configuration, and every cycle as a dot below."""
    key = metric.key
    title = f"{capital(metric.name)}, by configuration"
    bound = {"energy_bound": "meter's bound"} if key == "energy" else {}
    fields = (*SETTINGS, *(f"{key}_{part}" for part in ("mean", "lo", "hi", "n", "text", "interval")), *bound)
    return Chart(
        name=key,
        section="metrics",
        title=title,
        summary=metric_sentence(metric, data),
        spec=finished(_metric_marks(metric, data), title, WINDOW * _STEP),
        sources=(
            Source("campaigns", "campaigns", "window", fields, (f"{key}_mean",)),
            Source("cycles", "cycles", "window", ("label", "backend", "cycle", key, "invalid", "run"), (key,)),
        ),
        columns={
            "label": "configuration",
            f"{key}_text": f"mean ({metric.unit})",
            f"{key}_interval": f"95 % interval ({metric.unit})",
            f"{key}_n": "cycles",
        }
        | bound,
        zoomed={"x": key},
        step=_STEP,
        label="label",
        cycles={"label": "configuration", "cycle": "cycle", key: metric.axis}
        | ({"invalid": "invalid"} if data.include_all else {})
        | {"run": "experiment_id"},
    )


def _metric_marks(metric: Metric, data: ReportData) -> alt.LayerChart:
    """Names, cycles, intervals and means; invalid cycles are hollow."""
    key = metric.key
    backends = ordered_backends(row["backend"] for row in data.campaigns)
    colour = backend_colour(backends)
    scale = scale_of([row[f"{key}_mean"] for row in data.campaigns] + [row[key] for row in data.cycles])

    def along(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=axis_title(metric.axis, scale), scale=scale, axis=number_axis(scale))

    rows = ranked()
    means = alt.Chart(alt.NamedData("campaigns"))
    dots = (
        alt.Chart(alt.NamedData("cycles"))
        .mark_point(filled=True, size=22, opacity=0.75, yOffset=lowered(13, _STEP), aria=False)
        .encode(
            x=along(key),
            y=rows,
            color=colour,
            fillOpacity=alt.when("datum.invalid == 1").then(alt.value(0)).otherwise(alt.value(0.75)),
            tooltip=[
                alt.Tooltip("label:N", title="configuration"),
                alt.Tooltip("cycle:Q"),
                alt.Tooltip(f"{key}:Q", title=metric.axis, format=FOUR_DIGITS),
                alt.Tooltip("run:N", title="experiment_id"),
            ],
        )
        .add_params(zoom("x"))
    )
    bars = intervals(
        means,
        key,
        along,
        wide=is_log(scale),
        channels={"y": rows, "color": colour},
        strokeWidth=2.5,
        yOffset=lowered(4, _STEP),
    )
    points = means.mark_point(filled=True, size=75, opacity=1, yOffset=lowered(4, _STEP), aria=False).encode(
        x=along(f"{key}_mean"),
        y=rows,
        color=colour,
        shape=backend_shape(backends),
        tooltip=settings_tooltip(
            [(f"{key}_text", metric.axis), (f"{key}_interval", "95 % interval"), (f"{key}_n", "cycles")]
        ),
    )
    marks: alt.LayerChart = named_lines(12, step=_STEP) + dots + bars + points
    return marks


def metric_sentence(metric: Metric, data: ReportData) -> str:
    """The least and the most, in words."""
    key = metric.key
    rows = [row for row in data.campaigns if row[f"{key}_mean"] is not None]
    least, most = min(rows, key=lambda row: row[f"{key}_mean"]), max(rows, key=lambda row: row[f"{key}_mean"])
    if len(rows) == 1:
        interval = f", 95 % interval {least[f'{key}_interval']}" if least[f"{key}_interval"] else ""
        none = "" if interval else ": no interval"
        return f"{least[f'{key}_text']} {metric.unit}{interval}, over {counted(least[f'{key}_n'], 'cycle')}{none}."
    note = " One cycle each, so there are no intervals." if all(row[f"{key}_n"] < 2 for row in rows) else ""
    if least[f"{key}_text"] == most[f"{key}_text"]:
        return f"All {len(rows):,} configurations are at {least[f'{key}_text']} {metric.unit}.{note}"
    more = _how_much_more(least[f"{key}_mean"], most[f"{key}_mean"])
    return (
        f"Of {len(rows):,} configurations the least is {least[f'{key}_text']} {metric.unit} ({least['label']}), "
        f"the most {most[f'{key}_text']} {metric.unit} ({most['label']}){more}.{note}"
    )


def _how_much_more(least: float, most: float) -> str:
    if not least:
        return ""
    ratio = most / least
    return f", {rough(ratio)} times as much" if ratio >= _TOLD_AS_TIMES else f", {rough(100 * (ratio - 1))} % more"


def capital(text: str) -> str:
    """With its first letter as at the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def ranked() -> alt.Y:
    """A line for each rank, without an axis: see `named_lines`."""
    return alt.Y("rank:O", axis=None)


def named_lines(
    above: int, data: str = "campaigns", rank: str = "rank", *, step: int, halo: bool = False
) -> alt.LayerChart:
    """The label of each rank over its line, as wide as the chart: beside it, a narrow page would cut it short.

    Its lines of text are the field ``words``, which depends on the chart's width: see `lines_of`.

    Args:
        above: how far above the middle of the line (px).
        step: as that of the chart.
        halo: set it off from what it stands on.
    """
    base = alt.Chart(alt.NamedData(data))

    def text(colour: tuple[str, str], **stroke: Any) -> alt.Chart:
        words: alt.Chart = base.mark_text(
            align="left",
            baseline="bottom",
            yOffset=lowered(7 - above, step),
            dy=alt.ExprRef(f"-{LINE_HEIGHT} * (length(datum.words) - 1)"),
            lineHeight=LINE_HEIGHT,
            fontSize=12,
            clip=False,
            limit=alt.ExprRef("width"),
            aria=False,
            **stroke,
        ).encode(x=alt.value(0), y=alt.Y(f"{rank}:O", axis=None), text="words:N", color=alt.value(themed(colour)))
        return words

    under = [text(CARD, stroke=themed(CARD), strokeWidth=4)] if halo else []
    found: alt.LayerChart = alt.LayerChart(layer=[*under, text(INK)])
    return found


def lowered(offset: int, step: int) -> alt.ExprRef:
    """`offset` (px) from the middle of a line, lower by half of what the line is higher than `step`: that is for more
    lines of text above."""
    return alt.ExprRef(f"{offset} + max(0, height / length(domain('y')) - {step}) / 2")


def height_of(chart: Chart, datasets: Iterable[Sequence[Row]], width: float) -> int:
    """As high as there are lines, each with room for the longest label at this width; views.js does the same.

    Args:
        width: of all of the chart (px).
    """
    rows = [row for rows in datasets for row in rows if chart.lines in row]
    labels = {row[chart.label] for row in rows if chart.label in row}
    most = max((len(lines_of(label, width)) for label in labels), default=1)
    return ((chart.step or 0) + LINE_HEIGHT * (most - 1)) * max(1, len({row[chart.lines] for row in rows}))


def settings_tooltip(figures: Sequence[tuple[str, str]]) -> list[alt.Tooltip]:
    names = {"label": "configuration", "hardware": "hardware", "batch": "batch size"}
    settings = [alt.Tooltip(f"{name}:N", title=names.get(name, name)) for name in SETTINGS]
    return settings + [alt.Tooltip(f"{name}:N", title=title) for name, title in figures]


def finished(chart: alt.LayerChart | alt.Chart, title: str, height: int) -> dict[str, Any]:
    """The specification, with the parameter that a page sets."""
    spec: dict[str, Any] = configured(chart, title, height).to_dict(validate=False)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    # By hand: Altair would put it on each layer.
    spec["params"] = [{"name": "dark", "value": False}, *spec.get("params", [])]
    return spec


def rank_metric(campaigns: Sequence[Row]) -> Metric:
    """What configurations are ordered by at first: the first metric that is measured, as in rows.js."""
    return next((one for one in METRICS if any(row[f"{one.key}_mean"] is not None for row in campaigns)), METRICS[0])


def ranking(campaigns: Sequence[Row]) -> list[Row]:
    """The best first by `rank_metric`."""
    metric = rank_metric(campaigns)
    key, sign = f"{metric.key}_mean", 1 if metric.less_is_better else -1
    return sorted(campaigns, key=lambda row: (row[key] is None, sign * (row[key] or 0.0), row["c"]))
