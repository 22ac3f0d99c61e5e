"""Token accounting of batches: padding and what follows the end token never count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

pytest.importorskip("torch")

from images.harness.backend import Generation
from images.pytorch.backend import Backend
from tests.images.pytorch.tiny import PROMPTS, end_tokens, load, one_by_one, outputs, requests

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    made, _ = load()
    yield made
    made.close()


@pytest.fixture(scope="module")
def full(backend: Backend) -> list[Generation]:
    """Every row to its full length."""
    return backend.run(requests(ignore_eos=True))


@pytest.fixture(scope="module")
def early(full: list[Generation]) -> int:
    """A token that some rows meet on their way, at different steps, and others never."""
    rows = outputs(full)
    for token in sorted({token for row in rows for token in row}):
        met = [row.index(token) for row in rows if token in row]
        if 2 <= len(met) < len(rows) and len(set(met)) > 1 and min(met) > 0 and max(met) < len(rows[0]) - 1:
            return token
    pytest.fail("no such token; take other prompts")


def test_ignoring_the_end_token_gives_exactly_the_asked_number_of_tokens(backend: Backend, early: int) -> None:
    with end_tokens(backend, {early}):
        generations = backend.run(requests(ignore_eos=True))
    assert [len(row) for row in outputs(generations)] == [24] * len(PROMPTS)
    assert {one.finish_reason for one in generations} == {"length"}


def test_a_batch_of_unequal_prompts_and_ends_gives_what_each_prompt_gives_alone(backend: Backend, early: int) -> None:
    with end_tokens(backend, {early}):
        together, alone = backend.run(requests()), one_by_one(backend, requests())
    assert outputs(together) == outputs(alone)
    assert [len(row) for row in outputs(together)] == [len(row) for row in outputs(alone)]
    assert [one.finish_reason for one in together] == [one.finish_reason for one in alone]
    lengths = {len(row) for row in outputs(together)}
    assert len(lengths) > 2  # rows really ended at different steps
    assert 24 in lengths


def test_output_ends_with_the_first_end_token_and_holds_nothing_after_it(
    backend: Backend, full: list[Generation], early: int
) -> None:
    with end_tokens(backend, {early}):
        generations = backend.run(requests())
    for cut, whole in zip(outputs(generations), outputs(full), strict=True):
        end = whole.index(early) + 1 if early in whole else len(whole)
        assert cut == whole[:end]
    stopped = [one for one in generations if one.finish_reason == "stop"]
    assert {one.output_ids[-1] for one in stopped} == {early}
    assert len(stopped) == sum(early in row for row in outputs(full))


def test_several_end_tokens_each_end_a_row(backend: Backend, full: list[Generation], early: int) -> None:
    rows = outputs(full)
    others = {token for row in rows if early not in row for token in row}
    other = min(token for token in others if any(early in row and token not in row[: row.index(early)] for row in rows))
    with end_tokens(backend, {early, other}):
        ends = {one.output_ids[-1] for one in backend.run(requests()) if one.finish_reason == "stop"}
    assert ends == {early, other}


def test_an_end_token_at_the_last_allowed_step_is_a_stop(backend: Backend, full: list[Generation], early: int) -> None:
    row = next(row for row in outputs(full) if early in row)
    limit = row.index(early) + 1
    index = outputs(full).index(row)
    with end_tokens(backend, {early}):
        (only,) = backend.run(requests([PROMPTS[index]], max_output_tokens=limit))
    assert (len(only.output_ids), only.finish_reason) == (limit, "stop")


def test_a_padding_token_that_the_model_really_generates_is_counted(backend: Backend, full: list[Generation]) -> None:
    """Pad and end token are often one; then it must count once as the end and never as padding."""
    pad = outputs(full)[0][5]
    before, backend._pad_id = backend._pad_id, pad
    try:
        with end_tokens(backend, {pad}):
            together, alone = backend.run(requests()), one_by_one(backend, requests())
        unended = backend.run(requests(ignore_eos=True))
    finally:
        backend._pad_id = before
    assert outputs(together) == outputs(alone)
    assert len(outputs(together)[0]) == outputs(full)[0].index(pad) + 1
    assert outputs(unended) == outputs(full)


def test_every_output_token_has_its_own_later_stamp_inside_the_call(backend: Backend, early: int) -> None:
    opened = time.perf_counter()
    with end_tokens(backend, {early}):
        generations = backend.run(requests())
    closed = time.perf_counter()
    for one in generations:
        assert one.delivery_s is not None
        assert one.started_s is not None
        assert len(one.delivery_s) == len(one.output_ids)
        assert one.delivery_tokens == (1,) * len(one.output_ids)
        marks = [opened, one.started_s, *one.delivery_s, closed]
        assert all(earlier < later for earlier, later in pairwise(marks))


def test_a_tokens_stamp_lies_between_its_own_step_of_the_model_and_the_next(backend: Backend) -> None:
    steps: list[float] = []
    hook = backend._model.register_forward_hook(lambda *_: steps.append(time.perf_counter()))
    try:
        (only,) = backend.run(requests(PROMPTS[:1], ignore_eos=True))
    finally:
        hook.remove()
    assert only.delivery_s is not None
    assert len(steps) == len(only.delivery_s)
    ends = [*steps[1:], float("inf")]
    assert all(step < stamp < end for step, stamp, end in zip(steps, only.delivery_s, ends, strict=True))


def test_rows_of_a_batch_share_the_stamps_of_their_steps(backend: Backend, early: int) -> None:
    with end_tokens(backend, {early}):
        stamps = [one.delivery_s or () for one in backend.run(requests())]
    longest = max(stamps, key=len)
    assert all(one == longest[: len(one)] for one in stamps)


def test_more_requests_than_the_batch_size_run_in_several_batches_one_after_another() -> None:
    backend, _ = load(batch_size=4)
    generations = backend.run(requests(ignore_eos=True))
    first, second = generations[:4], generations[4:]
    assert [one.request_index for one in generations] == list(range(6))
    assert min(one.started_s or 0.0 for one in second) > max((one.delivery_s or (0.0,))[-1] for one in first)
    whole, _ = load()
    assert outputs(generations) == outputs(whole.run(requests(ignore_eos=True)))


def test_what_is_delivered_is_counted_as_the_generations_have_it(backend: Backend, early: int) -> None:
    before = backend.delivered() or 0
    with end_tokens(backend, {early}):
        stopped = backend.run(requests())
        assert backend.delivered() == before + sum(map(len, outputs(stopped))), "what follows an end is padding"
        whole = backend.run(requests(ignore_eos=True))
    assert backend.delivered() == before + sum(map(len, [*outputs(stopped), *outputs(whole)]))
    assert sum(map(len, outputs(stopped))) < sum(map(len, outputs(whole)))


def test_every_row_ends_at_its_own_limit_whatever_the_others_of_its_batch_want(backend: Backend, early: int) -> None:
    limits = [6, 4, 12, 20, 1, 24]
    asked = [replace(one, max_output_tokens=limit) for one, limit in zip(requests(), limits, strict=True)]
    before = backend.delivered() or 0
    with end_tokens(backend, {early}):
        together, alone = backend.run(asked), one_by_one(backend, asked)
    assert outputs(together) == outputs(alone)
    assert [one.finish_reason for one in together] == [one.finish_reason for one in alone]
    assert {one.finish_reason for one in together} == {"stop", "length"}
    assert [len(one.delivery_s or ()) for one in together] == [len(row) for row in outputs(together)]
    assert backend.delivered() == before + 2 * sum(map(len, outputs(together))), "what follows a limit is padding"


def test_another_thread_sees_the_count_grow_in_mid_run(backend: Backend) -> None:
    before = backend.delivered() or 0
    seen, ended = set(), threading.Event()

    def look() -> None:
        while not ended.wait(0.0005):
            seen.add((backend.delivered() or 0) - before)

    looker = threading.Thread(target=look)
    looker.start()
    backend.run(requests(ignore_eos=True))
    ended.set()
    looker.join()
    assert len(seen - {0, 24 * len(PROMPTS)}) >= 3, "in mid-run, not only at its ends"
    assert all(count % len(PROMPTS) == 0 for count in seen), "a step delivers one token of each row"


def test_the_padded_share_is_that_of_the_last_run(backend: Backend) -> None:
    backend.run(requests(max_output_tokens=1))
    positions = 31 * len(PROMPTS)
    real = sum(map(len, PROMPTS))
    assert backend.padding_fraction() == pytest.approx((positions - real) / positions)
    backend.run(requests(PROMPTS[:1], max_output_tokens=1))
    assert backend.padding_fraction() == 0.0
