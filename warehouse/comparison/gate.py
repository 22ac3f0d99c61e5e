"""Conditions on a comparison, such as ``energy_per_output_token_j > +3%``, and whether they are met."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from warehouse.comparison.ratio import Ratio
from warehouse.comparison.selection import quoted, shown
from warehouse.errors import WarehouseError
from warehouse.numerals import counted

MIN_CYCLES = 3
"""Fewer pairs (of independent groups: fewer cycles on a side) decide nothing."""

_MOST_PERCENT = 100_000.0
"""A thousandfold: beyond that it is a slip, and a limit that no double holds would let everything pass."""

Outcome = Literal["regressed", "within", "inconclusive"]

_CONDITION = re.compile(r"\s*(?P<metric>[a-z]\w*)\s*(?P<sign>[<>])\s*(?P<percent>[+-]?\d+(\.\d*)?)\s*%\s*", re.ASCII)


@dataclass(frozen=True)
class Condition:
    """The gate fails if `metric` goes beyond `limit`.

    Attributes:
        rising: worse is more: beyond means above.
        limit: B / A (1); 1.03 is "+3%".
        text: as it was given, clipped.
    """

    metric: str
    rising: bool
    limit: float
    text: str


@dataclass(frozen=True)
class Decision:
    """What one condition came to.

    Attributes:
        interval: of B / A at the gate's own level (1); None if there is none.
        confidence: that level.
        reason: why it is inconclusive, None if it is not.
    """

    condition: Condition
    outcome: Outcome
    interval: tuple[float, float] | None
    confidence: float
    reason: str | None


def parse_condition(text: str) -> Condition:
    """``METRIC > +3%``: worse if it rises by more than 3 %; ``METRIC < -3%``: worse if it falls by more than 3 %.

    Raises:
        WarehouseError: it is written otherwise, or no metric could meet it.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise WarehouseError(
            f"--fail-if {quoted(text)} is not a condition. Write a metric, > or <, and a percentage, such as "
            '"energy_per_output_token_j > +3%" or "output_tokens_per_second < -3%".',
            2,
        )
    percent = float(found["percent"])
    if percent > _MOST_PERCENT:
        raise WarehouseError(f"--fail-if {quoted(text)}: give at most {_MOST_PERCENT:.0f} %.", 2)
    limit = 1.0 + percent / 100.0
    if limit <= 0:
        raise WarehouseError(
            f"--fail-if {quoted(text)}: nothing can fall by 100 % or more. Give a smaller percentage.", 2
        )
    return Condition(found["metric"], found["sign"] == ">", limit, shown(" ".join(text.split())))


def gate_confidence(n_decisions: int, confidence: float = 0.95) -> float:
    """Level of each interval, so that all decisions together raise a false alarm as seldom as one at `confidence`.

    Bonferroni's inequality: O. J. Dunn (1961), Multiple comparisons among means, Journal of the American Statistical
    Association 56, 52-64.
    """
    return 1.0 - (1.0 - confidence) / max(n_decisions, 1)


def decide(condition: Condition, ratio: Ratio | None, confounded: str | None, confidence: float) -> Decision:
    """Regressed: the interval lies wholly beyond the limit; within: wholly on this side of it; else inconclusive.

    Confounded is never within, because the GPUs' difference may hide B's. It can be regressed: other GPUs would
    otherwise be a way around the gate.

    Args:
        ratio: None if the metric cannot be compared.
        confounded: why the difference may be the GPUs'; None if it cannot.
        confidence: `gate_confidence`.
    """
    interval = ratio.interval(confidence) if ratio is not None else None
    outcome, reason = _judged(condition, ratio, interval, confounded)
    return Decision(condition, outcome, interval, confidence, reason)


def _judged(
    condition: Condition, ratio: Ratio | None, interval: tuple[float, float] | None, confounded: str | None
) -> tuple[Outcome, str | None]:
    if ratio is None:
        return "inconclusive", f"{condition.metric} cannot be compared"
    if interval is None or ratio.n < MIN_CYCLES:
        units = "pair" if ratio.method == "paired" else "cycle"
        side = "" if ratio.method == "paired" else " on a side"
        few = f"{counted(ratio.n, units)}{side}"
        return "inconclusive", f"{few}; at least {MIN_CYCLES} are needed"
    lower, upper = interval
    if lower > condition.limit if condition.rising else upper < condition.limit:
        return "regressed", None
    if upper <= condition.limit if condition.rising else lower >= condition.limit:
        return ("inconclusive", confounded) if confounded else ("within", None)
    return "inconclusive", "the interval holds the limit: run more cycles"


def exit_code(decisions: Sequence[Decision], *, strict: bool) -> int:
    """1 if any regressed, else 3 if `strict` and any is inconclusive, else 0."""
    outcomes = {decision.outcome for decision in decisions}
    if "regressed" in outcomes:
        return 1
    return 3 if strict and "inconclusive" in outcomes else 0
