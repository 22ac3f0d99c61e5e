"""What a comparison says, in words and figures: everywhere the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from warehouse.comparison.gate import MIN_CYCLES, Decision
from warehouse.comparison.ratio import POWER, Ratio
from warehouse.comparison.selection import Campaign, listed, shown
from warehouse.numerals import counted, magnitude, number

if TYPE_CHECKING:
    from warehouse.compare import Comparison, MetricComparison, Sides

Unit = Literal["%", "times"]

NOT_MEASURED = "-"
WHERE_MEASURED = {
    "energy": "on NVIDIA GPUs",
    "itl": "where every token has its time (vllm.token_times, trt.token_times)",
}
"""Of what is not measured everywhere."""
SIMULATED_NOTE = "Energy on simulated GPUs proves nothing."
_SHOWN_DIFFERENCES = 6
_MANY_TIMES = 10.995
"""B / A (1) from which on a change is told as a factor: one of 1000 %, rounded, which nobody imagines."""
_MOST = 100_000_000
"""Of a factor or percents; beyond it digits say nothing."""
_LEAST = 0.001
"""Of a factor."""
NAMES = {
    "energy_per_output_token_j": "energy per output token",
    "avg_energy_per_token_j": "energy per token",
    "total_energy_j": "energy",
    "mean_power_w": "mean power",
    "output_tokens_per_second": "output tokens/s",
    "total_tokens_per_second": "total tokens/s",
    "goodput_requests_per_second": "goodput",
    "total_inference_time_sec": "time",
} | {
    f"{time}_{part}": f"{name} {words}"
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
"""What people call a column, in tables, charts and sentences alike; the others are called as they are."""
_UNITS = {"_j": "J", "_w": "W", "_ms": "ms", "_sec": "s", "_requests_per_second": "requests/s"}
"""By how a column ends; where a name says it already, there is none."""
# Of less, of more and of many times as much.
_MUCH = ("less", "more", "as much")
_MANY = ("fewer", "more", "as many")
_LONG = ("shorter", "longer", "as long")
_HIGH = ("lower", "higher", "as high")
# How a sentence about B begins, what it says, and how it ends; otherwise the metric by both of its names.
_SENTENCES = {
    "energy_per_output_token_j": ("B uses", _MUCH, " energy per output token"),
    "avg_energy_per_token_j": ("B uses", _MUCH, " energy per token"),
    "total_energy_j": ("B uses", _MUCH, " energy"),
    "output_tokens_per_second": ("B gives", _MANY, " output tokens/s"),
    "total_tokens_per_second": ("B handles", _MANY, " tokens/s"),
    "ttft_mean_ms": ("B's mean TTFT is", _LONG, ""),
    "itl_mean_ms": ("B's mean ITL is", _LONG, ""),
    "tpot_mean_ms": ("B's mean TPOT is", _LONG, ""),
    "goodput_requests_per_second": ("B has", _MUCH, " goodput"),
    "total_inference_time_sec": ("B takes", _MUCH, " time"),
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
    return f"{NAMES[metric]} ({unit})" if metric in NAMES and unit else name_of(metric)


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
        _detectable(detectable, interval) if interval and detectable is not None else NOT_MEASURED,
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
        size = _detectable(detectable, interval)
        return (
            f"{metric}: no difference that {units} could have shown: it would have had to be "
            f"{size}{' as much' if size.endswith('times') else ''} "
            f"({level} {_span(lower, upper, beside=1 + detectable)}).{aside}"
        )
    if ratio.value == 1.0:
        return f"{metric}: no difference, every cycle is the same.{aside}"
    begin, (less, more, as_much), end = _SENTENCES.get(compared.metric, (f"B's {metric} is", _HIGH, ""))
    sign = -1.0 if ratio.value < 1.0 else 1.0
    (amount, *bounds), unit = changes(ratio.value, *interval, sign=sign)
    how = as_much if unit == "times" else less if ratio.value < 1.0 else more
    first, last = bounds if sign > 0 else reversed(bounds)
    return f"{begin} {amount} {unit} {how}{end}, {level} {first} to {last} {unit}.{aside}"


def gate_line(decision: Decision) -> str:
    """What became of one --fail-if."""
    level = f"{100 * decision.confidence:.4g} % interval"
    at = ""
    if decision.interval is not None:
        at = f", {level} {_span(*decision.interval)}"
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


def changes(*ratios: float, sign: float = 1.0, beside: float = 1.0) -> tuple[list[str], Unit]:
    """Changes that are told together, all in one measure: percent, or where one of them is 1000 % or more, how many
    times as much.

    With as many decimals of percent as two digits of the smallest take, or of what is left of A, so that no bound is
    rounded away, nor to all of A.

    Args:
        ratios: B / A (1).
        sign: -1 tells of how much less.
        beside: B / A (1) of another statement that theirs stands beside.
    """
    if max(*ratios, beside) >= _MANY_TIMES:
        return [_times(ratio) for ratio in ratios], "times"
    # What is left of 0.9 as a binary number is no reason for another decimal.
    percents = [round(sign * 100 * (ratio - 1.0), 9) for ratio in ratios]
    sizes = [abs(percent) for percent in (*percents, *(100 * ratio for ratio in ratios)) if percent]
    decimals = min(max(0, 1 - magnitude(min(sizes))), 3) if sizes else 0
    # What rounds to nothing has no sign.
    return [number(round(percent, decimals) + 0.0, decimals) for percent in percents], "%"


def change_with_interval(value: float, interval: tuple[float, float], detectable: float) -> str:
    """In short: "+12 % (-3 % to +29 %)", or "3.6 times (0.11 to 117 times)"."""
    beside = 1 + detectable if interval[0] <= 1.0 <= interval[1] else 1.0
    (change, lower, upper), unit = changes(value, *interval, beside=beside)
    if unit == "times":
        return f"{change} times ({lower} to {upper} times)"
    return f"{_signed(change)} % ({_signed(lower)} % to {_signed(upper)} %)"


def _detectable(detectable: float, interval: tuple[float, float]) -> str:
    (size,), unit = changes(1 + detectable, beside=interval[1])
    return f"{size} {unit}"


def _span(lower: float, upper: float, beside: float = 1.0) -> str:
    """Each bound with digits of its own."""
    ((low,), unit), ((high,), _) = (changes(end, beside=max(lower, upper, beside)) for end in (lower, upper))
    return f"{low} to {high} times" if unit == "times" else f"{_signed(low)} % to {_signed(high)} %"


def _signed(percent: str) -> str:
    return percent if percent.startswith("-") or not percent.strip("0.") else f"+{percent}"


def _times(ratio: float) -> str:
    """Three digits of a factor, two of a small one; never with an exponent."""
    if ratio < _LEAST:
        return f"<{_LEAST}"
    text = _plain(ratio, 3) if ratio >= 1 else number(ratio, 1 - magnitude(ratio))
    return text.rstrip("0").rstrip(".") if "." in text else text


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
