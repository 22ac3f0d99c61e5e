"""A comparison as a report shows it: the words of `warehouse compare`, and its ratios as rows for charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from warehouse.compare import Comparison, MetricComparison, Sides
from warehouse.comparison.ratio import Ratio
from warehouse.comparison.selection import Campaign
from warehouse.comparison.words import (
    change_with_interval,
    counts,
    differing,
    figures,
    footnotes,
    name_of,
    other_work,
    title,
    verdict,
)
from warehouse.plain_text import clipped, printable
from warehouse.report.labels import labels_of

Row = dict[str, Any]

MOST_PAIRS = 40
"""Pairs of campaigns that are shown."""
SHOWN, NOT_SHOWN, CONFOUNDED = "difference shown", "no difference shown", "GPU confounded"
PAIRED, WELCH = "pairs of one block", "independent groups (Welch)"
# Of these more is better, so the pairs in which B has most come first.
_MORE = ("_per_second", "_per_joule", "goodput_fraction")
_FARTHEST = 3.0
"""How far beyond the ratios an axis reaches for their intervals (1)."""


@dataclass(frozen=True)
class Pair:
    """Two campaigns in words, each line as `warehouse compare` prints it.

    Attributes:
        verdicts: of the metrics that are drawn.
        not_comparable: of the others.
    """

    label: str
    a: str
    counts_a: str
    b: str
    counts_b: str
    differing: str | None
    warnings: Sequence[str]
    verdicts: Sequence[str]
    not_comparable: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """Two sides of campaigns.

    Attributes:
        a, b: selectors.
        confidence: of the intervals (1).
        campaign_ids: of both sides, also those without a counterpart.
        metrics: names of those that some pair has, in the order that was asked for.
        pairs: the first ones, by the ratio of `order`.
        n_pairs: how many there are.
        ratios: a row for each metric of each of `pairs` that can be compared.
    """

    a: str
    b: str
    confidence: float
    campaign_ids: frozenset[str]
    metrics: Sequence[str]
    order: str
    pairs: Sequence[Pair]
    n_pairs: int
    ratios: Sequence[Row]
    footnotes: Sequence[str]

    @property
    def level(self) -> str:
        return f"{100 * self.confidence:g} % interval"


def compared_sides(found: Sides, a: str, b: str, confidence: float, *, include_all: bool) -> Compared:
    """All of it for a page: the pairs in which B does best by the first metric come first."""
    first = found.comparisons[0].metrics[0].metric
    most = first.endswith(_MORE)
    ordered = sorted(found.comparisons, key=lambda one: _place(one.metrics[0], most))[:MOST_PAIRS]
    names = [one.metric for one in found.comparisons[0].metrics]
    drawn = [name for name in names if any(_comparable(one, name, confidence) for one in ordered)]
    ratios = []
    for at, (one, label) in enumerate(zip(ordered, _labels(ordered), strict=True)):
        for compared in one.metrics:
            ratio, interval = compared.ratio, compared.ratio.interval(confidence) if compared.ratio else None
            if ratio is not None and interval is not None:
                place = {"pair": at, "pair_rank": at + 1, "pair_label": label, "at": drawn.index(compared.metric)}
                ratios.append(place | _row(compared, ratio, interval, confidence))
    return Compared(
        a=clipped(a),
        b=clipped(b),
        confidence=confidence,
        campaign_ids=frozenset(
            [campaign.id for one in found.comparisons for campaign in (one.a, one.b)]
            + [campaign.id for campaign in (*found.alone_a, *found.alone_b)]
        ),
        metrics=[name_of(metric) for metric in drawn],
        order=f"{name_of(first)} B/A, {'highest' if most else 'lowest'} first",
        pairs=[
            _pair(found, one, label, confidence, include_all)
            for one, label in zip(ordered, _labels(ordered), strict=True)
        ],
        n_pairs=len(found.comparisons),
        ratios=ratios,
        footnotes=[printable(note) for note in footnotes(found)],
    )


def domain(ratios: Sequence[Row]) -> tuple[float, float]:
    """Ends of an axis that holds every ratio and 1, and intervals as far as the ratios stay readable beside them."""
    values = [row["ratio"] for row in ratios] + [1.0]
    low = max(min(row["lo"] for row in ratios), min(values) / _FARTHEST)
    high = min(max(row["hi"] for row in ratios), max(values) * _FARTHEST)
    low, high = min(low, 0.98), max(high, 1.02)
    margin = (high / low) ** 0.04
    return low / margin, high * margin


def is_cut(ratios: Sequence[Row]) -> bool:
    """Whether an interval reaches beyond `domain`."""
    low, high = domain(ratios)
    return any(row["lo"] < low or row["hi"] > high for row in ratios)


def _place(compared: MetricComparison, most: bool) -> tuple[bool, float]:
    ratio = compared.ratio
    return ratio is None, 0.0 if ratio is None else -ratio.log_ratio if most else ratio.log_ratio


def _comparable(one: Comparison, metric: str, confidence: float) -> bool:
    found = next(compared for compared in one.metrics if compared.metric == metric)
    return found.ratio is not None and found.ratio.interval(confidence) is not None


def _row(compared: MetricComparison, ratio: Ratio, interval: tuple[float, float], confidence: float) -> Row:
    _, mean_a, mean_b, factor, bounds, detectable, units = figures(compared, ratio, confidence)
    change = change_with_interval(ratio.value, interval, ratio.detectable(confidence) or 0.0)
    name = name_of(compared.metric)
    return {
        "metric": name,
        "column": compared.metric,
        "ratio": _drawn(ratio.value),
        "lo": _drawn(interval[0]),
        "hi": _drawn(interval[1]),
        "factor": factor,
        "interval": bounds,
        "change": change,
        "line": f"{name} · {change}",
        "detectable": detectable,
        "method": PAIRED if ratio.method == "paired" else WELCH,
        "units": units,
        "mean_a": mean_a,
        "mean_b": mean_b,
        "outcome": _outcome(compared, ratio, interval),
        "verdict": printable(verdict(compared, confidence)),
    }


def _outcome(compared: MetricComparison, ratio: Ratio, interval: tuple[float, float]) -> str:
    if compared.confounded:
        return CONFOUNDED
    return NOT_SHOWN if ratio.value == 1.0 or interval[0] <= 1.0 <= interval[1] else SHOWN


def _drawn(value: float) -> float:
    """What an axis of ratios can bear: two cycles can give an interval without end."""
    return min(max(value, 1e-9), 1e9) if math.isfinite(value) else 1e9


def _pair(found: Sides, one: Comparison, label: str, confidence: float, include_all: bool) -> Pair:
    drawn = [compared for compared in one.metrics if _comparable(one, compared.metric, confidence)]
    others = [compared for compared in one.metrics if compared not in drawn]
    return Pair(
        label,
        printable(title(one.a)),
        counts(one.a, one.n_a, found.n_failed(one.a), include_all),
        printable(title(one.b)),
        counts(one.b, one.n_b, found.n_failed(one.b), include_all),
        printable(differing(one)) if one.different else None,
        [printable(line) for line in other_work(one)],
        [printable(verdict(compared, confidence)) for compared in drawn],
        [printable(verdict(compared, confidence)) for compared in others],
    )


def _labels(pairs: Sequence[Comparison]) -> list[str]:
    """Of each pair what both of its campaigns are and other pairs are not."""
    labels = labels_of([_common(one.a, one.b) for one in pairs])
    return [label or "A and B" for label in labels]


def _common(a: Campaign, b: Campaign) -> Row:
    of_a, of_b = _settings(a), _settings(b)
    return {name: value if value == of_b[name] else None for name, value in of_a.items()} | {"id": a.id[:8]}


def _settings(campaign: Campaign) -> Row:
    hardware, count = campaign.get("hardware"), campaign.get("gpu_count")
    return {
        "model": campaign.get("model"),
        "backend": campaign.get("backend"),
        "batch": campaign.get("batch_size"),
        "dtype": campaign.get("dtype"),
        "processes": campaign.get("num_processes"),
        "hardware": f"{hardware} x{count}" if hardware and count else hardware,
        "study": campaign.get("study"),
        "simulated": campaign.get("is_simulated"),
        "experiment": campaign.get("experiment"),
        "driver": campaign.get("driver_version"),
        "image": campaign.get("image"),
        "limit": campaign.get("power_limits_w"),
        "commit": campaign.get("model_commit"),
        "hash": (campaign.get("measurement_config_hash") or "")[:8] or None,
    }
