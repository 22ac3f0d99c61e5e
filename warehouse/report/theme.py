"""Colours and shapes that also tell things apart without colour, in light and dark; and what all charts share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from images.contract.config import BACKENDS
from warehouse.report.labels import LETTER

# After Okabe and Ito (2008), darkened or lightened until each has a contrast of 4.5 : 1 with its background.
LIGHT = ("#0068a3", "#a84600", "#00704f", "#993d7f", "#8a2be2", "#444444")
DARK = ("#56b4e9", "#e69f00", "#2fc79a", "#e58fc4", "#f0e442", "#cccccc")
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    # More than there are colours, so that what has the same colour again has another shape.
    "triangle-right",
    "triangle-left",
)
DASHES = (
    (1, 0),
    (7, 3),
    (2, 2),
    (9, 3, 2, 3),
    (14, 4),
    (5, 2, 1, 2, 1, 2),
    (1, 5),
    (14, 2, 5, 2),
)
"""Of lines: on and off in turn (px)."""
INK = ("#1b1f24", "#e6e8eb")
SOFT = ("#545b64", "#b3b9c1")
"""Of text that says less; light and dark, as in page.css."""
GRID = ("#e3e6ea", "#333941")
CARD = ("#ffffff", "#1a1e24")
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""Version that Altair writes for."""
_BESIDE = 36
# Long enough for the longest dash to be seen once (px).
_LEGEND_LINE = 26
# Values that differ more than this are on a logarithmic axis.
_LOG_FROM = 20
# Of a label in a legend (px); and letters that Vega shows of it.
_LONGEST = 26


def themed(pair: Sequence[str]) -> alt.ExprRef:
    """The light or the dark one, by the chart's parameter `dark`."""
    return alt.ExprRef(_expression(pair))


def is_logarithmic(values: Iterable[float | None]) -> bool:
    """Whether an axis is, by what is on it: all above 0 and far apart. Bounds of intervals do not count."""
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) / min(known) > _LOG_FROM


def ordered_backends(found: Iterable[str]) -> list[str]:
    """The known ones in their order, then the others."""
    there = set(found)
    return [one for one in BACKENDS if one in there] + sorted(there.difference(BACKENDS))


def backend_colour(backends: Sequence[str]) -> alt.Color:
    return alt.Color(
        "backend:N",
        title=None,
        legend=legend(backends),
        scale=alt.Scale(domain=list(backends), range=_colours(places(backends))),
    )


def backend_shape(backends: Sequence[str]) -> alt.Shape:
    shapes = [SHAPES[place % len(SHAPES)] for place in places(backends)]
    return alt.Shape(
        "backend:N", title=None, legend=legend(backends), scale=alt.Scale(domain=list(backends), range=shapes)
    )


def series_colour(field: str, names: Sequence[str], **of_symbols: Any) -> alt.Color:
    """Of things that are no backends, such as GPUs."""
    return alt.Color(
        f"{field}:N",
        title=None,
        legend=legend(names, **of_symbols),
        scale=alt.Scale(domain=list(names), range=_colours(range(len(names)))),
    )


def line_of_series(field: str, names: Sequence[str]) -> dict[str, Any]:
    """Colour and dash of lines, with one legend for both."""
    symbols: dict[str, Any] = {
        "symbolType": "stroke",
        "symbolSize": _LEGEND_LINE**2,
        "symbolStrokeWidth": 2,
        "symbolFillColor": "transparent",
    }
    dashes = [list(DASHES[at % len(DASHES)]) for at in range(len(names))]
    dash = alt.StrokeDash(
        f"{field}:N",
        title=None,
        legend=legend(names, **symbols),
        scale=alt.Scale(domain=list(names), range=dashes),
    )
    return {"color": series_colour(field, names, **symbols), "strokeDash": dash}


def legend(names: Sequence[str], **of_symbols: Any) -> alt.Legend | None:
    """In as many columns as there is room for; None where there is nothing to tell apart."""
    if len(names) < 2:
        return None
    beside = _BESIDE + (_LEGEND_LINE if of_symbols.get("symbolType") == "stroke" else 0)
    column = LETTER * min(max(map(len, names)), _LONGEST) + beside
    return alt.Legend(columns=alt.ExprRef(f"max(1, min({len(names)}, floor(width / {column:.0f})))"), **of_symbols)


def places(backends: Sequence[str]) -> list[int]:
    """Where each is among colours and shapes: a known one always at the same place, the others after all of these."""
    known: list[str] = list(BACKENDS)
    others = [one for one in backends if one not in known]
    return [(known + others).index(one) for one in backends]


def _colours(at: Iterable[int]) -> list[Any]:
    return themed_range((LIGHT[place % len(LIGHT)], DARK[place % len(DARK)]) for place in at)


def themed_range(pairs: Iterable[Sequence[str]]) -> list[Any]:
    """Of a scale: of each pair the light or the dark one."""
    return [{"expr": _expression(pair)} for pair in pairs]


def _expression(pair: Sequence[str]) -> str:
    return f"dark ? '{pair[1]}' : '{pair[0]}'"


def configured(chart: alt.LayerChart | alt.Chart, description: str, height: int) -> alt.LayerChart | alt.Chart:
    ink, soft, grid = themed(INK), themed(SOFT), themed(GRID)
    made: alt.LayerChart | alt.Chart = chart.properties(
        width="container", height=height, description=description
    ).configure(
        background="transparent",
        font="system-ui, 'DejaVu Sans', sans-serif",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=soft,
            titleColor=ink,
            gridColor=grid,
            domainColor=soft,
            tickColor=soft,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
        ),
        legend=alt.LegendConfig(
            labelColor=ink,
            titleColor=ink,
            orient="top",
            labelFontSize=12,
            symbolSize=90,
            columnPadding=18,
            offset=8,
            symbolOpacity=1,
        ),
    )
    return made


def zoom(*encodings: str) -> alt.Parameter:
    """Drag to move, Ctrl and the wheel to zoom: the wheel alone scrolls the page."""
    chosen: Any = list(encodings)
    return alt.selection_interval(
        bind="scales", name="zoom", encodings=chosen, zoom="wheel![event.ctrlKey || event.metaKey]"
    )
