"""The built-in tiny Llama, loaded and asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from images.contract.config import parse_config
from images.contract.job import JobContext
from images.harness.backend import Generation, LoadedModel, Request
from images.pytorch.backend import Backend

# Tokens 3 to 258 are bytes; lengths differ, so a batch of them is padded.
PROMPTS: tuple[tuple[int, ...], ...] = tuple(
    tuple(3 + (start * 37 + step * 11) % 256 for step in range(length))
    for start, length in enumerate((5, 31, 12, 1, 18, 23))
)


def load(**changes: Any) -> tuple[Backend, LoadedModel]:
    backend = Backend()
    document = {"batch_size": len(PROMPTS), "dtype": "float32", **changes}
    return backend, backend.load(parse_config(document), JobContext())


def requests(
    prompts: Sequence[Sequence[int]] = PROMPTS, *, max_output_tokens: int = 24, ignore_eos: bool = False
) -> list[Request]:
    return [
        Request(index=index, token_ids=tuple(ids), max_output_tokens=max_output_tokens, ignore_eos=ignore_eos)
        for index, ids in enumerate(prompts)
    ]


def outputs(generations: Sequence[Generation]) -> list[tuple[int, ...]]:
    """Output ids by request."""
    return [one.output_ids for one in sorted(generations, key=lambda one: one.request_index)]


def one_by_one(backend: Backend, asked: Sequence[Request]) -> list[Generation]:
    return [generation for request in asked for generation in backend.run([request])]


@contextmanager
def end_tokens(backend: Backend, ids: set[int]) -> Iterator[None]:
    """Other end tokens than the model's own, which random weights hardly ever meet."""
    before = backend._eos_ids
    backend._eos_ids = frozenset(ids)
    try:
        yield
    finally:
        backend._eos_ids = before
