"""The page: one file that holds its styles, its program, the charts' specifications and the rows they draw.

Nothing on it comes from elsewhere, and its own policy lets nothing else in: scripts are named by their digests. Text
that others wrote is escaped by the template, is JSON without any ``<``, and becomes text alone in the program.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert as vlc
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from warehouse.comparison.words import NAMES
from warehouse.numerals import rough
from warehouse.report.alike import in_common
from warehouse.report.charts import WINDOW, Chart, capital
from warehouse.report.data import METRICS, Metric, ReportData, Row
from warehouse.report.fronts import APART, BESIDE, MOST_NAMES, logarithmic
from warehouse.report.gallery import Missing, gallery
from warehouse.report.labels import LETTER, LINE_HEIGHT, MARGIN, SEPARATOR
from warehouse.report.theme import VEGA_LITE, ordered_backends

LARGEST = 5_950_000
"""Bytes of a page."""
_FOLDER = Path(__file__).parent
_SCRIPTS = ("rows.js", "views.js", "configurations.js", "words.js", "page.js")
_MOST_CHOICES = 120
"""Of each filter; the rest can be searched for."""
_MOST_BEST = 40
_MOST_EQUAL = 2
_FILTERS = {"backend": "backend", "model": "model", "gpu": "GPU", "study": "study"}
"""Columns of a campaign that can be chosen from, and what they are called in a sentence."""
_DIGITS = 6
# Of a campaign's row, what the page's program needs to know.
_NOT_ON_PAGE = ("work_id", "processes", "n_gpu_sets", "first_start", "driver", "image", "limit", "commit")


@dataclass(frozen=True)
class Section:
    """Charts under one heading."""

    name: str
    title: str
    charts: Sequence[Chart | Missing]


_SECTIONS = {
    "compare": "B against A",
    "metrics": "Figures by configuration",
    "fronts": "Energy against speed",
    "traces": "Power and temperature",
    "latencies": "Latencies of requests",
    "drift": "Drift",
}


def page(data: ReportData) -> bytes:
    """The report as HTML, below `LARGEST` bytes; what has to be left out for that is said on it."""
    template = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("template.html")
    known = _known(data)
    bare = template.render(known, notes=data.notes, tables="{}")
    tables, notes = _tables_that_fit(data, LARGEST - len(_encoded(bare)))
    return _encoded(template.render(known, notes=[*data.notes, *notes], tables=tables))


def _known(data: ReportData) -> dict[str, Any]:
    """All that the template takes, but the rows that charts draw."""
    charts = gallery(data)
    bundle = _bundle()
    program = "'use strict';\n" + "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    best, n_alone = _best(data)
    return {
        "data": data,
        "counts": data.counts,
        "common": in_common(data.campaigns),
        "policy": _policy(bundle, program),
        "style": (_FOLDER / "page.css").read_text(encoding="utf-8"),
        "bundle": bundle,
        "program": program,
        "about": _blob(_about(data, charts, min(len(data.works), _MOST_CHOICES))),
        "sections": [
            Section(name, title, [chart for chart in charts if chart.section == name])
            for name, title in _SECTIONS.items()
        ],
        "filters": _choices(data),
        "metrics": METRICS,
        "best": best[:_MOST_BEST],
        "n_best": len(best),
        "n_alone": n_alone,
        "works": data.works[:_MOST_CHOICES],
        "n_works": len(data.works),
        "version": version("joulehouse"),
        "names": NAMES,
        "wandering": {row["id"]: row["label"] for row in data.campaigns},
        "follows_ticks": lambda chart: any(source.scope == "window" for source in getattr(chart, "sources", ())),
        "percent": lambda ratio: f"{100 * ratio:+.1f} %",
    }


def _about(data: ReportData, charts: Sequence[Chart | Missing], n_works: int) -> dict[str, Any]:
    """What the page's program needs to know of metrics and charts, and how many kinds of work can be chosen."""
    return {
        "works": n_works,
        "filters": _FILTERS,
        "window": WINDOW,
        "labels": {"separator": SEPARATOR, "letter": LETTER, "margin": MARGIN, "line": LINE_HEIGHT},
        "fronts": {
            "most": MOST_NAMES,
            "apart": APART,
            "beside": BESIDE,
            "logarithmic": {one.key: logarithmic(data.campaigns, one.key) for one in METRICS[1:3]},
        },
        "metrics": [
            {"key": one.key, "name": one.name, "unit": one.unit, "less": one.less_is_better} for one in METRICS
        ],
        "charts": {
            one.name: {
                "spec": one.spec,
                "sources": [source.__dict__ for source in one.sources],
                "columns": one.columns,
                "cycles": one.cycles,
                "zoomed": one.zoomed,
                "step": one.step,
                "lines": one.lines,
                "label": one.label,
                "by": one.by,
                "summaries": one.summaries[:_MOST_CHOICES],
            }
            for one in charts
            if isinstance(one, Chart)
        },
    }


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which vl-convert carries; it takes seconds to put together."""
    bundle: str = vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle


def _policy(*scripts: str) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _blob(value: object) -> str:
    """JSON that no HTML parser can take for the end of its script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _tables_that_fit(data: ReportData, room: int) -> tuple[str, list[str]]:
    """All rows as JSON, or as many campaigns and cycles as there is `room` for (bytes), and what is to be said then."""
    campaigns, cycles = list(data.campaigns), list(data.cycles)
    notes: list[str] = []
    while True:
        kept = [row for row in cycles if row["c"] < len(campaigns)]
        tables = _blob(_tables(data, campaigns, kept))
        if len(_encoded(tables)) <= room or not campaigns:
            break
        if len(cycles) > len(campaigns):
            cycles = [row | {"run": None} for row in cycles[: len(cycles) // 2]]
        else:
            campaigns = campaigns[: len(campaigns) // 2]
    if len(campaigns) < len(data.campaigns):
        notes.append(
            f"Only the first {len(campaigns):,} campaigns fit on this page, which stays below 6 MB; --study narrows it."
        )
    if len(kept) < len(data.cycles):
        notes.append(f"Only {len(kept):,} cycles are drawn, so that this page stays below 6 MB.")
    return tables, notes


def _tables(data: ReportData, campaigns: Sequence[Row], cycles: Sequence[Row]) -> dict[str, Any]:
    samples = [{"trace": at} | point for at, trace in enumerate(data.traces) for point in trace["points"]]
    runs = [{"trace": at} | {name: trace[name] for name in ("c", "from", "to")} for at, trace in enumerate(data.traces)]
    kept = [{key: value for key, value in row.items() if key not in _NOT_ON_PAGE} for row in campaigns]
    tables = {"campaigns": kept, "cycles": cycles, "samples": samples, "runs": runs, "gpus": data.gpus}
    tables["ratios"] = data.compared.ratios if data.compared is not None else []
    return {name: columns(rows) for name, rows in tables.items()}


def columns(rows: Sequence[Row]) -> dict[str, Any]:
    """A list for each column; of texts the distinct ones and their places. What is not finite is not measured."""
    found: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if any(isinstance(value, str) for value in values):
            names = sorted({value for value in values if value is not None})
            place: dict[str | None, int] = {value: at for at, value in enumerate(names)} | {None: -1}
            found[name] = {"names": names, "codes": [place[value] for value in values]}
        else:
            found[name] = [_rounded(value) for value in values]
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _choices(data: ReportData) -> list[dict[str, Any]]:
    """Of each filter its values with the number of campaigns; a filter with one value is none."""
    found = []
    for name, title in _FILTERS.items():
        counts = Counter(row[name] for row in data.campaigns if row[name] is not None)
        if name == "backend":
            values = ordered_backends(counts)
        else:
            values = sorted(counts, key=lambda value: (-counts[value], value))
        if len(values) > 1:
            shown = [(value, counts[value]) for value in values[:_MOST_CHOICES]]
            found.append({"name": name, "title": capital(title), "values": shown, "more": len(values) - len(shown)})
    return found


def _best(data: ReportData) -> tuple[list[Row], int]:
    """Of each kind of work on each hardware, the campaign that is best by each metric; and how often there is one.

    Simulated GPUs are held against each other alone, whatever they are called.
    """
    groups: dict[tuple[int, str, bool], list[Row]] = {}
    for row in data.campaigns:
        if row["work"] is not None:
            groups.setdefault((row["work"], row["hardware"], bool(row["simulated"])), []).append(row)
    found = [
        {
            "work": data.works[work].label,
            "hardware": hardware,
            "simulated": simulated,
            "compared": len(rows),
            "cells": [_best_by(metric, rows, data.works[work].rate) for metric in METRICS[:3]],
        }
        for (work, hardware, simulated), rows in sorted(groups.items())
        if len(rows) > 1
    ]
    return found, len(groups) - len(found)


def _best_by(metric: Metric, rows: Sequence[Row], rate: str | None) -> Row:
    """The least or the most, or why none is named.

    Args:
        rate: arrivals per second, if requests arrive whether or not earlier ones are done.
    """
    if metric.key == "speed" and rate is not None:
        return {"why_none": f"set by the arrivals, {rate} requests/s"}
    key = f"{metric.key}_mean"
    measured = sorted(
        (row for row in rows if row[key] is not None), key=lambda row: row[key] if metric.less_is_better else -row[key]
    )
    if not measured:
        return {"why_none": "not measured"}
    best = measured[0]
    equal = [row["label"] for row in measured if row[key] == best[key]]
    if len(equal) > 1:
        more = ", ..." if len(equal) > _MOST_EQUAL else ""
        label = f"{len(equal)} equal: {', '.join(equal[:_MOST_EQUAL])}{more}"
        return {"text": best[f"{metric.key}_text"], "interval": "", "label": label, "ahead": ""}
    return {
        "text": best[f"{metric.key}_text"],
        "interval": best[f"{metric.key}_interval"] or "no interval",
        "label": best["label"],
        "ahead": _ahead(metric, best[key], measured[1][key]) if len(measured) > 1 else "no other measured",
    }


def _ahead(metric: Metric, best: float, next_best: float) -> str:
    if not best:
        return ""
    ratio = abs(next_best / best - 1)
    word = "more" if metric.less_is_better else "less"
    return f"next: {rough(100 * ratio)} % {word}" if ratio >= 0.001 else "next: within 0.1 %"
