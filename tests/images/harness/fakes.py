"""A clock, and a backend and a tokenizer written by hand against the harness's Protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from images.contract.config import ExperimentConfig, parse_config
from images.contract.job import JobContext
from images.harness.backend import Arrivals, Backend, Generation, LoadedModel, MemoryUse, Request
from images.harness.progress import Look, Progress

BOS = 0


class Clock:
    """`time.perf_counter` that stands still until told; the fixture in conftest.py puts it in place."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


CLOCK = Clock()


class WordTokenizer:
    """One token per word, by its length and first letter; id 0 is BOS and ids 1 and 2 are special too."""

    vocab_size = 1000
    special_ids = frozenset({BOS, 1, 2})

    def __init__(self, has_chat_template: bool = False) -> None:
        self.has_chat_template = has_chat_template

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        words = [3 + (len(word) * 31 + sum(word.encode())) % 997 for word in text.split()]
        return [BOS] * add_special_tokens + words

    def encode_chat(self, text: str) -> list[int]:
        return [1, *self.encode(text, add_special_tokens=False), 2]


def loaded_model(**changes: Any) -> LoadedModel:
    return LoadedModel(**{"tokenizer": WordTokenizer(), "device": "none", **changes})


def config(workload: dict[str, Any] | None = None, measurement: dict[str, Any] | None = None, **rest: Any) -> Any:
    """A configuration for the stub with few, short requests, changed as told."""
    small = {"n_prompts": 6, "max_input_tokens": 8, "max_output_tokens": 4}
    document = {"backend": "stub", "batch_size": 4, "workload": {**small, **(workload or {})}, **rest}
    return parse_config({**document, "measurement": measurement or {}})


def answer(request: Request, opened_s: float, output_ids: Sequence[int] = (7, 8, 9), **changes: Any) -> Generation:
    """A generation with one stamp per token, 1 ms apart."""
    count = len(output_ids)
    fields: dict[str, Any] = {
        "request_index": request.index,
        "output_ids": tuple(output_ids),
        "finish_reason": "length",
        "started_s": opened_s,
        "delivery_s": tuple(opened_s + 0.001 * (step + 1) for step in range(count)),
        "delivery_tokens": (1,) * count,
    }
    return Generation(**{**fields, **changes})


@dataclass
class FakeBackend:
    """Answers at once, and writes down what it was asked to do and in which order.

    Attributes:
        seconds: how long each call of run takes, by its number from 0; the last one repeats. Or how long serve takes
            after the last request has come.
        edit: what happens to the generations of the window before they are returned.
        paddings: padded share of each call of run, over and over; empty: it does not tell.
    """

    loaded: LoadedModel = field(default_factory=loaded_model)
    seconds: Sequence[float] = (0.01,)
    load_s: float = 0.0
    empties_caches: bool = True
    changes: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[list[Generation]], list[Generation]] = list
    memory_use: MemoryUse = field(default_factory=MemoryUse)
    paddings: Sequence[float] = ()
    packages: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    batches: list[list[Request]] = field(default_factory=list)

    def load(self, _config: ExperimentConfig, _context: JobContext, /) -> LoadedModel:
        self.calls.append("load")
        CLOCK.advance(self.load_s)
        return self.loaded

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        self.calls.append("run")
        started = CLOCK.now_s
        CLOCK.advance(self.seconds[min(len(self.batches), len(self.seconds) - 1)])
        self.batches.append(list(requests))
        return self.edit([answer(request, started, **self.changes) for request in requests])

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        """Answers each request as soon as it has come, a millisecond of the clock passing between two looks."""
        self.calls.append("serve")
        generations: list[Generation] = []
        served: list[Request] = []
        while not arrivals.is_over:
            CLOCK.advance(0.001)
            taken = arrivals.take(0.001)
            served += taken
            generations += [answer(request, CLOCK.now_s, **self.changes) for request in taken]
        CLOCK.advance(self.seconds[min(len(self.batches), len(self.seconds) - 1)])
        self.batches.append(served)
        return self.edit(generations)

    def delivered(self) -> int | None:
        return None

    def drain(self) -> None:
        self.calls.append("drain")

    def reset_caches(self) -> bool:
        self.calls.append("reset_caches")
        return self.empties_caches

    def memory(self) -> MemoryUse:
        return self.memory_use

    def findings(self) -> tuple[str, ...]:
        return ()

    def padding_fraction(self) -> float | None:
        return self.paddings[(len(self.batches) - 1) % len(self.paddings)] if self.paddings else None

    def close(self) -> None:
        self.calls.append("close")


@dataclass
class Phases:
    """Progress that is only written down."""

    told: list[str] = field(default_factory=list)

    def phase(self, name: str, /) -> None:
        self.told.append(name)

    def following(self, _look: Look, /) -> AbstractContextManager[None]:
        return nullcontext()


def _conform(backend: FakeBackend, phases: Phases) -> tuple[Backend, Progress]:
    return backend, phases  # mypy's proof that the fakes keep the Protocols
