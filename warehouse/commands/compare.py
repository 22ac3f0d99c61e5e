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
from warehouse.compare import Comparison, MetricComparison, Sides, compare
from warehouse.comparison.gate import Decision, exit_code, parse_condition
from warehouse.comparison.selection import Campaign
from warehouse.comparison.words import (
    NOT_MEASURED,
    figures,
    footnotes,
    gate_line,
    heading,
    verdict,
    who_is_who,
    with_unit,
)
from warehouse.database import reading
from warehouse.typeset import TYPESET, Typeset, typeset, typeset_notes

_WIDTH_OF_A_FILE = 110


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
        for line in heading(found, one, include_all):
            console.print(Text(line))
        _print_figures(console, one, confidence)
        for metric in one.metrics:
            console.print(Text(verdict(metric, confidence)))
        for decision in one.decisions:
            console.print(Text(gate_line(decision)))
        console.print()
    for decision in found.undecided:
        console.print(Text(gate_line(decision)))
    for note in footnotes(found):
        console.print(Text(note))


def _typeset(found: Sides, confidence: float, include_all: bool, style: Typeset) -> Iterator[str]:
    for one in found.comparisons:
        rows = [
            [
                with_unit(metric.metric),
                *(figures(metric, metric.ratio, confidence)[1:] if metric.ratio is not None else [NOT_MEASURED] * 6),
            ]
            for metric in one.metrics
        ]
        notes = [verdict(metric, confidence) for metric in one.metrics]
        notes += [gate_line(decision) for decision in one.decisions]
        above = list(who_is_who(found, one, include_all))
        yield typeset(style, _columns(confidence), rows, notes, above=above) + "\n"
    notes = [*(gate_line(decision) for decision in found.undecided), *footnotes(found)]
    yield typeset_notes(style, notes)


def _columns(confidence: float) -> tuple[str, ...]:
    return ("metric", "A", "B", "B/A", f"{100 * confidence:g} % interval", "detectable", "from")


def _print_figures(console: Console, one: Comparison, confidence: float) -> None:
    shown = [metric for metric in one.metrics if metric.ratio is not None]
    if not shown:
        return
    names = _columns(confidence)
    rows = [figures(metric, metric.ratio, confidence) for metric in shown if metric.ratio is not None]
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
        "is_simulated": bool(campaign.columns.get("is_simulated")),
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
