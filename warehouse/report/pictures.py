"""Every chart as files for a paper: on white, as wide as a column, without a browser."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import vl_convert as vlc

from warehouse.report.charts import Chart
from warehouse.report.data import ReportData, Row
from warehouse.report.gallery import gallery, rows_of, static_spec
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
MOST_WORKS = 12
"""Kinds of work that fronts are drawn of, those with most configurations first."""


@dataclass(frozen=True)
class Picture:
    """A chart, and of what.

    Attributes:
        name: of its files, without their ending.
        choice: place of the work, the run, the pair or the metric that it shows.
    """

    name: str
    chart: Chart
    choice: int

    def rows(self, data: ReportData) -> list[list[Row]]:
        """Of each of its data sets."""
        return [rows_of(source, data, self.choice) for source in self.chart.sources]


def pictures_of(data: ReportData) -> list[Picture]:
    """Of every chart that has data: of fronts one of each of the first kinds of work, of traces one of each run, of a
    comparison one of each pair and of each metric."""
    found = [
        Picture(name, chart, choice)
        for chart in gallery(data)
        if isinstance(chart, Chart)
        for name, choice in _names(chart, data)
    ]
    return [one for one in found if all(one.rows(data))]


def drawn(
    pictures: Sequence[Picture], data: ReportData, width_cm: float, formats: tuple[PictureFormat, ...]
) -> Iterator[tuple[str, bytes]]:
    """Names of files and what is in them: in the light, without a title.

    Args:
        width_cm: of each picture.
    """
    width = width_cm / _CM_PER_INCH * _PIXELS_PER_INCH
    for one in pictures:
        spec = _for_paper(static_spec(one.chart, data, width=width, choice=one.choice))
        for form, content in _drawn(spec, formats):
            yield f"{one.name}.{form}", content


def _drawn(spec: dict[str, Any], formats: tuple[PictureFormat, ...]) -> Iterator[tuple[PictureFormat, bytes]]:
    text: str = vlc.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    for form in formats:
        if form == "svg":
            yield form, text.encode()
        else:
            yield form, vlc.svg_to_png(text, scale=_DOTS_PER_PIXEL / _PIXELS_PER_INCH, ppi=DOTS_PER_INCH)


def _for_paper(spec: dict[str, Any]) -> dict[str, Any]:
    """Legends name what is drawn, and what a reader would hover for stands in the SVG's labels."""
    # Beside its axis there is less room than Vega first takes for a legend: one that goes on in a further line then
    # stands above the picture, unless all is laid out once more.
    spec["autosize"]["resize"] = True
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


def _names(chart: Chart, data: ReportData) -> Iterator[tuple[str, int]]:
    """Of each picture of a chart the name, and the place of what it shows."""
    name = chart.name
    if data.compared is not None and chart.section == "compare":
        name += f"-{_plain(data.compared.a)}-{_plain(data.compared.b)}"
    if len(chart.summaries) < 2:
        yield name, 0
        return
    of = _choices(chart, data)
    doubled = {one for one, count in Counter(of).items() if count > 1}
    for at, one in enumerate(of):
        yield f"{name}-{one}" + (f"-{at + 1}" if one in doubled else ""), at


def _choices(chart: Chart, data: ReportData) -> list[str]:
    """What a chart's pictures are told apart by: as far as it goes what stays the same when more is measured."""
    if chart.by == "work":
        return [f"{_plain(work.model)}-{work.id[:6]}" for work in data.works[:MOST_WORKS]]
    if chart.by == "trace":
        return [_plain(trace["run"]) for trace in data.traces]
    if chart.by == "ratio" and data.compared is not None:
        return [_plain(metric) for metric in data.compared.metrics]
    digits = int(math.log10(len(chart.summaries))) + 1
    return [f"{at:0{digits}}" for at in range(1, len(chart.summaries) + 1)]


def _plain(text: str) -> str:
    """What every file system and LaTeX take."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:_LONGEST].strip("-") or "x"
