"""Equal inputs: what is sent to a backend, and the hash that names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid
from images.harness.open_loop import schedule
from images.harness.prompts import BUILTIN_PROMPTS
from images.harness.workload import PreparedWorkload, prepare_passes, prepare_workload, share_of
from tests.images.harness.fakes import BOS, WordTokenizer, config, loaded_model

DOCUMENTATION = (Path(__file__).resolve().parents[3] / "docs" / "workloads.md").read_text()


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


@pytest.mark.parametrize(
    "change",
    [
        {"max_output_tokens": 9, "ignore_eos": True},
        {"ignore_eos": True, "output_lengths": {"distribution": "uniform"}},
        {"arrivals": {"process": "poisson", "rate_per_s": 2.0}},
    ],
)
def test_the_hash_leaves_out_what_is_not_input(change: dict[str, Any]) -> None:
    """It names the prompts, so that work with other outputs or arrivals can be found by it."""
    synthetic = {"source": "synthetic"}
    assert prepare(synthetic | change, batch_size=1).prompts_sha256 == prepare(synthetic).prompts_sha256


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


def test_synthetic_prompts_of_one_length_are_the_same_on_every_machine() -> None:
    """A golden value, from before lengths could be drawn."""
    prepared = prepare({"source": "synthetic", "n_prompts": 3, "max_input_tokens": 4}, seed=5)
    assert prepared.prompts_sha256 == "5aa64a0bc8fbb84cd8c5ea33cd433d604cc806d850c028ca162cfe3edfbb8fae"


UNIFORM = {"distribution": "uniform", "minimum": 3}
DRAWN = {"source": "synthetic", "n_prompts": 300, "max_input_tokens": 50, "max_output_tokens": 20, "ignore_eos": True}


def test_lengths_of_prompts_and_of_outputs_are_drawn_apart_and_come_back_with_the_seed() -> None:
    drawn = DRAWN | {"input_lengths": UNIFORM, "output_lengths": UNIFORM}
    first, again, other = (prepare(drawn, seed=seed).requests for seed in (1, 1, 2))
    inputs, outputs = ([len(one.token_ids) for one in first], [one.max_output_tokens for one in first])
    assert (min(inputs), max(inputs), min(outputs), max(outputs)) == (3, 50, 3, 20)
    assert abs(np.corrcoef(inputs, outputs)[0, 1]) < 0.2
    assert first == again
    assert [len(one.token_ids) for one in other] != inputs
    assert [one.max_output_tokens for one in other] != outputs


def test_drawing_one_length_changes_neither_the_other_nor_the_tokens() -> None:
    plain, both = prepare(DRAWN), prepare(DRAWN | {"input_lengths": UNIFORM, "output_lengths": UNIFORM})
    outputs_only = prepare(DRAWN | {"output_lengths": UNIFORM})
    assert [one.max_output_tokens for one in outputs_only.requests] == [one.max_output_tokens for one in both.requests]
    assert all(whole[: len(part)] == part for whole, part in zip(ids(plain), ids(both), strict=True))


def test_later_passes_have_other_lengths() -> None:
    chosen = config(DRAWN | {"input_lengths": UNIFORM, "output_lengths": UNIFORM})
    passes = prepare_passes(prepare_workload(chosen, loaded_model()), chosen, loaded_model(), 0, 3)
    assert len({tuple(len(one.token_ids) for one in requests) for requests in passes}) == 3
    assert len({tuple(one.max_output_tokens for one in requests) for requests in passes}) == 3


@pytest.mark.parametrize("order", ["shuffled", "longest_first"])
def test_a_prompt_keeps_its_output_length_wherever_the_order_puts_it(order: str) -> None:
    drawn = DRAWN | {"input_lengths": UNIFORM, "output_lengths": UNIFORM}
    given, ordered = (
        [(one.token_ids, one.max_output_tokens) for one in prepare(drawn | {"order": name}).requests]
        for name in ("given", order)
    )
    assert given != ordered
    assert sorted(given) == sorted(ordered)


def test_what_must_fit_into_the_context_is_each_prompt_with_its_own_output() -> None:
    drawn = DRAWN | {"output_lengths": {"distribution": "lognormal", "median": 2, "sigma": 0.1}}
    most = max(one.max_output_tokens for one in prepare(drawn).requests)
    assert most < 20
    prepare(drawn, model={"context_length": 50 + most})
    with pytest.raises(ConfigInvalid, match=f"50 tokens and up to {most} output tokens, needs {50 + most} positions"):
        prepare(drawn, model={"context_length": 50 + most - 1})


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.+?)```", DOCUMENTATION, flags=re.DOTALL))
def test_the_examples_of_the_documentation_can_be_prepared(example: str) -> None:
    chosen = parse_config(yaml.safe_load(example))
    assert len(prepare_workload(chosen, loaded_model()).requests) == chosen.workload.n_prompts


def test_in_an_open_loop_requests_are_due_in_their_order_and_processes_share_one_schedule() -> None:
    chosen = config(
        {"n_prompts": 7, "arrivals": {"process": "gamma", "rate_per_s": 5.0, "shape": 0.5}}, num_processes=2
    )
    workload = prepare_workload(chosen, loaded_model())
    due_s = schedule(chosen.workload.arrivals, 7, chosen.seed).tolist()
    assert [one.due_s for one in workload.requests] == due_s
    shares = [share_of(workload, index, chosen).requests for index in (0, 1)]
    assert [[one.due_s for one in share] for share in shares] == [due_s[::2], due_s[1::2]]
    assert [[one.index for one in share] for share in shares] == [[0, 1, 2, 3], [0, 1, 2]]
    assert {one.due_s for one in prepare().requests} == {None}


def test_the_models_chat_template_is_used_only_when_asked_for_and_there() -> None:
    with_template = {"tokenizer": WordTokenizer(has_chat_template=True)}
    plain = ids(prepare({"max_input_tokens": 100, "add_special_tokens": False}, with_template))
    chat = ids(prepare({"max_input_tokens": 100, "chat_template": "model"}, with_template))
    assert chat == [(1, *prompt, 2) for prompt in plain]
    assert prepare({"max_input_tokens": 100, "chat_template": "model"}, with_template).cut_prompts == 0
    shortest = min(map(len, chat))
    cut = prepare({"max_input_tokens": shortest, "chat_template": "model"}, with_template)
    assert cut.cut_prompts == sum(len(prompt) > shortest for prompt in chat)
    with pytest.raises(ConfigInvalid, match="has no chat template"):
        prepare({"chat_template": "model"})


def test_prompts_that_do_not_fit_the_models_context_are_refused_and_those_that_just_fit_are_not() -> None:
    # 8 input and 4 output tokens
    prepare(model={"context_length": 12})
    with pytest.raises(ConfigInvalid, match="needs 12 positions; the model builtin:tiny-llama has 11"):
        prepare(model={"context_length": 11})
