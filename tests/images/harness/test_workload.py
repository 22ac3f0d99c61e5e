"""Equal inputs: what is sent to a backend, and the hash that names it."""

from __future__ import annotations

from typing import Any

import pytest

from images.contract.job import ConfigInvalid
from images.harness.workload import BUILTIN_PROMPTS, PreparedWorkload, prepare_workload
from tests.images.harness.fakes import BOS, WordTokenizer, config, loaded_model


def prepare(
    workload: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **rest: Any
) -> PreparedWorkload:
    return prepare_workload(config(workload, **rest), loaded_model(**(model or {})))


def ids(workload: PreparedWorkload) -> list[tuple[int, ...]]:
    return [request.token_ids for request in workload.requests]


@pytest.mark.parametrize("source", ["builtin", "synthetic"])
def test_every_backend_gets_the_same_ids_from_the_same_tokenizer(source: str) -> None:
    prepared = [prepare({"source": source}, backend=backend) for backend in ("stub", "pytorch", "vllm", "trt")]
    assert len({tuple(ids(one)) for one in prepared}) == 1
    assert len({one.prompts_sha256 for one in prepared}) == 1


def test_prompts_are_cut_at_the_end_and_only_where_they_are_too_long() -> None:
    whole = prepare({"max_input_tokens": 100, "n_prompts": 40})
    cut = prepare({"max_input_tokens": 9, "n_prompts": 40})
    assert min(map(len, ids(whole))) < 9 < max(map(len, ids(whole)))
    assert ids(cut) == [prompt[:9] for prompt in ids(whole)]


def test_requests_carry_the_limits_of_the_workload_and_their_own_index() -> None:
    requests = prepare({"max_output_tokens": 5, "ignore_eos": True}).requests
    assert [request.index for request in requests] == list(range(6))
    assert {(request.max_output_tokens, request.ignore_eos) for request in requests} == {(5, True)}


def test_special_tokens_are_added_only_when_asked_for() -> None:
    assert {prompt[0] for prompt in ids(prepare())} == {BOS}
    assert all(BOS not in prompt for prompt in ids(prepare({"add_special_tokens": False})))


def test_orders_rearrange_the_same_prompts() -> None:
    given = ids(prepare({"n_prompts": 40, "max_input_tokens": 100}))
    longest = ids(prepare({"n_prompts": 40, "max_input_tokens": 100, "order": "longest_first"}))
    shuffled = ids(prepare({"n_prompts": 40, "max_input_tokens": 100, "order": "shuffled"}))
    other_seed = ids(prepare({"n_prompts": 40, "max_input_tokens": 100, "order": "shuffled"}, seed=7))
    assert list(map(len, longest)) == sorted(map(len, given), reverse=True)
    assert sorted(given) == sorted(longest) == sorted(shuffled)
    assert shuffled != given
    assert shuffled == ids(prepare({"n_prompts": 40, "max_input_tokens": 100, "order": "shuffled"}))
    assert shuffled != other_seed


def test_the_hash_of_the_prompts_is_the_same_on_every_machine() -> None:
    """A golden value: results of different versions stay comparable only while it holds."""
    assert prepare().prompts_sha256 == "75b248506be8a9fc2a6a732a9cc2ff99762487f495e4c4608fa0fe4c5e91f919"


@pytest.mark.parametrize(
    "change", [{"n_prompts": 5}, {"max_input_tokens": 7}, {"add_special_tokens": False}, {"order": "shuffled"}]
)
def test_the_hash_tells_every_change_of_the_input(change: dict[str, Any]) -> None:
    assert prepare(change).prompts_sha256 != prepare().prompts_sha256


def test_the_hash_leaves_out_what_is_not_input() -> None:
    assert prepare({"max_output_tokens": 9, "ignore_eos": True}, batch_size=1).prompts_sha256 == (
        prepare().prompts_sha256
    )


def test_the_hash_tells_where_one_prompt_ends_and_the_next_begins(tmp_path: Any) -> None:
    hashes = set()
    for name, prompts in {"a": ["aa bb", "cc"], "b": ["aa", "bb cc"]}.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(f'{{"prompt": "{prompt}"}}\n' for prompt in prompts))
        hashes.add(prepare({"source": str(file), "n_prompts": 2, "add_special_tokens": False}).prompts_sha256)
    assert len(hashes) == 2


def test_builtin_prompts_are_all_distinct_and_the_walk_meets_each_once() -> None:
    class Texts(WordTokenizer):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            self.seen.append(text)
            return [5]

    tokenizer = Texts()
    prepare({"n_prompts": BUILTIN_PROMPTS}, {"tokenizer": tokenizer})
    assert len(tokenizer.seen) == len(set(tokenizer.seen)) == BUILTIN_PROMPTS
    assert not [text for text in tokenizer.seen if "{" in text]


def test_more_prompts_than_are_built_in_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match=f"there are {BUILTIN_PROMPTS} built-in prompts"):
        prepare({"n_prompts": BUILTIN_PROMPTS + 1})


def test_synthetic_prompts_have_exactly_the_asked_length_and_no_special_ids() -> None:
    prompts = ids(prepare({"source": "synthetic", "n_prompts": 200, "max_input_tokens": 50}))
    assert {len(prompt) for prompt in prompts} == {50}
    used = {token for prompt in prompts for token in prompt}
    assert not used & WordTokenizer.special_ids
    assert max(used) < WordTokenizer.vocab_size
    assert prompts != ids(prepare({"source": "synthetic", "n_prompts": 200, "max_input_tokens": 50}, seed=7))


def test_the_models_chat_template_is_used_only_when_asked_for_and_there() -> None:
    with_template = {"tokenizer": WordTokenizer(has_chat_template=True)}
    plain = ids(prepare({"max_input_tokens": 100, "add_special_tokens": False}, with_template))
    chat = ids(prepare({"max_input_tokens": 100, "chat_template": "model"}, with_template))
    assert chat == [(1, *prompt, 2) for prompt in plain]
    with pytest.raises(ConfigInvalid, match="has no chat template"):
        prepare({"chat_template": "model"})


def test_prompts_that_do_not_fit_the_models_context_are_refused_and_those_that_just_fit_are_not() -> None:
    # 8 input and 4 output tokens
    prepare(model={"context_length": 12})
    with pytest.raises(ConfigInvalid, match="need 12 positions; the model builtin:tiny-llama has 11"):
        prepare(model={"context_length": 11})
