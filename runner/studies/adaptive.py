"""Adaptive cycles: Stein's two stages, not peeking.

A pilot of n0 blocks gives each experiment's standard deviation s. Then N = ceil((t(.975, n0 - 1) x s / (h x mean))^2)
is computed once, the largest N of all experiments for the whole study. The interval mean(N) +- t(.975, n0 - 1) x s /
sqrt(N), with the pilot's s, covers the true mean in 95 % of studies whatever the variance, because s is independent
of the mean of all N (C. Stein, Annals of Mathematical Statistics 16, 1945).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy.special import stdtrit

from images.contract.scheduling import AdaptiveCycles, PilotEstimate
from runner.studies.settings import Adaptive
from runner.studies.study import Experiment

CONFIDENCE = 0.95


def begin(rule: Adaptive) -> AdaptiveCycles:
    """The record of a study whose pilot is not complete."""
    return AdaptiveCycles(
        metric=rule.metric, half_width=rule.half_width, confidence=CONFIDENCE, min=rule.min, max=rule.max
    )


def second_stage(rule: Adaptive, pilot: Mapping[Experiment, Sequence[float]]) -> AdaptiveCycles:
    """How many blocks the whole study needs.

    Args:
        pilot: each experiment's values of the metric, `rule.min` of them, from complete blocks.

    Returns:
        The rule with n, at least the pilot's and at most `rule.max`; the outcome is "not_reached" where n was cut
        there, "not_measured" (and n the pilot's) where there is no relative precision to reach: the mean is 0.
    """
    estimates = [_estimate(rule, experiment, values) for experiment, values in pilot.items()]
    known = [estimate.n_required for estimate in estimates if estimate is not None]
    record = begin(rule).model_copy(update={"pilot": [estimate for estimate in estimates if estimate is not None]})
    if not known or len(known) < len(estimates):
        return record.model_copy(update={"n": rule.min, "outcome": "not_measured"})
    wanted = max(rule.min, *known)
    return record.model_copy(
        update={"n": min(wanted, rule.max), "outcome": "not_reached" if wanted > rule.max else "running"}
    )


def interval(estimate: PilotEstimate, values: Sequence[float], n_pilot: int) -> tuple[float, float]:
    """Stein's interval of the mean of `values`: those of all blocks, the pilot's first.

    Returns:
        Its lower and upper bound, in the metric's unit.
    """
    half = _quantile(n_pilot) * estimate.s / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _estimate(rule: Adaptive, experiment: Experiment, values: Sequence[float]) -> PilotEstimate | None:
    if len(values) != rule.min:
        raise ValueError(f"a pilot of {rule.min} values is needed, not of {len(values)}")
    mean, s = statistics.fmean(values), statistics.stdev(values)
    if mean == 0.0:
        return None
    needed = (_quantile(rule.min) * s / (rule.half_width * abs(mean))) ** 2
    return PilotEstimate(
        experiment=experiment.name,
        measurement_config_hash=experiment.config_hash,
        mean=mean,
        s=s,
        n_required=max(1, math.ceil(needed)),
    )


def _quantile(n_pilot: int) -> float:
    """t(.975) with the pilot's degrees of freedom."""
    return float(stdtrit(n_pilot - 1, (1.0 + CONFIDENCE) / 2.0))
