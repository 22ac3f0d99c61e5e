"""Requests as they arrive, from the harness's own feed."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

pytest.importorskip("torch")

from images.harness.open_loop import feeding
from tests.images.pytorch.tiny import PROMPTS, load, one_by_one, outputs, requests

pytestmark = pytest.mark.torch


def test_what_has_arrived_is_worked_on_in_batches_in_order_and_nothing_before_it_is_due() -> None:
    """Five at once fill two batches and a half; one comes later, though it is the first of all by number."""
    backend, _ = load(batch_size=2)
    asked = [replace(one, due_s=0.5 if one.index == 0 else 0.0) for one in requests(PROMPTS, ignore_eos=True)]
    began_s = time.perf_counter()
    with feeding(asked, began_s) as feed:
        served = backend.serve(feed)
    assert sorted(one.request_index for one in served) == list(range(len(PROMPTS)))
    assert outputs(served) == outputs(one_by_one(backend, requests(PROMPTS, ignore_eos=True)))
    starts: dict[float, list[int]] = {}
    for one in served:
        assert one.started_s is not None
        assert one.started_s >= feed.handed_s[one.request_index] >= began_s + (asked[one.request_index].due_s or 0.0)
        starts.setdefault(one.started_s, []).append(one.request_index)
    assert list(starts.values())[:2] == [[1, 2], [3, 4]]
    assert max(map(len, starts.values())) == 2
    assert list(starts) == sorted(starts)
    assert backend.delivered() == 2 * 24 * len(PROMPTS)
