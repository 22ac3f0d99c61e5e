"""Drafted tokens: the same ids, and several tokens in one delivery, each stamped when it came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("torch")

from images.contract.job import ConfigInvalid, ModelUnavailable
from images.harness.backend import Generation
from images.models.tiny_llama import make_model, make_tokenizer
from images.pytorch.backend import Backend
from tests.images.pytorch.tiny import PROMPTS, end_tokens, load, outputs, requests

pytestmark = pytest.mark.torch

ASKED = requests(PROMPTS[:2], ignore_eos=True)
REPEATING = requests([(40, 41, 42, 43) * 6, *PROMPTS[:1]], max_output_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def plain() -> Backend:
    return load(batch_size=1)[0]


@pytest.fixture(scope="module")
def assisted() -> Backend:
    """By a model with its own weights, so that every draft is right."""
    drafting = {
        "assistant_model": "builtin:tiny-llama",
        "num_assistant_tokens": 4,
        "assistant_confidence_threshold": 0.0,
    }
    return load(batch_size=1, pytorch=drafting)[0]


def adds_up(generations: Sequence[Generation]) -> bool:
    return all(
        len(one.delivery_s or ()) == len(one.delivery_tokens or ())
        and sum(one.delivery_tokens or ()) == len(one.output_ids)
        for one in generations
    )


def test_a_right_assistant_gives_the_same_tokens_in_fewer_deliveries(plain: Backend, assisted: Backend) -> None:
    before, opened_s = assisted.delivered() or 0, time.perf_counter()
    generations = assisted.run(ASKED)
    assert outputs(generations) == outputs(plain.run(ASKED))
    assert adds_up(generations)
    assert [one.delivery_tokens for one in generations] == [(5, 5, 5, 5, 4)] * 2  # four drafted and one of its own
    assert (assisted.delivered() or 0) - before == 48
    for one in generations:
        marks = (opened_s, one.started_s or 0.0, *(one.delivery_s or ()))
        assert all(earlier < later for earlier, later in pairwise(marks))
    assert assisted.findings() == ()
    assert assisted.memory().kv_cache_mb is None  # the assistant's is not known


def test_an_end_token_among_drafted_ones_ends_the_output_there(plain: Backend, assisted: Backend) -> None:
    (whole,) = outputs(plain.run(ASKED[:1]))
    end = next(token for at, token in enumerate(whole) if at in (6, 7, 8) and whole.index(token) == at)
    asked, before = requests(PROMPTS[:1]), assisted.delivered() or 0
    with end_tokens(assisted, {end}):
        (only,) = assisted.run(asked)
    assert only.output_ids == whole[: whole.index(end) + 1]
    assert only.finish_reason == "stop"
    assert adds_up([only])
    assert (assisted.delivered() or 0) - before == len(only.output_ids)


def test_looking_up_in_the_prompt_gives_the_same_tokens(plain: Backend) -> None:
    looking, _ = load(batch_size=1, pytorch={"prompt_lookup_num_tokens": 3})
    generations = looking.run(REPEATING)
    assert outputs(generations) == outputs(plain.run(REPEATING))
    assert adds_up(generations)


def test_a_wrong_assistant_gives_the_same_tokens_and_is_a_finding(plain: Backend, tmp_path: Path) -> None:
    make_model(7, None).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    options = {"assistant_model": str(tmp_path), "num_assistant_tokens": 1, "assistant_confidence_threshold": 0.0}
    wrong, _ = load(batch_size=1, pytorch=options)
    assert outputs(wrong.run(ASKED[:1])) == outputs(plain.run(ASKED[:1]))
    (finding,) = wrong.findings()
    assert finding.startswith("not_in_effect: none of the drafted tokens was taken in 24 steps")


def test_an_assistant_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    model = make_model(7, None)
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigInvalid, match="has 300 tokens and the model 259"):
        load(batch_size=1, pytorch={"assistant_model": str(tmp_path)})


def test_an_assistant_that_is_not_there_is_told_by_its_own_name() -> None:
    with pytest.raises(ModelUnavailable, match="no/assistant"):
        load(batch_size=1, pytorch={"assistant_model": "./no/assistant"})
