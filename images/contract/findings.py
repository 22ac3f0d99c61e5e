"""Warnings of an experiment as a whole, `code: what was seen. What to do.`

They are decided when its result is made, and handed to the passive result. They never fail a run.
"""

from __future__ import annotations

from collections.abc import Sequence

from images.contract.aggregation import MIN_REQUESTS_P95, MIN_REQUESTS_P99
from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.contract.parts import CoolDown, WarmupResult

MIN_WINDOW_S = 60.0
MIN_PROMPTS = 30
MAX_LAG_P99_MS = 20.0
"""Of the harness's own lateness in an open loop: a user would not notice it."""


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
    cut_prompts: int,
    no_meter: str | None,
    no_baseline: str | None,
    lag_p99_ms: float | None = None,
) -> list[str]:
    """Everything about the experiment as a whole that its reader should know before trusting it.

    Args:
        window_s: length of the measured window (s).
        stamped_requests: requests with latency figures.
        cut_prompts: prompts longer than workload.max_input_tokens.
        no_meter, no_baseline: why there is none; None if there is one.
        lag_p99_ms: how late the harness handed requests of an open loop over (ms).
    """
    found = []
    is_open = config.workload.arrivals.is_open
    if no_meter is not None:
        found.append(f"no_energy_meter: energy was not measured: {no_meter}. Quote speed and latency only.")
    elif no_baseline is not None:
        found.append(f"no_baseline: idle power was not measured: {no_baseline}. Do not quote energy above idle.")
    if window_s < MIN_WINDOW_S:
        found.append(
            f"short_duration: the window lasted {window_s:.1f} s, under {MIN_WINDOW_S:.0f} s. "
            f"Raise workload.n_prompts{'' if is_open else ', or set measurement.min_window_s'}."
        )
    if n_requests < MIN_PROMPTS:
        found.append(f"low_sample_count: {n_requests} requests, under {MIN_PROMPTS}. Raise workload.n_prompts.")
    for percentile, needed in (("p95", MIN_REQUESTS_P95), ("p99", MIN_REQUESTS_P99)):
        if 0 < stamped_requests < needed:
            found.append(
                f"few_requests_for_{percentile}: {stamped_requests} requests, under {needed}. "
                f"Do not quote {percentile}, or raise workload.n_prompts."
            )
    if lag_p99_ms is not None and lag_p99_ms > MAX_LAG_P99_MS:
        found.append(
            f"late_arrivals: requests were handed over up to {lag_p99_ms:.0f} ms (p99) later than they were due, which "
            "is in their latency. Give the job more CPU cores, or lower workload.arrivals.rate_per_s."
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
    if cut_prompts:
        and_template = ", and that of the chat template with it" if config.workload.chat_template == "model" else ""
        found.append(
            f"prompts_cut: {cut_prompts} prompts had more than {config.workload.max_input_tokens} tokens and lost "
            f"their end{and_template}. Raise workload.max_input_tokens, unless answers do not matter."
        )
    return found


def cool_down_warning(cool_down: CoolDown | None) -> list[str]:
    """A warning if the gate's time was over before the GPUs were cool."""
    if cool_down is None or cool_down.reached:
        return []
    return [
        f"not_cooled_down: a GPU was above {cool_down.target_c:.0f} C after {cool_down.waited_s:.0f} s. "
        "Raise measurement.cool_down.timeout_s, or improve cooling."
    ]


def foreign_warning(processes: Sequence[str]) -> list[str]:
    """One warning for all processes of others that were seen on the job's GPUs."""
    if not processes:
        return []
    return [
        f"foreign_process: others used the GPU: {', '.join(processes)}. Their energy is in the figure; "
        "end them and run again."
    ]


def placement_warning(context: JobContext, gpu_uuids: Sequence[str]) -> list[str]:
    """A warning if the GPUs that did the work were whichever were free."""
    scheduling = context.scheduling
    if scheduling is None or scheduling.placement != "any" or not gpu_uuids:
        return []
    return [
        f"gpu_confounded: with placement any this cycle ran on whatever was free, {', '.join(gpu_uuids)}. "
        "Do not compare experiments by it, because boards differ; use placement: block."
    ]


def missing_warning(missing: Sequence[int]) -> list[str]:
    """One warning for all processes that left no whole result."""
    if not missing:
        return []
    return [
        f"rank_missing: nothing is known of process {', '.join(map(str, missing))}. Tokens and energy are those of the "
        "others; run it again."
    ]


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
