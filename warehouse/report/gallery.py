"""All charts of a report, why some are missing, and each as a specification that needs no page."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from warehouse.report.charts import WINDOW, Chart, Source, front_chart, metric_chart, ranking
from warehouse.report.data import METRICS, ReportData, Row
from warehouse.report.run_charts import (
    LATENCY_KINDS,
    LATENCY_NAMES,
    TRACES,
    drift_chart,
    drift_metric,
    gpu_chart,
    latency_chart,
    trace_chart,
)

_WHERE = {
    "energy": "Energy is measured on NVIDIA GPUs.",
    "itl": "It is measured where every token has its time (vllm.token_times, trt.token_times).",
}


@dataclass(frozen=True)
class Missing:
    """A chart that there is nothing for."""

    name: str
    section: str
    title: str
    reason: str


def gallery(data: ReportData) -> list[Chart | Missing]:
    """Every chart, in the order of the page."""
    energy, speed, ttft, _ = METRICS
    found: list[Chart | Missing] = []
    for metric in METRICS:
        title = f"{metric.name[0].upper()}{metric.name[1:]}, by configuration"
        reason = f"Not measured in any cycle. {_WHERE.get(metric.key, '')}".strip()
        there = any(row[f"{metric.key}_mean"] is not None for row in data.campaigns)
        found.append(_if(there, lambda metric=metric: metric_chart(metric, data), metric.key, "metrics", title, reason))
    for other in (speed, ttft):
        there = any(row["work"] is not None and row[f"{other.key}_mean"] is not None for row in data.campaigns)
        reason = "No campaign has both figures and says what work it did."
        title = f"Energy against {other.name}"
        found.append(_if(there, lambda other=other: front_chart(other, data), f"energy-{other.key}", "fronts", title, reason))
    for kind, (name, _, _) in TRACES.items():
        there = any(point[kind] is not None for trace in data.traces for point in trace["points"])
        found.append(_if(there, lambda kind=kind: trace_chart(kind, data), kind, "traces", f"{name} over a run", "No run has samples of it."))
    for kind in LATENCY_KINDS:
        there = any(row[f"{kind}_p50"] is not None for row in data.campaigns)
        title = f"{LATENCY_NAMES[kind][0].upper()}{LATENCY_NAMES[kind][1:]}: how requests are spread"
        found.append(_if(there, lambda kind=kind: latency_chart(kind, data), f"requests-{kind}", "latencies", title, "No run has these times of its requests."))
    metric = drift_metric(data)
    for over in ("cycle", "time"):
        found.append(
            drift_chart(over, metric, data)
            if metric is not None
            else Missing(f"drift-{over}", "drift", f"Drift over {'cycles' if over == 'cycle' else 'time'}", "No campaign has two cycles.")
        )
    reason = "No campaign ran on several GPUs, one at a time."
    found.append(_if(bool(data.gpus), lambda: gpu_chart(data), "drift-gpu", "drift", "GPUs against their fellows", reason))
    return found


def _if(there: bool, make: Callable[[], Chart], name: str, section: str, title: str, reason: str) -> Chart | Missing:
    return make() if there else Missing(name, section, title, reason)


def static_spec(chart: Chart, data: ReportData, *, dark: bool = False, width: int = 640) -> dict[str, Any]:
    """The chart as an unfiltered page first shows it, with its rows in it: for Vega-Lite anywhere, no page needed.

    Args:
        width: of the part between the axes (px).
    """
    spec = copy.deepcopy(chart.spec)
    spec["datasets"] = {source.name: rows_of(source, data) for source in chart.sources}
    spec["width"] = width
    values = {"dark": dark, "labels": _labels(chart, data)}
    for parameter in spec["params"]:
        if parameter["name"] in values:
            parameter["value"] = values[parameter["name"]]
    spec["config"]["background"] = "#1a1e24" if dark else "#ffffff"
    return spec


def rows_of(source: Source, data: ReportData) -> list[Row]:
    """What an unfiltered page first hands to this data set; page.js does the same with what its reader chose."""
    drawn = {row["c"]: rank for rank, row in enumerate(ranking(data.campaigns)[:WINDOW], start=1)}
    tables: Mapping[str, Any] = {
        "campaigns": data.campaigns,
        "cycles": data.cycles,
        "gpus": data.gpus,
        "runs": data.traces[:1],
        "samples": data.traces[0]["points"] if data.traces else [],
    }
    rows = []
    for row in tables[source.table]:
        campaign = data.campaigns[row["c"]] if "c" in row else {}
        if source.scope == "window" and row["c"] not in drawn:
            continue
        if source.scope == "work" and campaign["work"] != 0:
            continue
        made = {field: row[field] if field in row else campaign.get(field) for field in source.fields}
        if source.scope == "window":
            made["rank"] = drawn[row["c"]]
        if made[source.needs] is not None:
            rows.append(made)
    return rows


def _labels(chart: Chart, data: ReportData) -> list[str]:
    if chart.name == "drift-gpu":
        return list(dict.fromkeys(row["uuid"] for row in data.gpus))
    return [row["label"] for row in ranking(data.campaigns)[:WINDOW]]
