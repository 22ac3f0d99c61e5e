"""The extended metrics, from the rows of all requests and from what each process says of itself.

TPOT, e2e, tokens per delivery: of requests that lie in the described part of the window (`latency.lies_in`).
Batch efficiency: the time integral of the number of running requests, which is the sum of the times that each ran
    (Little's law), over what it were if every slot were taken all the time:
    sum over requests of |[start, last token] within the part| / (slots of all processes x length of the part).
KV cache hit rate: input tokens that a cache served / input tokens, of requests whose first token came in the part, as
    input tokens are counted.
Goodput: requests that kept within every limit that is set, per second and as a share of all; of those whose last token
    came in the part, so that a rate is one also of a part (Zhong et al. 2024, "DistServe", section 2, whose goodput
    is the largest such rate). A request of one token has no TPOT and so breaks no limit on it.
Schedule lag: of requests that were due in the part.
Phases: `images/harness/phases.py`; joules and bounds are summed over the processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from images.contract import files
from images.contract.config import ExperimentConfig
from images.contract.latency import Row, first_token_s, last_token_s, lies_in, request_means, started_s, tpot_ms
from images.contract.parts import ExtendedEfficiencyMetrics, PhaseEnergy
from images.contract.process import ProcessRecord
from images.contract.work import LatencyLimits

Span = tuple[float, float]
"""From, to, in seconds after the window opened."""


def extended_metrics(
    config: ExperimentConfig, records: Sequence[ProcessRecord], requests: files.Table, *, metered: bool
) -> ExtendedEfficiencyMetrics:
    """Each figure, or None where something that it needs was not measured.

    Args:
        requests: rows of requests.parquet, of all processes.
        metered: whether the energy of all processes is known.
    """
    span_s = records[0].span_s
    part_s = span_s or (0.0, records[0].window_s)
    rows = requests.drop_columns(["itl_ms", "delivery_tokens"]).to_pylist()
    lying = [span_s is None or lies_in(row, span_s) for row in rows]
    tpot_mean_ms, e2e_mean_ms = request_means(requests, span_s)
    tpot = [time for row, lies in zip(rows, lying, strict=True) if lies and (time := tpot_ms(row)) is not None]
    lags = [row["lag_ms"] for row in rows if row["lag_ms"] is not None and _within(row["arrival_s"], span_s)]
    rate, fraction = _goodput(rows, config.measurement.limits, span_s, part_s[1] - part_s[0])
    phases = _phases([record.phases for record in records]) if metered else None
    return ExtendedEfficiencyMetrics(
        tpot_mean_ms=tpot_mean_ms,
        tpot_p50_ms=_percentile(tpot, 50),
        tpot_p95_ms=_percentile(tpot, 95),
        e2e_mean_ms=e2e_mean_ms,
        tokens_per_delivery_mean=_tokens_per_delivery(requests, lying),
        padding_fraction=_padding(records),
        batch_efficiency=_batch_efficiency(rows, _sum(record.slots for record in records), part_s),
        kv_cache_hit_rate=_cache_hit_rate(rows, span_s),
        weights_mb=_sum(record.weights_mb for record in records),
        peak_memory_mb=_sum(record.peak_memory_mb for record in records),
        kv_cache_mb=_sum(record.kv_cache_mb for record in records),
        goodput_requests_per_second=rate,
        goodput_fraction=fraction,
        schedule_lag_p50_ms=_percentile(lags, 50),
        schedule_lag_p99_ms=_percentile(lags, 99),
        prefill_energy_j=phases and phases.prefill_j,
        decode_energy_j=phases and phases.decode_j,
        phase_energy_bound_j=phases and phases.bound_j,
        phase_energy_note=phases and phases.note,
        mixed_phase_fraction=phases and phases.mixed_fraction,
    )


def _within(moment_s: float | None, span_s: Span | None) -> bool:
    return span_s is None or (moment_s is not None and span_s[0] <= moment_s <= span_s[1])


def _percentile(values: Sequence[float], percent: float) -> float | None:
    """Hyndman and Fan (1996), type 7, as all percentiles here."""
    return float(np.percentile(values, percent)) if values else None


def _sum(values: Iterable[float | None]) -> float | None:
    """A sum with an unknown part is unknown."""
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)


def _tokens_per_delivery(requests: files.Table, lying: Sequence[bool]) -> float | None:
    """Of requests with stamps: n deliveries have n - 1 gaps. The gaps themselves stay in their table: they are many."""
    gaps = [count for chunk in requests["itl_ms"].chunks for count in chunk.value_lengths().to_pylist()]
    counted = [
        (tokens, count + 1)
        for tokens, count, lies in zip(requests["output_tokens"].to_pylist(), gaps, lying, strict=True)
        if lies and count is not None
    ]
    return sum(tokens for tokens, _ in counted) / sum(count for _, count in counted) if counted else None


def _batch_efficiency(rows: Sequence[Row], slots: float | None, part_s: Span) -> float | None:
    if not slots:
        return None
    ran_s = 0.0
    for row in rows:
        start_s, end_s = started_s(row), last_token_s(row)
        if start_s is None or end_s is None:
            return None
        ran_s += max(min(end_s, part_s[1]) - max(start_s, part_s[0]), 0.0)
    return ran_s / (slots * (part_s[1] - part_s[0]))


def _cache_hit_rate(rows: Sequence[Row], span_s: Span | None) -> float | None:
    counted = [row for row in rows if _within(first_token_s(row), span_s)]
    cached = _sum(row["cached_input_tokens"] for row in counted)
    tokens = sum(row["input_tokens"] for row in counted)
    return None if cached is None or not tokens else cached / tokens


def _goodput(
    rows: Sequence[Row], limits: LatencyLimits, span_s: Span | None, seconds: float
) -> tuple[float | None, float | None]:
    """Requests per second within all limits, and their share; None without a limit or a latency that one is on."""
    limited: list[Callable[[Row], bool | None]] = []
    if limits.ttft_ms is not None:
        limited.append(lambda row: _at_most(row["ttft_ms"], limits.ttft_ms))
    if limits.tpot_ms is not None:
        limited.append(lambda row: row["output_tokens"] < 2 or _at_most(tpot_ms(row), limits.tpot_ms))
    done = [row for row in rows if _within(last_token_s(row), span_s)]
    verdicts = [[keeps(row) for keeps in limited] for row in done]
    if not limited or not done or any(None in verdict for verdict in verdicts):
        return None, None
    good = sum(all(verdict) for verdict in verdicts)
    return good / seconds, good / len(done)


def _at_most(value: float | None, limit: float | None) -> bool | None:
    return None if value is None or limit is None else value <= limit


def _padding(records: Sequence[ProcessRecord]) -> float | None:
    """Padded share of all prompt positions; a process's positions follow from its input tokens and its share."""
    padded = positions = 0.0
    for record in records:
        tokens = record.raw.inference_metrics.input_tokens
        if record.padding_fraction is None or tokens is None:
            return None
        computed = tokens / (1.0 - record.padding_fraction)
        positions += computed
        padded += computed - tokens
    return padded / positions if positions else None


def _phases(parts: Sequence[PhaseEnergy | None]) -> PhaseEnergy | None:
    """Of all processes together; what is not separable in one of them is not separable."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return PhaseEnergy(
        prefill_j=_sum(part.prefill_j for part in known),
        decode_j=_sum(part.decode_j for part in known),
        bound_j=_sum(part.bound_j for part in known),
        mixed_fraction=max((part.mixed_fraction for part in known if part.mixed_fraction is not None), default=None),
        note=next((part.note for part in known if part.note is not None), None),
    )
