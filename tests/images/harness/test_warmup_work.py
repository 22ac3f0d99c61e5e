"""Warm-up work: the measured shape, and nothing that a cache could serve to the window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from images.contract.job import MeasurementFailed
from images.harness.backend import Request
from images.harness.workload import prepare_workload, warmup_pass, warmup_round
from tests.images.harness.fakes import WordTokenizer, config, loaded_model


def requests(lengths: Sequence[int], first: int = 5, outputs: int | Sequence[int] = 4) -> list[Request]:
    wanted = [outputs] * len(lengths) if isinstance(outputs, int) else outputs
    return [
        Request(index=index, token_ids=(first,) * length, max_output_tokens=output, ignore_eos=False)
        for index, (length, output) in enumerate(zip(lengths, wanted, strict=True))
    ]


def lengths(batch: Sequence[Request]) -> list[int]:
    return [len(request.token_ids) for request in batch]


@pytest.mark.parametrize(
    ("measured", "largest"),
    [
        ([3, 3, 9, 1, 4, 4], [9, 1]),  # the padded area decides, not the sum
        ([3, 3, 4, 4, 7], [4, 4]),
        ([3, 3, 4, 4, 9], [9]),  # a last batch of one can be the largest
    ],
)
def test_a_round_has_the_lengths_of_the_largest_batch(measured: list[int], largest: list[int]) -> None:
    made = warmup_round(requests(measured), config(batch_size=2), WordTokenizer(), 0)
    assert lengths(made) == largest
    assert [request.index for request in made] == list(range(len(largest)))


def test_a_round_generates_to_full_length_so_that_rounds_are_alike() -> None:
    made = warmup_round(requests([3], outputs=7), config(), WordTokenizer(), 0)
    assert [(request.max_output_tokens, request.ignore_eos) for request in made] == [(7, True)]


def test_of_batches_with_equal_prompts_a_round_repeats_the_one_with_the_longest_outputs() -> None:
    made = warmup_round(requests([3] * 6, outputs=[1, 9, 8, 5, 1, 1]), config(batch_size=2), WordTokenizer(), 0)
    assert [request.max_output_tokens for request in made] == [8, 5]


def test_the_pass_meets_every_measured_pair_of_lengths_at_once_also_before_an_open_loop() -> None:
    lengths = {"distribution": "lognormal", "median": 3}
    chosen = config(
        {
            "source": "synthetic",
            "ignore_eos": True,
            "n_prompts": 50,
            "input_lengths": lengths,
            "output_lengths": lengths,
            "arrivals": {"process": "poisson", "rate_per_s": 1.0},
        }
    )
    measured = prepare_workload(chosen, loaded_model()).requests
    made = warmup_pass(measured, chosen, WordTokenizer())
    shapes = [[(len(one.token_ids), one.max_output_tokens) for one in batch] for batch in (measured, made)]
    assert shapes[0] == shapes[1]
    assert len(set(shapes[0])) > 5
    assert {one.due_s for one in made} == {None}


@pytest.mark.parametrize("workload", [{}, {"add_special_tokens": False}, {"source": "synthetic", "n_prompts": 500}])
def test_no_warm_up_prompt_shares_its_first_token_with_a_measured_one(workload: dict[str, Any]) -> None:
    chosen = config(workload)
    measured = prepare_workload(chosen, loaded_model()).requests
    taken = {request.token_ids[0] for request in measured}
    rounds = [warmup_round(measured, chosen, WordTokenizer(), number) for number in range(50)]
    assert not taken & {request.token_ids[0] for batch in rounds for request in batch}


def test_warm_up_prompts_hold_no_special_ids_and_stay_inside_the_vocabulary() -> None:
    made = [warmup_round(requests([500] * 4), config(), WordTokenizer(), number) for number in range(5)]
    used = {token for batch in made for request in batch for token in request.token_ids}
    assert not used & WordTokenizer.special_ids
    assert max(used) < WordTokenizer.vocab_size


def test_rounds_differ_and_repeat_with_the_seed() -> None:
    def made(number: int, seed: int = 1) -> list[Request]:
        return warmup_round(requests([20, 20]), config(seed=seed), WordTokenizer(), number)

    prompts = [request.token_ids for number in range(10) for request in made(number)]
    assert len(set(prompts)) == 20
    assert made(3) == made(3) != made(3, seed=2)


def test_a_workload_that_begins_with_every_token_cannot_be_warmed_up_and_says_so() -> None:
    measured = [
        Request(index=token, token_ids=(token,), max_output_tokens=4, ignore_eos=False)
        for token in range(WordTokenizer.vocab_size)
    ]
    with pytest.raises(MeasurementFailed, match="begin with every token"):
        warmup_round(measured, config(), WordTokenizer(), 0)
