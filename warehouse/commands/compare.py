"""``warehouse compare``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warehouse.commands import options
from warehouse.commands.standard_output import PipedConsole
from warehouse.commands.typeset import TYPESET, Typeset, typeset, typeset_notes
from warehouse.compare import Comparison, MetricComparison, Sides, compare
from warehouse.comparison.gate import MIN_CYCLES, Decision, exit_code, parse_condition
from warehouse.comparison.ratio import POWER, Ratio
from warehouse.comparison.selection import Campaign, listed, shown
from warehouse.database import reading

NOT_MEASURED = "-"
_WIDTH_OF_A_FILE = 110
_SHOWN_DIFFERENCES = 6
# What is said of less and of more; otherwise the metric by its name.
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


@click.command("compare")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.database
@options.wait
@click.option("--study", metavar="NAME", help="Only campaigns of this study, on both sides.")
@click.option("--metric", "metrics", multiple=True, metavar="COLUMN", help="Compare this column of runs; repeatable.")
@click.option(
    "--fail-if",
    "limits",
    multiple=True,
    metavar="CONDITION",
    help='Exit 1 if met, such as "output_tokens_per_second < -3%", or where there is energy '
    '"energy_per_output_token_j > +3%"; repeatable.',
)
@click.option("--strict-gate", is_flag=True, help="Exit 3 if a condition could not be decided.")
@click.option(
    "--confidence",
    type=options.Number(min=0.5, max=0.9999),
    default=0.95,
    show_default=True,
    help="Of the intervals, and of all conditions together.",
)
@click.option("--all", "include_all", is_flag=True, help="Let invalid runs and simulated GPUs count, too.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", *TYPESET]),
    default="table",
    show_default=True,
    help="markdown, latex (with booktabs): one table each, with the verdicts.",
)
def command(
    a: str,
    b: str,
    database: Path,
    wait_s: float,
    study: str | None,
    metrics: tuple[str, ...],
    limits: tuple[str, ...],
    strict_gate: bool,
    confidence: float,
    include_all: bool,
    style: Literal["table", "json"] | Typeset,
) -> int:
    """Say by how much B differs from A, and what could have been seen.

    A and B are each a campaign_id (or its first 6 digits), a study, an experiment, a backend, a
    measurement_config_hash, or column=value[,column=value] with columns of campaign_groups and
    config.PATH. Where a side is several campaigns, each is compared with the one of the other side
    that differs in nothing but what A and B name.

    Cycles of one block on the same GPUs are compared in pairs, others as independent groups. Exit
    code: 0, 1 if a --fail-if is met beyond doubt, 3 with --strict-gate if one is undecided, as it is
    where a campaign of A has no counterpart in B.
    """
    conditions = [parse_condition(limit) for limit in limits]
    with reading(database, wait_s) as connection:
        found = compare(
            connection,
            a,
            b,
            study=study,
            metrics=metrics,
            conditions=conditions,
            confidence=confidence,
            include_all=include_all,
        )
    if style == "json":
        click.echo(json.dumps(_as_json(found, confidence), indent=1, allow_nan=False, default=str))
    elif style == "table":
        _print(found, confidence, include_all)
    else:
        for text in _typeset(found, confidence, include_all, style):
            click.echo(text)
    return exit_code(found.decisions, strict=strict_gate)


def _print(found: Sides, confidence: float, include_all: bool) -> None:
    console = PipedConsole(_WIDTH_OF_A_FILE)
    for one in found.comparisons:
        for line in _heading(found, one, include_all):
            console.print(Text(line))
        _print_figures(console, one, confidence)
        for metric in one.metrics:
            console.print(Text(verdict(metric, confidence)))
        for decision in one.decisions:
            console.print(Text(_gate_line(decision)))
        console.print()
    for decision in found.undecided:
        console.print(Text(_gate_line(decision)))
    for note in _footnotes(found):
        console.print(Text(note))


def _typeset(found: Sides, confidence: float, include_all: bool, style: Typeset) -> Iterator[str]:
    for one in found.comparisons:
        rows = [
            _figures(metric, metric.ratio, confidence)
            if metric.ratio is not None
            else [metric.metric, *[NOT_MEASURED] * 6]
            for metric in one.metrics
        ]
        notes = [*_heading(found, one, include_all), *(verdict(metric, confidence) for metric in one.metrics)]
        notes += [_gate_line(decision) for decision in one.decisions]
        yield typeset(style, _columns(confidence), rows, notes) + "\n"
    notes = [*(_gate_line(decision) for decision in found.undecided), *_footnotes(found)]
    yield typeset_notes(style, notes)


def _columns(confidence: float) -> tuple[str, ...]:
    return ("metric", "A", "B", "B/A", f"{100 * confidence:g} % interval", "detectable", "from")


def _heading(found: Sides, one: Comparison, include_all: bool) -> Iterator[str]:
    for side, campaign, n_cycles in (("A", one.a, one.n_a), ("B", one.b, one.n_b)):
        yield f"{side}  {_title(campaign)}"
        yield f"   {_counts(campaign, n_cycles, found.n_failed(campaign), include_all)}"
    if one.different:
        yield f"they differ in {listed(one.different, _SHOWN_DIFFERENCES)}"
    if one.different_prompts:
        yield "different_prompts: the prompts of A and B are not the same. They did not do the same work."
    if one.different_output_length:
        yield (
            f"different_output_length: {one.output_length_a:.1f} output tokens per request in A, "
            f"{one.output_length_b:.1f} in B. They did not do the same work; see workload.ignore_eos."
        )


def _title(campaign: Campaign) -> str:
    columns = campaign.columns
    parts = [campaign.id[:8]]
    parts += [f"{name} {shown(columns[name])}" for name in ("study", "experiment") if columns.get(name) is not None]
    parts += [shown(columns[name]) for name in ("backend", "model") if columns.get(name) is not None]
    parts += [f"batch {columns['batch_size']}"] if columns.get("batch_size") is not None else []
    count = columns.get("gpu_count")
    parts.append(f"{shown(columns.get('hardware'))}{f' x{count}' if count else ''}")
    return "  ".join(parts)


def _counts(campaign: Campaign, n_cycles: int, n_failed: int, include_all: bool) -> str:
    """Cycles, and beside them what did not become one: five survivors are not five of five."""
    n_invalid, n_superseded = (campaign.columns[name] for name in ("n_invalid", "n_superseded"))
    invalid = f"{n_invalid} invalid{(' counted' if include_all else ' left out') if n_invalid else ''}"
    notes = [invalid, f"{n_failed} failed"] + ([f"{n_superseded} replaced by newer runs"] if n_superseded else [])
    return f"{_plural(n_cycles, 'cycle')} ({', '.join(notes)})"


def _print_figures(console: Console, one: Comparison, confidence: float) -> None:
    shown = [metric for metric in one.metrics if metric.ratio is not None]
    if not shown:
        return
    names = _columns(confidence)
    rows = [_figures(metric, metric.ratio, confidence) for metric in shown if metric.ratio is not None]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
        console.print(table)
        return
    for row in rows:  # a figure is never cut
        console.print(Text(f" {row[0]}"))
        for name, figure in zip(names[1:], row[1:], strict=True):
            console.print(Text(f"     {name:<16} {figure}"))
    console.print()


def _figures(metric: MetricComparison, ratio: Ratio, confidence: float) -> list[str]:
    interval, detectable = ratio.interval(confidence), ratio.detectable(confidence)
    units = f"{_plural(ratio.n_a, 'pair')}" if ratio.method == "paired" else f"{ratio.n_a} and {ratio.n_b} cycles"
    return [
        metric.metric,
        _number(metric.mean_a),
        _number(metric.mean_b),
        _factor(ratio.value),
        f"[{_factor(interval[0])}, {_factor(interval[1])}]" if interval else NOT_MEASURED,
        _percent(detectable) if detectable is not None else NOT_MEASURED,
        units,
    ]


def verdict(compared: MetricComparison, confidence: float) -> str:
    """One metric in a sentence."""
    metric, ratio = compared.metric, compared.ratio
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
        units = _plural(ratio.n, "pair" if ratio.method == "paired" else "cycle")
        return (
            f"{metric}: no difference that {units} could have shown: it would have had to be {_percent(detectable)} "
            f"({level} {_percent(lower - 1, signed=True)} to {_percent(upper - 1, signed=True)}).{aside}"
        )
    if ratio.value == 1.0:
        return f"{metric}: no difference, every cycle is the same.{aside}"
    less, more = _WORDS.get(metric, (f"B's {metric} is {{}} lower", f"B's {metric} is {{}} higher"))
    words, sign = (less, -1.0) if ratio.value < 1.0 else (more, 1.0)
    ends = sorted(sign * (end - 1.0) for end in interval)
    amount, *bounds = _percents(sign * (ratio.value - 1.0), *ends)
    return f"{words.format(f'{amount} %')}, {level} {bounds[0]} to {bounds[1]} %.{aside}"


def _gate_line(decision: Decision) -> str:
    level = f"{100 * decision.confidence:.4g} % interval"
    at = ""
    if decision.interval is not None:
        lower, upper = decision.interval
        at = f", {level} {_percent(lower - 1, signed=True)} to {_percent(upper - 1, signed=True)}"
    reason = f" ({decision.reason})" if decision.reason else ""
    return f"gate: {decision.outcome}: {decision.condition.text}{at}{reason}"


def _footnotes(found: Sides) -> Iterator[str]:
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


def _as_json(found: Sides, confidence: float) -> dict[str, Any]:
    return {
        "comparisons": [_comparison_json(found, one, confidence) for one in found.comparisons],
        "without_counterpart_a": [campaign.id for campaign in found.alone_a],
        "without_counterpart_b": [campaign.id for campaign in found.alone_b],
        "gate_without_counterpart": [_decision_json(decision) for decision in found.undecided],
    }


def _comparison_json(found: Sides, one: Comparison, confidence: float) -> dict[str, Any]:
    return {
        "a": _side(one.a, one.n_a, found.n_failed(one.a), one.output_length_a),
        "b": _side(one.b, one.n_b, found.n_failed(one.b), one.output_length_b),
        "different": list(one.different),
        "different_prompts": one.different_prompts,
        "different_output_length": one.different_output_length,
        "metrics": [_metric_json(metric, confidence) for metric in one.metrics],
        "gate": [_decision_json(decision) for decision in one.decisions],
    }


def _decision_json(decision: Decision) -> dict[str, Any]:
    return {
        "condition": decision.condition.text,
        "outcome": decision.outcome,
        "reason": decision.reason,
        "confidence": decision.confidence,
        "lower": _finite(decision.interval[0]) if decision.interval else None,
        "upper": _finite(decision.interval[1]) if decision.interval else None,
    }


def _side(campaign: Campaign, n_cycles: int, n_failed: int, output_length: float | None) -> dict[str, Any]:
    return {
        "campaign_id": campaign.id,
        **{name: campaign.columns.get(name) for name in ("study", "experiment", "measurement_config_hash", "backend")},
        "hardware": campaign.columns.get("hardware"),
        "n_cycles": n_cycles,
        "n_failed": n_failed,
        "n_invalid": campaign.columns.get("n_invalid"),
        "n_superseded": campaign.columns.get("n_superseded"),
        "output_tokens_per_request": output_length,
    }


def _metric_json(compared: MetricComparison, confidence: float) -> dict[str, Any]:
    ratio = compared.ratio
    interval = ratio.interval(confidence) if ratio else None
    return {
        "metric": compared.metric,
        "mean_a": compared.mean_a,
        "mean_b": compared.mean_b,
        "method": ratio.method if ratio else None,
        "n_a": ratio.n_a if ratio else None,
        "n_b": ratio.n_b if ratio else None,
        "ratio": _finite(ratio.value) if ratio else None,
        "confidence": confidence,
        "lower": _finite(interval[0]) if interval else None,
        "upper": _finite(interval[1]) if interval else None,
        "smallest_detectable": _finite(ratio.detectable(confidence)) if ratio else None,
        "confounded": compared.confounded,
        "problem": compared.problem,
        "verdict": verdict(compared, confidence),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _percents(*parts: float) -> list[str]:
    """With as many decimals as two digits of the smallest take, so that no bound is rounded away."""
    sizes = [abs(100 * part) for part in parts if part and math.isfinite(part)]
    decimals = min(max(0, 1 - math.floor(math.log10(min(sizes)))), 3) if sizes else 0
    return [f"{100 * part:,.{decimals}f}" if part < 100 else f"{100 * part:.3g}" for part in parts]


def _percent(part: float, *, signed: bool = False) -> str:
    (text,) = _percents(part)
    return f"{'+' if signed and part > 0 else ''}{text} %"


def _factor(value: float) -> str:
    return f"{value:.4f}" if value < 100 else f"{value:.4g}"


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _plural(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"
