"""Rounds of the measured work's own shape until throughput is steady."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from images.contract.config import ExperimentConfig
from images.contract.parts import WarmupResult
from images.harness.backend import Backend, LoadedModel, Request
from images.harness.workload import largest_batch, warmup_pass, warmup_round

log = logging.getLogger(__name__)


def warm_up(
    requests: Sequence[Request], config: ExperimentConfig, loaded: LoadedModel, backend: Backend
) -> WarmupResult | None:
    """One pass in every measured shape, then rounds until the last few agree, or the cap; None if turned off."""
    settings = config.measurement.warmup
    if not settings.enabled:
        return None
    if settings.full_pass:
        backend.run(warmup_pass(requests, config, loaded.tokenizer))
        backend.drain()
    rates: list[float] = []
    for index in range(settings.max_rounds):
        rates.append(_rate(warmup_round(requests, config, loaded.tokenizer, index), backend))
        variation = coefficient_of_variation(rates[-settings.window :]) if len(rates) >= settings.window else None
        log.info("warm-up round %d: %.1f tokens/s", index + 1, rates[-1])
        if variation is not None and variation <= settings.cv_threshold:
            break
    return WarmupResult(
        converged=variation is not None and variation <= settings.cv_threshold,
        final_cv=variation,
        target_cv=settings.cv_threshold,
        iterations_completed=len(rates),
        max_rounds=settings.max_rounds,
        tokens_per_second=rates,
    )


def warmup_requests(requests: Sequence[Request], config: ExperimentConfig, warmup: WarmupResult | None) -> int:
    """How many requests the warm-up made."""
    if warmup is None:
        return 0
    in_pass = len(requests) if config.measurement.warmup.full_pass else 0
    return in_pass + warmup.iterations_completed * len(largest_batch(requests, config))


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Sample standard deviation (ddof 1) over the mean."""
    array = np.asarray(values)
    return float(array.std(ddof=1) / array.mean())


def _rate(requests: Sequence[Request], backend: Backend) -> float:
    started = time.perf_counter()
    generations = backend.run(requests)
    backend.drain()
    tokens = sum(len(request.token_ids) for request in requests) + sum(len(one.output_ids) for one in generations)
    return tokens / (time.perf_counter() - started)
