"""The extended metrics of requests whose times are known, and of processes together."""

from __future__ import annotations

from typing import Any

import pytest

from images.contract import files
from images.contract.config import parse_config
from images.contract.efficiency import extended_metrics
from images.contract.parts import ExtendedEfficiencyMetrics, PhaseEnergy
from images.contract.process import ProcessRecord
from tests.images.contract import make

WINDOW_S = 10.0
UNMEASURED = {"ttft_ms": None, "e2e_ms": None, "queue_ms": None, "itl_ms": None}


def request(**changes: Any) -> dict[str, Any]:
    """It arrives with its batch, starts after 1 s, and delivers 5 tokens from 2 s to 4 s."""
    row = {
        "process_index": 0,
        "request_index": 0,
        "input_tokens": 10,
        "output_tokens": 5,
        "finish_reason": "length",
        "output_sha256": None,
        "arrival_s": 0.0,
        "queue_ms": 1000.0,
        "ttft_ms": 2000.0,
        "e2e_ms": 4000.0,
        "itl_ms": [500.0] * 4,
        "lag_ms": None,
        "cached_input_tokens": None,
        "delivery_tokens": None,
    }
    return {**row, **changes}


def process(**changes: Any) -> ProcessRecord:
    fields: dict[str, Any] = {"raw": make.raw(), "window_s": WINDOW_S, "slots": 2}
    return ProcessRecord(**{**fields, **changes})


def metrics(
    rows: list[dict[str, Any]],
    *records: ProcessRecord,
    limits: dict[str, float] | None = None,
    metered: bool = True,
) -> ExtendedEfficiencyMetrics:
    config = parse_config({"backend": "stub", "measurement": {"limits": limits or {}}})
    table = files.requests_table({name: [row[name] for row in rows] for name in files.REQUESTS_SCHEMA.names})
    return extended_metrics(config, records or [process()], table, metered=metered)


def test_batch_efficiency_is_the_mean_number_of_running_requests_over_the_slots() -> None:
    two = [request(), request(queue_ms=0.0)]
    assert metrics(two).batch_efficiency == pytest.approx((3.0 + 4.0) / (2 * WINDOW_S))
    assert metrics(two, process(slots=2), process(slots=3)).batch_efficiency == pytest.approx(7.0 / (5 * WINDOW_S))


def test_of_a_part_of_the_window_the_time_that_requests_ran_in_it_counts() -> None:
    part = process(span_s=(2.0, 3.0))
    assert metrics([request(), request(e2e_ms=2500.0)], part).batch_efficiency == pytest.approx(1.5 / 2)


def test_without_stamps_or_slots_there_is_no_batch_efficiency() -> None:
    assert metrics([request(), request(**UNMEASURED)]).batch_efficiency is None
    assert metrics([request()], process(slots=None)).batch_efficiency is None


def test_goodput_counts_requests_within_every_limit_per_second_and_as_a_share() -> None:
    rows = [request(), request(ttft_ms=1500.0), request(ttft_ms=3999.0), request(output_tokens=3)]
    found = metrics(rows, limits={"ttft_ms": 2000.0, "tpot_ms": 625.0})  # too slow: TTFT of the third, TPOT of the last
    assert (found.goodput_requests_per_second, found.goodput_fraction) == (2 / WINDOW_S, 0.5)
    assert metrics(rows, limits={"tpot_ms": 625.0}).goodput_fraction == 0.75


def test_a_request_of_one_token_breaks_no_limit_on_further_tokens() -> None:
    single = request(output_tokens=1, e2e_ms=2000.0, itl_ms=[])
    assert metrics([single], limits={"tpot_ms": 0.001}).goodput_fraction == 1.0
    assert metrics([single], limits={"ttft_ms": 1999.0, "tpot_ms": 0.001}).goodput_fraction == 0.0


def test_without_a_limit_or_a_latency_that_one_is_on_there_is_no_goodput() -> None:
    for found in (metrics([request()]), metrics([request(), request(**UNMEASURED)], limits={"ttft_ms": 1.0})):
        assert (found.goodput_requests_per_second, found.goodput_fraction) == (None, None)


def test_goodput_of_a_part_is_of_the_requests_that_ended_in_it() -> None:
    rows = [request(), request(e2e_ms=6000.0), request(arrival_s=4.5, queue_ms=0.0, ttft_ms=100.0, e2e_ms=400.0)]
    found = metrics(rows, process(span_s=(3.0, 5.0)), limits={"ttft_ms": 500.0})
    assert (found.goodput_requests_per_second, found.goodput_fraction) == (1 / 2.0, 0.5)


def test_the_cache_hit_rate_is_of_input_tokens() -> None:
    rows = [request(cached_input_tokens=0), request(input_tokens=30, cached_input_tokens=10)]
    assert metrics(rows).kv_cache_hit_rate == pytest.approx(0.25)
    assert metrics([*rows, request()]).kv_cache_hit_rate is None
    late = request(ttft_ms=3900.0, cached_input_tokens=10)
    assert metrics([*rows, late], process(span_s=(1.0, 3.0))).kv_cache_hit_rate == pytest.approx(0.25)


def test_tpot_has_percentiles_over_requests_and_deliveries_a_mean_of_tokens() -> None:
    rows = [request(output_tokens=3, itl_ms=[1000.0, 1000.0]), request(itl_ms=[2000.0]), request(output_tokens=1)]
    found = metrics(rows)
    assert [found.tpot_mean_ms, found.tpot_p50_ms, found.tpot_p95_ms] == pytest.approx([750.0, 750.0, 975.0])
    assert metrics(rows[:2]).tokens_per_delivery_mean == pytest.approx(8 / 5)
    assert metrics([request(**UNMEASURED)]).tokens_per_delivery_mean is None


def test_the_lag_is_that_of_an_open_loop_and_its_request_begins_when_it_is_due() -> None:
    """The second was due before the part, although work on it began inside."""
    inside = request(arrival_s=2.0, queue_ms=1000.0, ttft_ms=1000.0, e2e_ms=2000.0, lag_ms=3.0)
    before = request(arrival_s=1.0, queue_ms=1500.0, ttft_ms=2000.0, e2e_ms=3000.0, lag_ms=900.0)
    part = process(span_s=(2.0, 5.0))
    found = metrics([inside, before], part)
    assert (found.schedule_lag_p50_ms, found.schedule_lag_p99_ms) == (3.0, 3.0)
    assert found.e2e_mean_ms == 2000.0
    assert metrics([inside, {**before, "lag_ms": None}], part).e2e_mean_ms == 2500.0
    assert metrics([inside, before]).schedule_lag_p50_ms == pytest.approx(451.5)


def test_memory_is_that_of_all_processes_and_unknown_if_one_is() -> None:
    known = process(weights_mb=10.0, peak_memory_mb=30.0, kv_cache_mb=5.0)
    found = metrics([request()], known, process(weights_mb=20.0, peak_memory_mb=40.0))
    assert (found.weights_mb, found.peak_memory_mb, found.kv_cache_mb) == (30.0, 70.0, None)


def test_phases_are_summed_and_what_one_process_cannot_separate_is_not_separable() -> None:
    first = PhaseEnergy(prefill_j=10.0, decode_j=20.0, bound_j=1.0, mixed_fraction=0.05)
    second = PhaseEnergy(prefill_j=1.0, decode_j=2.0, bound_j=0.5, mixed_fraction=0.0)
    found = metrics([request()], process(phases=first), process(phases=second))
    assert (found.prefill_energy_j, found.decode_energy_j, found.phase_energy_bound_j) == (11.0, 22.0, 1.5)
    assert (found.mixed_phase_fraction, found.phase_energy_note) == (0.05, None)
    mixed = PhaseEnergy(note="not separable: why", mixed_fraction=0.5)
    found = metrics([request()], process(phases=first), process(phases=mixed))
    assert (found.prefill_energy_j, found.decode_energy_j, found.phase_energy_bound_j) == (None, None, None)
    assert (found.mixed_phase_fraction, found.phase_energy_note) == (0.5, "not separable: why")


def test_a_part_of_the_energy_is_no_figure() -> None:
    known = PhaseEnergy(prefill_j=10.0, decode_j=20.0, bound_j=1.0, mixed_fraction=0.0)
    assert metrics([request()], process(phases=known), process()).prefill_energy_j is None
    assert metrics([request()], process(phases=known), metered=False).prefill_energy_j is None
