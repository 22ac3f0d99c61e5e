"""Latency figures from generations whose stamps are known."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from images.contract.files import REQUESTS_SCHEMA
from images.contract.latency import mean, request_means
from images.harness.backend import Generation, Request
from images.harness.latency import RequestRecord, records, requests_table
from images.harness.window import Pass

OPENED_S = 1000.0


def record(**changes: Any) -> RequestRecord:
    """The row of a request that starts 0.5 s after the mark and delivers 3 tokens."""
    fields: dict[str, Any] = {
        "request_index": 0,
        "output_ids": (5, 6, 7),
        "finish_reason": "stop",
        "started_s": 1000.5,
        "delivery_s": (1001.0, 1001.25, 1002.0),
        "delivery_tokens": (1, 1, 1),
    }
    request = Request(index=0, token_ids=(1, 2, 3, 4), max_output_tokens=8, ignore_eos=False)
    return records(Pass([request], OPENED_S, [Generation(**{**fields, **changes})]), OPENED_S)[0]


def tpot_ms(row: RequestRecord) -> float | None:
    return request_means(requests_table([row]), None)[0]


def test_means_of_a_part_of_the_window_leave_out_who_straddles_its_edges() -> None:
    inside, early, late = (record() for _ in range(3))
    table = requests_table(
        [
            dataclasses.replace(row, request_index=index, arrival_s=arrival_s)
            for index, (row, arrival_s) in enumerate([(inside, 2.0), (early, 0.0), (late, 4.0)])
        ]
    )
    assert inside.e2e_ms is not None
    tpot, e2e = request_means(table, (2.4, 2.0 + inside.e2e_ms / 1e3 + 0.1))
    assert [tpot, e2e] == pytest.approx([500.0, inside.e2e_ms])
    assert request_means(table, (100.0, 101.0)) == (None, None)


def test_times_count_from_the_opening_mark_also_for_a_later_batch() -> None:
    row = record()
    assert row.arrival_s == 0.0
    assert row.ttft_ms == pytest.approx(1000.0)  # not 500: half a second of it is queueing
    assert row.e2e_ms == pytest.approx(2000.0)
    assert row.queue_ms == pytest.approx(500.0)


def test_in_an_open_loop_times_count_from_when_the_request_was_due_and_its_lag_is_kept_apart() -> None:
    request = Request(index=4, token_ids=(1, 2), max_output_tokens=8, ignore_eos=False, due_s=10.0)
    generation = Generation(4, (5, 6), "length", 1015.0, (1016.0, 1017.0), (1, 1))
    (row,) = records(Pass([request], OPENED_S + 2.0, [generation], {4: 1012.25}), OPENED_S)
    assert row.arrival_s == pytest.approx(12.0)
    assert row.lag_ms == pytest.approx(250.0)
    assert row.queue_ms == pytest.approx(3000.0)
    assert [row.ttft_ms, row.e2e_ms] == pytest.approx([4000.0, 5000.0])
    assert record().lag_ms is None, "a closed batch has no schedule to lag behind"


def test_a_backend_that_knows_only_the_ends_has_ttft_e2e_and_tpot_but_no_gaps() -> None:
    row = record(delivery_s=None, delivery_tokens=None, ends_s=(1001.0, 1002.0))
    assert [row.ttft_ms, row.e2e_ms, tpot_ms(row)] == pytest.approx([1000.0, 2000.0, 500.0])
    assert row.itl_ms is None


def test_tokens_per_delivery_are_kept_where_they_are_not_all_one() -> None:
    assert record(delivery_s=(1001.0, 1002.0), delivery_tokens=(1, 2)).delivery_tokens == [1, 2]
    assert record().delivery_tokens is None


def test_itl_is_every_gap_between_deliveries_and_tpot_is_per_token() -> None:
    row = record()
    assert row.itl_ms == pytest.approx([250.0, 750.0])
    assert tpot_ms(row) == pytest.approx(500.0)


def test_several_tokens_in_one_delivery_are_one_gap_but_count_in_tpot() -> None:
    row = record(output_ids=(5, 6, 7, 8, 9), delivery_s=(1001.0, 1002.0), delivery_tokens=(2, 3))
    assert row.itl_ms == pytest.approx([1000.0])
    assert tpot_ms(row) == pytest.approx(250.0)


def test_one_token_has_a_ttft_no_gap_and_no_tpot() -> None:
    row = record(output_ids=(5,), delivery_s=(1001.0,), delivery_tokens=(1,))
    assert [row.ttft_ms, row.e2e_ms] == pytest.approx([1000.0, 1000.0])
    assert row.itl_ms == []
    assert tpot_ms(row) is None


def test_a_backend_without_stamps_leaves_latencies_unmeasured() -> None:
    row = record(started_s=None, delivery_s=None, delivery_tokens=None)
    assert (row.ttft_ms, row.e2e_ms, row.queue_ms, row.itl_ms, tpot_ms(row)) == (None, None, None, None, None)
    assert row.output_tokens == 3


def test_rows_pair_each_generation_with_its_own_request_whatever_the_order() -> None:
    requests = [Request(index=i, token_ids=(9,) * (i + 1), max_output_tokens=8, ignore_eos=False) for i in range(3)]
    generations = [Generation(i, (5,) * (10 + i), "length", None, None, None) for i in (2, 0, 1)]
    rows = records(Pass(requests, OPENED_S, generations), OPENED_S)
    assert [(row.request_index, row.input_tokens, row.output_tokens) for row in rows] == [
        (0, 1, 10),
        (1, 2, 11),
        (2, 3, 12),
    ]


def test_the_output_hash_tells_outputs_apart_and_is_the_same_on_every_machine() -> None:
    little_endian = b"".join(token.to_bytes(8, "little") for token in (5, 6, 7))
    assert record().output_sha256 == hashlib.sha256(little_endian).hexdigest()


def test_means_leave_out_what_was_not_measured() -> None:
    assert mean([1.0, None, 3.0]) == 2.0
    assert mean([None, None]) is None


def test_the_table_keeps_unmeasured_apart_from_zero() -> None:
    table = requests_table([record(), record(started_s=None, delivery_s=None, delivery_tokens=None)])
    assert table.schema == REQUESTS_SCHEMA
    assert table["ttft_ms"].to_pylist() == [pytest.approx(1000.0), None]
    assert table["itl_ms"].to_pylist() == [pytest.approx([250.0, 750.0]), None]
