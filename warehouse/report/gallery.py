"""All charts of a report, why some are missing, and each as a specification that needs no page."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from altair.utils.schemapi import debug_mode

from warehouse.comparison.words import WHERE_MEASURED
from warehouse.report.charts import (
    WINDOW,
    Chart,
    Source,
    capital,
    height_of,
    metric_chart,
    ranking,
)
from warehouse.report.data import METRICS, ReportData, Row
from warehouse.report.front_charts import comparable, front_chart
from warehouse.report.labels import lines_of
from warehouse.report.latency_charts import LATENCY_NAMES, latency_chart, latency_title
from warehouse.report.ratio_charts import ratio_charts
from warehouse.report.run_charts import drift_chart, drift_metric, gpu_chart
from warehouse.report.theme import CARD
from warehouse.report.trace_charts import TRACES, trace_chart


@dataclass(frozen=True)
class Missing:
    """A chart that there is nothing for."""

    name: str
    section: str
    title: str
    reason: str


def gallery(data: ReportData) -> list[Chart | Missing]:
    """Every chart, in the order of the page."""
    # To hold every part of every chart against the schema would take a second, and no data can change what comes of it.
    with debug_mode(False):
        compared = ratio_charts(data.compared) if data.compared is not None and data.compared.ratios else []
        return [*compared, *_metrics(data), *_fronts(data), *_traces(data), *_latencies(data), *_drifts(data)]


def _metrics(data: ReportData) -> Iterator[Chart | Missing]:
    for metric in METRICS:
        if any(row[f"{metric.key}_mean"] is not None for row in data.campaigns):
            yield metric_chart(metric, data)
        else:
            reason = f"Not measured in any cycle. {_where(metric.key)}".strip()
            yield Missing(metric.key, "metrics", f"{capital(metric.name)}, by configuration", reason)


def _where(key: str) -> str:
    return f"It is measured {WHERE_MEASURED[key]}." if key in WHERE_MEASURED else ""


def _fronts(data: ReportData) -> Iterator[Chart | Missing]:
    for other in METRICS[1:3]:
        if any(comparable(row, other) for row in data.campaigns):
            yield front_chart(other, data)
        else:
            reason = "No campaign has both figures and says what work it did."
            yield Missing(f"energy-{other.key}", "fronts", f"Energy against {other.name}", reason)


def _traces(data: ReportData) -> Iterator[Chart | Missing]:
    for kind, (name, _, _) in TRACES.items():
        if any(point[kind] is not None for trace in data.traces for point in trace["points"]):
            yield trace_chart(kind, data)
        else:
            yield Missing(kind, "traces", f"{name} over a run", "No run has samples of it.")


def _latencies(data: ReportData) -> Iterator[Chart | Missing]:
    for kind in LATENCY_NAMES:
        if any(row[f"{kind}_p50"] is not None for row in data.campaigns):
            yield latency_chart(kind, data)
        else:
            reason = f"No run has these times of its requests. {_where(kind)}".strip()
            yield Missing(f"requests-{kind}", "latencies", latency_title(kind), reason)


def _drifts(data: ReportData) -> Iterator[Chart | Missing]:
    metric = drift_metric(data)
    for over, name in (("cycle", "cycles"), ("time", "time")):
        if metric is not None:
            yield drift_chart(over, metric, data)
        else:
            yield Missing(f"drift-{over}", "drift", f"Drift over {name}", "No campaign has two cycles.")
    if data.gpus:
        yield gpu_chart(data)
    else:
        reason = "No campaign ran on several GPUs, one at a time."
        yield Missing("drift-gpu", "drift", "GPUs against their fellows", reason)


def static_spec(
    chart: Chart, data: ReportData, *, dark: bool = False, width: float = 640, choice: int = 0
) -> dict[str, Any]:
    """The chart as an unfiltered page first shows it, with its rows in it: for Vega-Lite anywhere, no page needed.

    Args:
        width: of all of it (px).
        choice: place of what it shows, where that can be chosen: of the work, the run, the pair or the metric.
    """
    spec = copy.deepcopy(chart.spec)
    spec["datasets"] = {source.name: rows_of(source, data, choice) for source in chart.sources}
    spec["width"] = width
    if chart.step is not None:
        spec["height"] = height_of(chart, spec["datasets"].values(), width)
    if chart.label is not None:
        for row in (row for rows in spec["datasets"].values() for row in rows):
            row["words"] = lines_of(row[chart.label], width)
    next(one for one in spec["params"] if one["name"] == "dark")["value"] = dark
    spec["config"]["background"] = CARD[dark]
    return spec


def rows_of(source: Source, data: ReportData, choice: int = 0) -> list[Row]:
    """What an unfiltered page first hands to this data set; page.js does the same with what its reader chose."""
    drawn = {row["c"]: rank for rank, row in enumerate(ranking(data.campaigns)[:WINDOW], start=1)}
    tables: Mapping[str, Any] = {
        "campaigns": data.campaigns,
        "cycles": data.cycles,
        "gpus": data.gpus,
        "runs": data.traces[choice : choice + 1],
        "samples": data.traces[choice]["points"] if choice < len(data.traces) else [],
        "ratios": data.compared.ratios if data.compared is not None else [],
    }
    left_out: Mapping[str, Callable[[Row, Row], bool]] = {
        "window": lambda row, _: row["c"] not in drawn,
        "work": lambda _, campaign: campaign["work"] != choice,
        "pair": lambda row, _: row["pair"] != choice,
        "ratio": lambda row, _: row["at"] != choice,
    }
    rows = []
    for row in tables[source.table]:
        campaign = data.campaigns[row["c"]] if "c" in row else {}
        if source.scope in left_out and left_out[source.scope](row, campaign):
            continue
        made = {field: row[field] if field in row else campaign.get(field) for field in source.fields}
        if source.scope == "window":
            made["rank"] = drawn[row["c"]]
        if all(made[field] is not None for field in source.needs):
            rows.append(made)
    return rows
