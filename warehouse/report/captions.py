"""What each picture shows, in words to be taken into a caption: the files themselves have no title and no source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from importlib.metadata import version

from warehouse.comparison.selection import listed
from warehouse.numerals import counted
from warehouse.report.alike import in_common
from warehouse.report.charts import WINDOW, Chart, rank_metric, ranking
from warehouse.report.data import METRICS, ReportData, Row
from warehouse.report.pictures import MOST_WORKS, Picture, PictureFormat
from warehouse.typeset import typeset_notes

CAPTIONS_FILE = "captions.md"
_MOST_STUDIES = 12
_MOST_ON_FRONT = 20
_HOW = {
    "metrics": "Mark and line: mean over cycles with its 95 % interval (Student's t); dots below: every cycle.",
    "fronts": "Marks and lines: means over cycles with their 95 % intervals (Student's t).",
    "compare": "Ratios are of geometric means, intervals Student's t on logarithms.",
    "traces": "One run, so there is no interval.",
    "latencies": "Quantiles of all cycles together, without intervals.",
    "drift": "Every dot is a cycle, without an interval.",
}


def captions(pictures: Sequence[Picture], formats: Sequence[PictureFormat], data: ReportData) -> str:
    """Markdown: for each picture its files, a caption, and where its figures come from; in the pictures' order."""
    common = in_common(data.campaigns)
    source = f"{common}. {_source(data)}" if common is not None else _source(data)
    parts = ["# Captions"]
    if limit := left_out(data):
        parts.append(_text(f"{limit}."))
    for one in pictures:
        files = ", ".join(f"{one.name}.{form}" for form in formats)
        parts.append(
            f"## {_text(files)}\n\n**{one.chart.title}.** {_text(' '.join(_words(one, data)))}\n\n{_text(source)}"
        )
    return "\n\n".join(parts) + "\n"


def left_out(data: ReportData) -> str | None:
    """What there is no picture of."""
    if len(data.works) <= MOST_WORKS:
        return None
    return f"fronts of {MOST_WORKS} of {len(data.works):,} kinds of work, those with most configurations"


def _text(text: str) -> str:
    return typeset_notes("markdown", [text])


def _words(picture: Picture, data: ReportData) -> Iterator[str]:
    chart, choice = picture.chart, picture.choice
    summary = chart.summaries[choice] if chart.summaries else chart.summary
    yield summary
    if chart.section == "compare":
        yield from _sides(picture, data)
    else:
        yield from _campaigns(picture, data)
    # GPUs have their spread instead, which their sentence says.
    if chart.name != "drift-gpu":
        yield _HOW[chart.section]
    if chart.section in ("metrics", "fronts") and any(_is_stein(row, chart) for row in _drawn(picture, data)):
        yield "Intervals of the figure that an adaptive study stopped by are Stein's."


def _is_stein(row: Row, chart: Chart) -> bool:
    """Whether an interval that is drawn has the mark of those, see `data`."""
    return any((row[field] or "").endswith("*") for field in chart.sources[0].fields if field.endswith("_interval"))


def _sides(picture: Picture, data: ReportData) -> Iterator[str]:
    if data.compared is None:
        return
    if picture.chart.by == "pair":
        pair = data.compared.pairs[picture.choice]
        yield f"A: {pair.a}, {pair.counts_a}. B: {pair.b}, {pair.counts_b}."
    else:
        yield f"A: {data.compared.a}. B: {data.compared.b}."


def _campaigns(picture: Picture, data: ReportData) -> Iterator[str]:
    """Which configurations are drawn, and how many cycles that is."""
    drawn = _drawn(picture, data)
    scope = picture.chart.sources[0].scope
    if scope == "window" and len(data.campaigns) > WINDOW:
        metric = rank_metric(data.campaigns)
        order = f"{'least' if metric.less_is_better else 'most'} {metric.name}"
        yield f"Of {counted(len(data.campaigns), 'configuration')} the first {WINDOW} are drawn, {order} first."
    if picture.chart.section == "fronts":
        on_front = [row["label"] for row in drawn if row[f"{picture.chart.name.partition('-')[2]}_front"]]
        yield f"On the front: {'; '.join(on_front[:_MOST_ON_FRONT])}" + (
            f" and {len(on_front) - _MOST_ON_FRONT} more." if len(on_front) > _MOST_ON_FRONT else "."
        )
    if drawn:
        count = _count_of_cycles(picture.chart)
        drawn = [row for row in drawn if row[count]]
        cycles = 1 if scope == "run" else sum(row[count] for row in drawn)
        yield f"{counted(cycles, 'cycle')} of {counted(len(drawn), 'configuration')}."


def _count_of_cycles(chart: Chart) -> str:
    """Field with how many cycles a chart shows: those that have its metric, if it is of one alone."""
    needs = {need.removesuffix("_mean") for need in chart.sources[0].needs}
    (key,) = needs if len(needs) == 1 else ("",)
    return f"{key}_n" if any(metric.key == key for metric in METRICS) else "n_cycles"


def _drawn(picture: Picture, data: ReportData) -> list[Row]:
    """Campaigns of a picture; none for the one of GPUs, which are drawn against each other."""
    source = picture.chart.sources[0]
    found: Sequence[Row] = ()
    if source.scope == "window":
        found = ranking(data.campaigns)[:WINDOW]
    elif source.scope == "kept":
        found = data.campaigns
    elif source.scope == "work":
        found = [row for row in data.campaigns if row["work"] == picture.choice]
    elif source.scope == "run":
        found = [data.campaigns[data.traces[picture.choice]["c"]]]
    needed = [field for field in source.needs if source.table == "campaigns"]
    return [row for row in found if all(row[field] is not None for field in needed)]


def _source(data: ReportData) -> str:
    """Where all figures come from, and what was counted."""
    studies = data.studies or sorted({row["study"] or "no study" for row in data.campaigns})
    named = f"{'study' if len(studies) == 1 else 'studies'} {listed(studies, _MOST_STUDIES)}"
    invalid = "counted, too" if data.include_all else "left out"
    return (
        f"Source: {data.database}, {named}; invalid cycles and simulated GPUs {invalid}. "
        f"joulehouse {version('joulehouse')}, {data.made_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    )
