"""The prompts of each source: rendered, tokenised and cut, so that every backend gets the same token ids."""

from __future__ import annotations

import itertools
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid
from images.harness.backend import Tokenizer
from images.harness.lengths import draw_lengths

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
_PASS_STREAM, _LENGTHS_STREAM = 2, 4  # keep these random numbers apart from each other's and all others of the seed


def check_prompts(config: ExperimentConfig) -> None:
    """What can be known of the prompts before a model is loaded, which may take minutes.

    Raises:
        ConfigInvalid: the source has no or too few prompts, or a malformed line.
    """
    if config.workload.source != "synthetic":
        _texts(config, 0)


def tokenised_prompts(config: ExperimentConfig, tokenizer: Tokenizer, number: int) -> tuple[list[list[int]], int]:
    """Token ids of the prompts of pass `number` in the source's order, and how many were cut at max_input_tokens.

    Raises:
        ConfigInvalid: the source has no or too few prompts or a malformed line, or there is no chat template to use.
    """
    workload = config.workload
    if workload.source == "synthetic":
        return _random_ids(config, tokenizer, number), 0
    texts = _texts(config, number)
    if workload.chat_template == "model":
        if not tokenizer.has_chat_template:
            raise ConfigInvalid(f"the model {config.model} has no chat template.", "Set workload.chat_template: off.")
        prompts = [tokenizer.encode_chat(text) for text in texts]
    else:
        prompts = [tokenizer.encode(text, add_special_tokens=workload.add_special_tokens) for text in texts]
    longest = workload.max_input_tokens
    return [ids[:longest] for ids in prompts], sum(len(ids) > longest for ids in prompts)


def _texts(config: ExperimentConfig, number: int) -> list[str]:
    if config.prompt_file is None:
        return _builtin_texts(config, number)
    return _file_texts(config.prompt_file, config, number)


def _random_ids(config: ExperimentConfig, tokenizer: Tokenizer, number: int) -> list[list[int]]:
    """A shorter prompt is the start of the one that it would be at full length."""
    workload = config.workload
    generator = np.random.default_rng([config.seed, _PASS_STREAM, number] if number else [config.seed])
    allowed = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    rows = generator.choice(allowed, size=(workload.n_prompts, workload.max_input_tokens))
    lengths = draw_lengths(
        workload.input_lengths,
        workload.max_input_tokens,
        workload.n_prompts,
        np.random.default_rng([config.seed, _LENGTHS_STREAM, number]),
    )
    return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]


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
    texts, wanted = _read(path, _version(path)), config.workload.n_prompts
    if len(texts) < wanted:
        raise ConfigInvalid(
            f"the prompt file {path} holds {len(texts)} prompts; n_prompts is {wanted}.",
            "Set workload.n_prompts to what the file holds, or add prompts.",
        )
    return [texts[at % len(texts)] for at in range(number * wanted, (number + 1) * wanted)]


def _version(path: Path) -> tuple[int, ...]:
    """Of the file's content; nothing of one that cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1)
def _read(path: Path, _version: tuple[int, ...]) -> tuple[str, ...]:
    """Every prompt of a file, which is read once however many passes there are."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a regular file")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigInvalid(f"the prompt file {path} cannot be read ({reason}).", "Correct workload.source.") from None
    try:
        # Not splitlines(): JSON allows U+2028 and the like inside a string.
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = 1 + raw.count(b"\n", 0, error.start)
        raise ConfigInvalid(f"line {number} of {path} is not UTF-8.", "Save the file as UTF-8.") from None
    texts = tuple(_prompt(line, number, path) for number, line in enumerate(lines, start=1) if line.strip())
    if not texts:
        raise ConfigInvalid(
            f"the prompt file {path} is empty.", 'Write one JSON object a line into it, such as {"prompt": "Hello"}.'
        )
    return texts


def _prompt(line: str, number: int, path: Path) -> str:
    """
    Raises:
        ConfigInvalid: there is none in the line, and why.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"is not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else "is not JSON"
    else:
        text = document.get("prompt") if isinstance(document, dict) else None
        if isinstance(text, str) and text and _is_text(text):
            return text
        problem = _what_is_wrong(document)
    raise ConfigInvalid(
        f"line {number} of {path} {problem}.",
        'Correct or remove that line; a line is a JSON object such as {"prompt": "Hello"}.',
    )


def _what_is_wrong(document: object) -> str:
    if not isinstance(document, dict):
        return "is not a JSON object"
    if "prompt" not in document:
        return 'has no "prompt"'
    return 'has an empty "prompt"' if document["prompt"] == "" else 'has a "prompt" that is no text'


def _is_text(text: str) -> bool:
    """Half a surrogate pair, which JSON can write, is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
