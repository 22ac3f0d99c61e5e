"""Every chart as files for a paper: on white, as wide as a column, without a browser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

import vl_convert as vlc

from warehouse.report.charts import Chart
from warehouse.report.comparing import Compared
from warehouse.report.data import ReportData, Row
from warehouse.report.gallery import gallery, static_spec
from warehouse.report.theme import VEGA_LITE

PictureFormat = Literal["svg", "png"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
DOTS_PER_INCH = 300
"""Of a PNG."""
_CM_PER_INCH = 2.54
# What SVG and CSS call a pixel, and what vl-convert calls one dot per pixel.
_PIXELS_PER_INCH = 96
_DOTS_PER_PIXEL = 72
_LONGEST = 40


def pictures(data: ReportData, width_cm: float, formats: tuple[PictureFormat, ...]) -> Iterator[tuple[str, bytes]]:
    """Names of files and what is in them: of every chart that has data, in the light, without a title.

    Args:
        width_cm: of each picture.
    """
    width = width_cm / _CM_PER_INCH * _PIXELS_PER_INCH
    for chart in gallery(data):
        if not isinstance(chart, Chart):
            continue
        for name, choice in _names(chart, data.compared):
            spec = _for_paper(static_spec(chart, data, width=width, choice=choice))
            for form, content in _drawn(spec, formats):
                yield f"{name}.{form}", content


def _drawn(spec: dict[str, Any], formats: tuple[PictureFormat, ...]) -> Iterator[tuple[PictureFormat, bytes]]:
    text: str = vlc.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    for form in formats:
        if form == "svg":
            yield form, text.encode()
        else:
            yield form, vlc.svg_to_png(text, scale=_DOTS_PER_PIXEL / _PIXELS_PER_INCH, ppi=DOTS_PER_INCH)


def _for_paper(spec: dict[str, Any]) -> dict[str, Any]:
    """Legends name what is drawn, and what a reader would hover for stands in the SVG's labels."""
    for layer, rows in _layers(spec, spec["datasets"], []):
        encoding = layer["encoding"]
        if "tooltip" in encoding:
            layer["mark"]["aria"] = True
        for channel in ("color", "shape"):
            if "field" in encoding.get(channel, {}):
                found = {row[encoding[channel]["field"]] for row in rows}
                names = [name for name in encoding[channel]["scale"]["domain"] if name in found]
                legend = encoding[channel].get("legend")
                encoding[channel]["legend"] = {**(legend or {}), "values": names} if len(names) > 1 else None
    return spec


def _layers(
    spec: dict[str, Any], datasets: dict[str, list[Row]], rows: list[Row]
) -> Iterator[tuple[dict[str, Any], list[Row]]]:
    """Every mark with its rows, which stand above it if it has none of its own."""
    rows = datasets[spec["data"]["name"]] if "data" in spec else rows
    for layer in spec.get("layer", ()):
        yield from _layers(layer, datasets, rows)
    if "mark" in spec:
        yield spec, rows


def _names(chart: Chart, compared: Compared | None) -> Iterator[tuple[str, int]]:
    """Of each picture of a chart the name, and the place of what it shows; of a comparison, of all there is."""
    if compared is None or chart.section != "compare":
        yield chart.name, 0
        return
    name = f"{chart.name}-{_plain(compared.a)}-{_plain(compared.b)}"
    if len(chart.summaries) == 1:
        yield name, 0
        return
    digits = int(math.log10(len(chart.summaries))) + 1
    for at in range(len(chart.summaries)):
        of = _plain(compared.metrics[at]) if chart.by == "ratio" else f"{at + 1:0{digits}}"
        yield f"{name}-{of}", at


def _plain(text: str) -> str:
    """What every file system and LaTeX take."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:_LONGEST].strip("-") or "x"
