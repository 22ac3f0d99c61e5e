"""Warnings: `code: what was seen. What to do.` They never fail a run."""

from __future__ import annotations

from images.contract.aggregation import MIN_REQUESTS_P95, MIN_REQUESTS_P99
from images.contract.config import ExperimentConfig
from images.contract.parts import WarmupResult

MIN_WINDOW_S = 60.0
MIN_PROMPTS = 30


def find_warnings(
    config: ExperimentConfig,
    *,
    window_s: float,
    n_requests: int,
    stamped_requests: int,
    warmup: WarmupResult | None,
    caches_emptied: bool,
    cached_input_tokens: int | None,
    has_chat_template: bool,
) -> list[str]:
    """Everything about this measurement that its reader should know before trusting it.

    Args:
        window_s: length of the measured window (s).
        stamped_requests: requests with latency figures.
    """
    found = ["no_energy_meter: energy was not measured, for there is no meter yet. Quote speed and latency only."]
    if window_s < MIN_WINDOW_S:
        found.append(
            f"short_duration: the window lasted {window_s:.1f} s, under {MIN_WINDOW_S:.0f} s. Raise workload.n_prompts."
        )
    if n_requests < MIN_PROMPTS:
        found.append(f"low_sample_count: {n_requests} requests, under {MIN_PROMPTS}. Raise workload.n_prompts.")
    for percentile, needed in (("p95", MIN_REQUESTS_P95), ("p99", MIN_REQUESTS_P99)):
        if 0 < stamped_requests < needed:
            found.append(
                f"few_requests_for_{percentile}: {stamped_requests} requests, under {needed}. "
                f"Do not quote {percentile}, or raise workload.n_prompts."
            )
    found += _warmup_warnings(warmup)
    if cached_input_tokens or not caches_emptied:
        seen = "an unknown number of" if cached_input_tokens is None else cached_input_tokens
        found.append(
            f"warm_cache: {seen} input tokens came from a cache, or the caches could not be emptied. "
            "Turn the backend's prefix cache off."
        )
    if has_chat_template and config.workload.chat_template == "off" and config.workload.source != "synthetic":
        found.append(
            "no_chat_template: the model has a chat template and the prompts were sent without it. "
            "Set workload.chat_template: model, unless plain completion is what you mean to measure."
        )
    return found


def _warmup_warnings(warmup: WarmupResult | None) -> list[str]:
    if warmup is None:
        return ["not_warmed_up: the warm-up was turned off. Set measurement.warmup.enabled: true."]
    if warmup.converged:
        return []
    seen = "too few rounds to tell" if warmup.final_cv is None else f"coefficient of variation {warmup.final_cv:.3f}"
    return [
        f"not_warmed_up: throughput was not steady after {warmup.iterations_completed} rounds ({seen}, target "
        f"{warmup.target_cv}). Raise measurement.warmup.max_rounds, or look for other work on the machine."
    ]
