"""The requests: rendered, tokenised and cut once, so that every backend gets the same token ids."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, MeasurementFailed
from images.harness.backend import LoadedModel, Request, Tokenizer

# Written for joulehouse. 12 x 24 x 12 distinct prompts, walked so that neighbours differ in every part.
_TASKS = (
    "Explain {} to {}.",
    "Write a short story about {} for {}.",
    "List five common mistakes people make with {}, addressed to {}.",
    "Summarise what is known about {} in one paragraph for {}.",
    "Compare two ways of thinking about {} and recommend one to {}.",
    "Draft an email that asks a colleague for help with {}; the reader is {}.",
    "Invent a quiz of three questions on {} for {}, with answers.",
    "Describe step by step how one would start learning about {} if one were {}.",
    "Give arguments for and against spending public money on {}, in words that suit {}.",
    "Tell the history of {} as a timeline for {}.",
    "Translate the main idea of {} into a metaphor that {} would like.",
    "Write a function in any programming language that has to do with {}, with comments for {}.",
)
_TOPICS = (
    "the tides",
    "electric motors",
    "sourdough bread",
    "public libraries",
    "prime numbers",
    "bird migration",
    "railway timetables",
    "glass making",
    "the immune system",
    "chess openings",
    "urban trees",
    "compound interest",
    "sleep",
    "weather forecasts",
    "open source software",
    "bicycle gears",
    "coral reefs",
    "jazz harmony",
    "vaccines",
    "map projections",
    "heat pumps",
    "sorting algorithms",
    "volcanoes",
    "the printing press",
)
_READERS = (
    "a curious child",
    "a busy manager",
    "a first-year student",
    "a retired engineer",
    "a sceptical neighbour",
    "a new colleague",
    "a school class",
    "a journalist",
    "a nurse on night shift",
    "a small business owner",
    "a museum visitor",
    "a policy maker",
)
BUILTIN_PROMPTS = len(_TASKS) * len(_TOPICS) * len(_READERS)
_WARMUP_STREAM, _PASS_STREAM = 1, 2  # keep the random numbers of warm-up and later passes apart from the workload's


@dataclass(frozen=True, slots=True)
class PreparedWorkload:
    """Requests in the order they are handed over, and the hash of their token ids."""

    requests: tuple[Request, ...]
    prompts_sha256: str


def prepare_workload(config: ExperimentConfig, loaded: LoadedModel) -> PreparedWorkload:
    """Render, tokenise, cut and order the prompts.

    Raises:
        ConfigInvalid: no or malformed prompts, too few for n_prompts, or too long for the model.
    """
    ordered = _prompts(config, loaded, number=0)
    digest = hashlib.sha256()
    for ids in ordered:
        digest.update(np.asarray([len(ids), *ids], dtype="<i8").tobytes())
    requests = tuple(_request(index, ids, config, ignore_eos=None) for index, ids in enumerate(ordered))
    return PreparedWorkload(requests, digest.hexdigest())


def share_of(workload: PreparedWorkload, index: int, config: ExperimentConfig) -> PreparedWorkload:
    """What process `index` of `config.num_processes` works on: every n-th request, counted from 0 again.

    The hash stays that of all requests.

    Raises:
        ConfigInvalid: there are fewer requests than processes.
    """
    if len(workload.requests) < config.num_processes:
        raise ConfigInvalid(
            f"workload.n_prompts is {len(workload.requests)}, fewer than num_processes ({config.num_processes}).",
            "Raise workload.n_prompts, or lower num_processes.",
        )
    share = workload.requests[index :: config.num_processes]
    return replace(workload, requests=tuple(replace(request, index=at) for at, request in enumerate(share)))


def prepare_passes(
    workload: PreparedWorkload, config: ExperimentConfig, loaded: LoadedModel, index: int, count: int
) -> list[tuple[Request, ...]]:
    """The requests of process `index` in each of `count` passes, `workload` being the first.

    Every pass has prompts of its own where the source has that many, so that no cache serves it.
    """
    passes = [workload.requests]
    for number in range(1, count):
        share = _prompts(config, loaded, number)[index :: config.num_processes]
        passes.append(tuple(_request(at, ids, config, ignore_eos=None) for at, ids in enumerate(share)))
    return passes


def warmup_pass(measured: Sequence[Request], config: ExperimentConfig, tokenizer: Tokenizer) -> list[Request]:
    """All measured lengths in their order, so every batch shape of the window, with other tokens.

    Compilers and kernel libraries prepare themselves for each shape they meet.
    """
    return _disguised(measured, measured, config, tokenizer, stream=0)


def warmup_round(
    measured: Sequence[Request], config: ExperimentConfig, tokenizer: Tokenizer, index: int
) -> list[Request]:
    """One round of steady work: the lengths of the largest batch, with other tokens in each round."""
    return _disguised(largest_batch(measured, config), measured, config, tokenizer, stream=1 + index)


def largest_batch(measured: Sequence[Request], config: ExperimentConfig) -> Sequence[Request]:
    """The measured batch with the most prompt positions, padding included."""
    batches = [measured[start : start + config.batch_size] for start in range(0, len(measured), config.batch_size)]
    return max(batches, key=lambda batch: len(batch) * max(len(request.token_ids) for request in batch))


def _disguised(
    shape: Sequence[Request], measured: Sequence[Request], config: ExperimentConfig, tokenizer: Tokenizer, stream: int
) -> list[Request]:
    """Random prompts of the lengths in `shape`.

    The first token differs from every measured prompt's first token, so nothing that is cached here
    can serve the window. Output runs to its full length, so that rounds are alike.
    """
    generator = np.random.default_rng([config.seed, _WARMUP_STREAM, stream])
    allowed = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    firsts = np.setdiff1d(allowed, sorted({request.token_ids[0] for request in measured}))
    if firsts.size == 0:
        raise MeasurementFailed(
            "the measured prompts begin with every token there is, so no warm-up prompt can differ from them.",
            "Set workload.n_prompts lower, or measurement.warmup.enabled: false.",
        )
    requests = []
    for index, request in enumerate(shape):
        ids = generator.choice(allowed, size=len(request.token_ids))
        ids[0] = generator.choice(firsts)
        requests.append(_request(index, ids.tolist(), config, ignore_eos=True))
    return requests


def _prompts(config: ExperimentConfig, loaded: LoadedModel, number: int) -> list[list[int]]:
    """The cut and ordered prompts of pass `number`."""
    prompts = [ids[: config.workload.max_input_tokens] for ids in _token_ids(config, loaded.tokenizer, number)]
    _check_prompts(prompts, config, loaded)
    return _ordered(prompts, config)


def _token_ids(config: ExperimentConfig, tokenizer: Tokenizer, number: int) -> list[list[int]]:
    workload = config.workload
    if workload.source == "synthetic":
        generator = np.random.default_rng([config.seed, _PASS_STREAM, number] if number else [config.seed])
        allowed = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
        size = (workload.n_prompts, workload.max_input_tokens)
        return [list(map(int, row)) for row in generator.choice(allowed, size=size)]
    texts = (
        _builtin_texts(config, number)
        if config.prompt_file is None
        else _file_texts(config.prompt_file, config, number)
    )
    if workload.chat_template == "model":
        if not tokenizer.has_chat_template:
            raise ConfigInvalid(f"the model {config.model} has no chat template.", "Set workload.chat_template: off.")
        return [tokenizer.encode_chat(text) for text in texts]
    return [tokenizer.encode(text, add_special_tokens=workload.add_special_tokens) for text in texts]


def _builtin_texts(config: ExperimentConfig, number: int) -> list[str]:
    wanted = config.workload.n_prompts
    if wanted > BUILTIN_PROMPTS:
        raise ConfigInvalid(
            f"workload.n_prompts is {wanted}, but there are {BUILTIN_PROMPTS} built-in prompts.",
            "Ask for fewer, or set workload.source to synthetic or a .jsonl file.",
        )
    combinations = itertools.product(_READERS, _TOPICS, _TASKS)
    texts = [task.format(topic, reader) for reader, topic, task in combinations]
    # 1361 is prime to 3456, so the walk meets every prompt once before it repeats.
    return [texts[index * 1361 % BUILTIN_PROMPTS] for index in range(number * wanted, (number + 1) * wanted)]


def _file_texts(path: Path, config: ExperimentConfig, number: int) -> list[str]:
    """The first n_prompts prompts, in later passes the next ones, round and round; the hash covers the whole file."""
    try:
        # Not splitlines(): JSON allows U+2028 and the like inside a string.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"the prompt file {path} cannot be read ({error}).", "Correct workload.source.") from None
    texts = [_prompt(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(texts) < config.workload.n_prompts:
        raise ConfigInvalid(
            f"the prompt file {path} holds {len(texts)} prompts; n_prompts is {config.workload.n_prompts}.",
            "Set workload.n_prompts to what the file holds, or add prompts.",
        )
    wanted = config.workload.n_prompts
    return [texts[at % len(texts)] for at in range(number * wanted, (number + 1) * wanted)]


def _prompt(line: str, number: int, path: Path) -> str:
    try:
        text = json.loads(line)["prompt"]
        text.encode()  # half a surrogate pair is no text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = None
    if not isinstance(text, str) or not text:
        raise ConfigInvalid(
            f'line {number} of {path} is not a JSON object with a text "prompt".', "Correct or remove that line."
        )
    return text


def _check_prompts(prompts: Sequence[Sequence[int]], config: ExperimentConfig, loaded: LoadedModel) -> None:
    if any(not ids for ids in prompts):
        raise ConfigInvalid("a prompt has no tokens.", "Set workload.add_special_tokens: true or remove empty prompts.")
    longest = max(map(len, prompts))
    needed = longest + config.workload.max_output_tokens
    if loaded.context_length is not None and needed > loaded.context_length:
        raise ConfigInvalid(
            f"the longest prompt ({longest} tokens) and max_output_tokens ({config.workload.max_output_tokens}) need "
            f"{needed} positions; the model {config.model} has {loaded.context_length}.",
            "Lower workload.max_input_tokens or workload.max_output_tokens.",
        )


def _ordered(prompts: list[list[int]], config: ExperimentConfig) -> list[list[int]]:
    if config.workload.order == "shuffled":
        order = np.random.default_rng([config.seed]).permutation(len(prompts))
        return [prompts[index] for index in order]
    if config.workload.order == "longest_first":
        return sorted(prompts, key=len, reverse=True)
    return prompts


def _request(index: int, ids: list[int], config: ExperimentConfig, *, ignore_eos: bool | None) -> Request:
    workload = config.workload
    return Request(
        index=index,
        token_ids=tuple(ids),
        max_output_tokens=workload.max_output_tokens,
        ignore_eos=workload.ignore_eos if ignore_eos is None else ignore_eos,
    )
