"""Charts of a comparison: the ratio B / A of every metric of a pair, and of one metric in every pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import altair as alt

from warehouse.report.axes import log_axis
from warehouse.report.charts import Chart, Source, capital, finished, lowered, named_lines
from warehouse.report.comparing import CONFOUNDED, NOT_SHOWN, PAIRED, SHOWN, WELCH, Compared, Row, domain, is_cut
from warehouse.report.theme import DARK, LIGHT, SOFT, legend, themed, themed_range, zoom

_LINE = 44
_COLOURS = {SHOWN: (LIGHT[0], DARK[0]), NOT_SHOWN: SOFT, CONFOUNDED: (LIGHT[1], DARK[1])}
_SHAPES = {PAIRED: "circle", WELCH: "diamond"}
_AXIS = "change from A to B (log)"
_CHANGE = (
    "abs(datum.value - 1) < 1e-9 ? 'as A' : datum.value > 9.995 ? format(datum.value, ',.8~r') + ' times' : "
    "format(100 * (datum.value - 1), '+,.8~r') + ' %'"
)
_FIELDS = (
    *(
        "pair",
        "pair_rank",
        "pair_label",
        "at",
        "metric",
        "column",
        "ratio",
        "lo",
        "hi",
        "factor",
        "interval",
        "change",
        "line",
    ),
    *("detectable", "method", "units", "mean_a", "mean_b", "outcome", "verdict"),
)


def ratio_charts(compared: Compared) -> list[Chart]:
    """Of one pair all metrics; where there are several pairs, of one metric also all of them."""
    charts = [_metrics_of_a_pair(compared)]
    if len(compared.pairs) > 1:
        charts.append(_metric_of_all_pairs(compared))
    return charts


def _metrics_of_a_pair(compared: Compared) -> Chart:
    columns = {
        "metric": "figure",
        "column": "column",
        "mean_a": "A",
        "mean_b": "B",
        "factor": "B/A",
        "interval": compared.level,
    }
    columns |= {"detectable": "detectable", "units": "from"}
    return _chart(
        compared,
        "compare",
        "B against A, every figure",
        scope="pair",
        rank="at",
        line="line",
        columns=columns,
        by="pair",
        summaries=[
            _sentence(compared, [row for row in compared.ratios if row["pair"] == at], "figures")
            for at in range(len(compared.pairs))
        ],
    )


def _metric_of_all_pairs(compared: Compared) -> Chart:
    columns = {"pair_label": "pair", "mean_a": "A", "mean_b": "B", "factor": "B/A", "interval": compared.level}
    columns |= {"detectable": "detectable", "units": "from"}
    return _chart(
        compared,
        "compare-pairs",
        "B against A, every pair of campaigns",
        scope="ratio",
        rank="pair_rank",
        line="pair_label",
        columns=columns,
        by="ratio",
        summaries=[
            f"{capital(metric)}. "
            + _sentence(compared, [row for row in compared.ratios if row["at"] == at], "pairs")
            + f" In the order of {compared.order}."
            for at, metric in enumerate(compared.metrics)
        ],
    )


def _chart(
    compared: Compared,
    name: str,
    title: str,
    *,
    scope: str,
    rank: str,
    line: str,
    columns: dict[str, str],
    by: str,
    summaries: Sequence[str],
) -> Chart:
    n_lines = max(Counter(row[by] if by == "pair" else row["at"] for row in compared.ratios).values())
    return Chart(
        name=name,
        section="compare",
        title=title,
        summary=summaries[0],
        spec=finished(_marks(compared, rank), title, n_lines * _LINE),
        sources=(Source("ratios", "ratios", scope, _FIELDS, ("ratio",)),),
        columns=columns,
        zoomed={"x": "ratio"},
        step=_LINE,
        lines=rank,
        label=line,
        by=by,
        summaries=tuple(summaries),
    )


def _marks(compared: Compared, rank: str) -> alt.LayerChart:
    """The line "as A", intervals, ratios and their names."""
    base = alt.Chart(alt.NamedData("ratios"))
    scale = alt.Scale(type="log", domain=list(domain(compared.ratios)), nice=False)
    axis = log_axis(_CHANGE)
    x = alt.X("ratio:Q", title=_AXIS, scale=scale, axis=axis)
    y = alt.Y(f"{rank}:O", axis=None)
    outcomes = [one for one in _COLOURS if any(row["outcome"] == one for row in compared.ratios)]
    methods = [one for one in _SHAPES if any(row["method"] == one for row in compared.ratios)]
    colour = alt.Color(
        "outcome:N",
        title=None,
        scale=alt.Scale(domain=outcomes, range=themed_range(_COLOURS[one] for one in outcomes)),
        legend=legend(outcomes, symbolType="stroke", symbolStrokeWidth=3),
    )
    shape = alt.Shape(
        "method:N",
        title=None,
        scale=alt.Scale(domain=methods, range=[_SHAPES[one] for one in methods]),
        legend=legend(methods),
    )
    same = base.mark_rule(strokeWidth=1.5, strokeDash=[4, 3], aria=False).encode(
        x=alt.datum(1, title=_AXIS, scale=scale, axis=axis), color=alt.value(themed(SOFT))
    )
    bars = base.mark_rule(strokeWidth=2.5, yOffset=lowered(8, _LINE), clip=True, aria=False).encode(
        x=alt.X("lo:Q", title=_AXIS, scale=scale, axis=axis), x2="hi:Q", y=y, color=colour
    )
    points = (
        base.mark_point(filled=True, size=95, opacity=1, yOffset=lowered(8, _LINE), clip=True, aria=False)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=shape,
            tooltip=[
                alt.Tooltip("metric:N", title="figure"),
                alt.Tooltip("column:N"),
                alt.Tooltip("pair_label:N", title="pair"),
                alt.Tooltip("mean_a:N", title="A, mean"),
                alt.Tooltip("mean_b:N", title="B, mean"),
                alt.Tooltip("factor:N", title="B/A"),
                alt.Tooltip("interval:N", title=compared.level),
                alt.Tooltip("change:N", title="change"),
                alt.Tooltip("detectable:N", title="detectable"),
                alt.Tooltip("units:N", title="from"),
                alt.Tooltip("method:N", title="as"),
                alt.Tooltip("outcome:N"),
            ],
        )
        .add_params(zoom("x"))
    )
    marks: alt.LayerChart = same + bars + points + named_lines(10, "ratios", rank, step=_LINE, halo=True)
    return marks


def _sentence(compared: Compared, rows: Sequence[Row], what: str) -> str:
    """What came of how many."""
    if not rows:
        return "Nothing here can be compared; why stands in words."
    counts = Counter(row["outcome"] for row in rows)
    words = {
        SHOWN: ("differs", "differ"),
        NOT_SHOWN: ("could not be told apart", "could not be told apart"),
        CONFOUNDED: ("cannot be told from what the GPUs differ in (GPU confounded)",) * 2,
    }
    parts = [f"{counts[one]} {forms[counts[one] > 1]}" for one, forms in words.items() if counts[one]]
    count = f"Of {len(rows)} {what}, " if len(rows) > 1 else ""
    methods = {row["method"] for row in rows}
    how = f" All are of {next(iter(methods))}." if len(methods) == 1 else ""
    cut = " Intervals that run off the chart are cut there." if is_cut(compared.ratios) else ""
    return f"{count}{', '.join(parts)}. Mark and line: B/A with its {compared.level}.{how}{cut}"
