"""What a comparison says, in words and figures: everywhere the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from warehouse.comparison.gate import MIN_CYCLES, Decision
from warehouse.comparison.ratio import POWER, Ratio
from warehouse.comparison.selection import Campaign, listed, shown
from warehouse.numerals import counted, magnitude

if TYPE_CHECKING:
    from warehouse.compare import Comparison, MetricComparison, Sides

NOT_MEASURED = "-"
WHERE_MEASURED = {
    "energy": "on NVIDIA GPUs",
    "itl": "where every token has its time (vllm.token_times, trt.token_times)",
}
"""Of what is not measured everywhere."""
SIMULATED_NOTE = "Energy on simulated GPUs proves nothing."
_SHOWN_DIFFERENCES = 6
_MANY_TIMES = 10.0
"""Change (1) from which on it is told as a factor."""
_MOST = 100_000_000
"""Of a factor or percents; beyond it digits say nothing."""
NAMES = {
    "energy_per_output_token_j": "energy per output token",
    "avg_energy_per_token_j": "energy per token",
    "total_energy_j": "energy",
    "mean_power_w": "mean power",
    "output_tokens_per_second": "output tokens per second",
    "total_tokens_per_second": "all tokens per second",
    "goodput_requests_per_second": "goodput",
    "total_inference_time_sec": "time",
} | {
    f"{time}_{part}": f"{name}, {words}"
    for time, name in (
        ("ttft", "TTFT"),
        ("itl", "ITL"),
        ("tpot", "TPOT"),
        ("e2e", "end-to-end latency"),
    )
    for part, words in (
        ("mean_ms", "mean"),
        ("p50_ms", "median"),
        ("p95_ms", "95th percentile"),
        ("p99_ms", "99th percentile"),
    )
}
"""What people call a column that is compared; the others are called as they are."""
_UNITS = {"_j": "J", "_w": "W", "_ms": "ms", "_sec": "s", "_requests_per_second": "requests/s"}
"""By how a column ends; where a name says it already, there is none."""
# What is said of less and of more; otherwise the metric by both of its names.
_WORDS = {
    "energy_per_output_token_j": ("B uses {} less energy per output token", "B uses {} more energy per output token"),
    "avg_energy_per_token_j": ("B uses {} less energy per token", "B uses {} more energy per token"),
    "total_energy_j": ("B uses {} less energy", "B uses {} more energy"),
    "output_tokens_per_second": ("B gives {} fewer output tokens/s", "B gives {} more output tokens/s"),
    "total_tokens_per_second": ("B handles {} fewer tokens/s", "B handles {} more tokens/s"),
    "ttft_mean_ms": ("B's mean TTFT is {} shorter", "B's mean TTFT is {} longer"),
    "itl_mean_ms": ("B's mean ITL is {} shorter", "B's mean ITL is {} longer"),
    "tpot_mean_ms": ("B's mean TPOT is {} shorter", "B's mean TPOT is {} longer"),
    "goodput_requests_per_second": ("B has {} less goodput", "B has {} more goodput"),
    "total_inference_time_sec": ("B takes {} less time", "B takes {} more time"),
}


def heading(found: Sides, one: Comparison, include_all: bool) -> Iterator[str]:
    """Which campaigns A and B are, with their counts, and how they differ; a line each."""
    for side, campaign, n_cycles in (("A", one.a, one.n_a), ("B", one.b, one.n_b)):
        yield f"{side}  {title(campaign)}"
        yield f"   {counts(campaign, n_cycles, found.n_failed(campaign), include_all)}"
    yield from _between(one)


def who_is_who(found: Sides, one: Comparison, include_all: bool) -> Iterator[str]:
    """The same for a page, where a line is as long as it takes."""
    for side, campaign, n_cycles in (("A", one.a, one.n_a), ("B", one.b, one.n_b)):
        told = counts(campaign, n_cycles, found.n_failed(campaign), include_all)
        yield f"{side}: {title(campaign, ', ')}; {told}"
    yield from _between(one)


def _between(one: Comparison) -> Iterator[str]:
    if one.different:
        yield differing(one)
    yield from other_work(one)


def title(campaign: Campaign, separator: str = "  ") -> str:
    """What a campaign is called."""
    columns = campaign.columns
    parts = [campaign.id[:8]]
    parts += [f"{name} {shown(columns[name])}" for name in ("study", "experiment") if columns.get(name) is not None]
    parts += [shown(columns[name]) for name in ("backend", "model") if columns.get(name) is not None]
    parts += [f"batch {columns['batch_size']}"] if columns.get("batch_size") is not None else []
    count = columns.get("gpu_count")
    parts.append(f"{shown(columns.get('hardware'))}{f' x{count}' if count else ''}")
    parts += ["simulated"] if columns.get("is_simulated") else []
    return separator.join(parts)


def counts(campaign: Campaign, n_cycles: int, n_failed: int, include_all: bool) -> str:
    """Cycles, and beside them what did not become one: five survivors are not five of five."""
    n_invalid, n_superseded = (campaign.columns[name] for name in ("n_invalid", "n_superseded"))
    invalid = f"{n_invalid} invalid{(' counted' if include_all else ' left out') if n_invalid else ''}"
    notes = [invalid, f"{n_failed} failed"] + ([f"{n_superseded} replaced by newer runs"] if n_superseded else [])
    return f"{counted(n_cycles, 'cycle')} ({', '.join(notes)})"


def differing(one: Comparison) -> str:
    """What two campaigns differ in."""
    return f"they differ in {listed(one.different, _SHOWN_DIFFERENCES)}"


def other_work(one: Comparison) -> Iterator[str]:
    """Why B's work is not A's."""
    if one.different_prompts:
        yield "different_prompts: the prompts of A and B are not the same. They did not do the same work."
    if one.different_output_length:
        yield (
            f"different_output_length: {one.output_length_a:.1f} output tokens per request in A, "
            f"{one.output_length_b:.1f} in B. They did not do the same work; see workload.ignore_eos."
        )


def name_of(metric: str) -> str:
    """As people call it."""
    return NAMES.get(metric, metric)


def with_unit(metric: str) -> str:
    """As people call it, with its unit; a column without a name of its own ends in its unit."""
    unit = next((unit for end, unit in _UNITS.items() if metric.endswith(end)), None)
    name = name_of(metric).replace(", ", " ")
    return f"{name} ({unit})" if metric in NAMES and unit else name


def full_name(metric: str) -> str:
    """The same, with the column that ``--metric`` takes."""
    return f"{NAMES[metric]} ({metric})" if metric in NAMES else metric


def figures(metric: MetricComparison, ratio: Ratio, confidence: float) -> list[str]:
    """Metric, mean of A, of B, B / A, its interval, what could have been seen, and what it is from."""
    interval, detectable = ratio.interval(confidence), ratio.detectable(confidence)
    units = counted(ratio.n_a, "pair") if ratio.method == "paired" else f"{ratio.n_a} and {ratio.n_b} cycles"
    return [
        metric.metric,
        _number(metric.mean_a),
        _number(metric.mean_b),
        _factor(ratio.value),
        f"[{_factor(interval[0])}, {_factor(interval[1])}]" if interval else NOT_MEASURED,
        f"{percents(detectable)[0]} %" if detectable is not None else NOT_MEASURED,
        units,
    ]


def verdict(compared: MetricComparison, confidence: float) -> str:
    """One metric in a sentence."""
    metric, ratio = full_name(compared.metric), compared.ratio
    if ratio is None:
        return f"{metric}: not comparable, {compared.problem}."
    interval, detectable = ratio.interval(confidence), ratio.detectable(confidence)
    aside = f" {compared.confounded}." if compared.confounded else ""
    if interval is None or detectable is None:
        units = "pair" if ratio.method == "paired" else "cycle on a side"
        return f"{metric}: not comparable, one {units} says nothing about the spread; run at least 5.{aside}"
    lower, upper = interval
    level = f"{100 * confidence:g} % interval"
    if lower <= 1.0 <= upper and ratio.standard_error:
        units = counted(ratio.n, "pair" if ratio.method == "paired" else "cycle")
        return (
            f"{metric}: no difference that {units} could have shown: it would have had to be {percent(detectable)} "
            f"({level} {percent(lower - 1, signed=True)} to {percent(upper - 1, signed=True)}).{aside}"
        )
    if ratio.value == 1.0:
        return f"{metric}: no difference, every cycle is the same.{aside}"
    less, more = _WORDS.get(compared.metric, (f"B's {metric} is {{}} lower", f"B's {metric} is {{}} higher"))
    words, sign = (less, -1.0) if ratio.value < 1.0 else (more, 1.0)
    ends = sorted(sign * (end - 1.0) for end in interval)
    amount, *bounds = percents(sign * (ratio.value - 1.0), *ends)
    return f"{words.format(f'{amount} %')}, {level} {bounds[0]} to {bounds[1]} %.{aside}"


def gate_line(decision: Decision) -> str:
    """What became of one --fail-if."""
    level = f"{100 * decision.confidence:.4g} % interval"
    at = ""
    if decision.interval is not None:
        lower, upper = decision.interval
        at = f", {level} {percent(lower - 1, signed=True)} to {percent(upper - 1, signed=True)}"
    reason = f" ({decision.reason})" if decision.reason else ""
    return f"gate: {decision.outcome}: {decision.condition.text}{at}{reason}"


def footnotes(found: Sides) -> Iterator[str]:
    """What holds for all of it."""
    if any(campaign.columns.get("is_simulated") for one in found.comparisons for campaign in (one.a, one.b)):
        yield SIMULATED_NOTE
    for side, alone in (("A", found.alone_a), ("B", found.alone_b)):
        if alone:
            labels = listed([campaign.label() for campaign in alone], _SHOWN_DIFFERENCES)
            yield f"Without a counterpart, of {side}: {labels}."
    ratios = [metric.ratio for one in found.comparisons for metric in one.metrics if metric.ratio is not None]
    if ratios:
        yield (
            "B/A: ratio of geometric means, with Student's t on logarithms. Detectable: the smallest difference that "
            f"as many cycles with this spread show with {100 * POWER:g} % power."
        )
    if any(ratio.method == "welch" for ratio in ratios):
        yield "Groups without a common block are compared as independent (Welch): whatever changed between them counts."
    if any(ratio.n < MIN_CYCLES for ratio in ratios):
        yield f"Fewer than {MIN_CYCLES} pairs or cycles say little about the spread: run at least 5."


def percents(*parts: float) -> list[str]:
    """With as many decimals as two digits of the smallest take, so that no bound is rounded away."""
    sizes = [abs(100 * part) for part in parts if part and math.isfinite(part)]
    decimals = min(max(0, 1 - math.floor(math.log10(min(sizes)))), 3) if sizes else 0
    return [f"{100 * part:,.{decimals}f}" if part < 100 else _plain(100 * part, 3) for part in parts]


def percent(part: float, *, signed: bool = False) -> str:
    """A change of this part (1); nobody imagines 19,100 %, so that from 1000 % on it is how many times as much."""
    if part >= _MANY_TIMES:
        return f"{_plain(1 + part, 3)} times"
    (text,) = percents(part)
    return f"{'+' if signed and part > 0 else ''}{text} %"


def _factor(value: float) -> str:
    return f"{value:.4f}" if value < 100 else _plain(value, 4)


def _plain(value: float, n_digits: int) -> str:
    """So many digits of a number above 1, never with an exponent; two cycles can give a bound without end."""
    if value > _MOST:
        return f">{_MOST:,}"
    return f"{float(f'{value:.{n_digits}g}'):,.{max(0, n_digits - 1 - magnitude(value))}f}"


def _number(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    if 0 < abs(value) < 1e-4:
        return f"{value:.{4 - magnitude(value)}f}".rstrip("0")
    return f"{value:,.5g}" if abs(value) < 99_999.5 else f"{value:,.0f}"
