"""The engine: a thread that gives every running request a token per step, in real time."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .sampling_params import SamplingParams

STEP_S = 0.002


@dataclass
class TimingMetrics:
    arrival_time: timedelta = timedelta(0)
    first_scheduled_time: timedelta = timedelta(0)
    first_token_time: timedelta = timedelta(0)
    last_token_time: timedelta = timedelta(0)


@dataclass
class RequestPerfMetrics:
    timing_metrics: TimingMetrics = field(default_factory=TimingMetrics)


@dataclass
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    request_perf_metrics: RequestPerfMetrics | None = None


@dataclass
class _Answer:
    token_ids: list[int]
    finish_reason: str | None
    metrics: RequestPerfMetrics | None
    cached_tokens: int


class RequestOutput:
    """Filled with what its queue brings, whenever the caller waits for it."""

    def __init__(self, request_id: int, prompt_token_ids: list[int]) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.outputs = [CompletionOutput()]
        self.finished = False
        self.cached_tokens = 0
        self._queue: queue.SimpleQueue[_Answer | RuntimeError] = queue.SimpleQueue()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            self._arrived = asyncio.Event()
        except RuntimeError:
            self._loop = None

    def put(self, answer: _Answer | RuntimeError) -> None:
        """Called by the engine's thread."""
        self._queue.put(answer)
        if self._loop is not None:
            with suppress(RuntimeError):  # nobody waits any more: the loop is closed
                self._loop.call_soon_threadsafe(self._arrived.set)

    def result(self, timeout: float | None = None) -> RequestOutput:
        while not self.finished:
            self._take(self._queue.get(timeout=timeout))
        return self

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        while self._queue.empty():
            await self._arrived.wait()
            self._arrived.clear()
        self._take(self._queue.get())
        return self

    def _take(self, answer: _Answer | RuntimeError) -> None:
        if isinstance(answer, RuntimeError):
            raise answer
        output = self.outputs[0]
        output.token_ids.extend(answer.token_ids)
        output.finish_reason = answer.finish_reason
        output.request_perf_metrics = answer.metrics
        self.cached_tokens = answer.cached_tokens
        self.finished = answer.finish_reason is not None


class _Running:
    """One request in the engine."""

    def __init__(self, result: RequestOutput, params: SamplingParams, streaming: bool, timed: bool, vocab: int) -> None:
        self._result, self._params, self._streaming, self._vocab = result, params, streaming, vocab
        self._metrics = RequestPerfMetrics() if timed else None
        self._unsent: list[int] = []
        self._count = 0
        self._seed = zlib.crc32(str(result.prompt_token_ids).encode())
        self.cached_tokens = 0
        self.mark("arrival_time")

    def mark(self, name: str) -> None:
        if self._metrics is not None:
            setattr(self._metrics.timing_metrics, name, timedelta(seconds=time.monotonic()))

    def step(self, shows_end_token: bool) -> bool:
        """One more token; whether it was the last."""
        self._count += 1
        if self._count == 1:
            self.mark("first_token_time")
        end = self._end_token()
        reason = "stop" if end is not None else "length" if self._count == self._params.max_tokens else None
        token = 3 + zlib.crc32(f"{self._seed} {self._count}".encode()) % (self._vocab - 3)
        if end is None or shows_end_token or end in (self._params.stop_token_ids or ()):
            self._unsent.append(token if end is None else end)
        if reason is not None:
            self.mark("last_token_time")
        if self._streaming or reason is not None:
            self._result.put(_Answer(self._unsent, reason, self._metrics, self.cached_tokens))
            self._unsent = []
        return reason is not None

    def fail(self) -> None:
        self._result.put(RuntimeError("Executor worker died"))

    def _end_token(self) -> int | None:
        """Prompts end by themselves after 1 to 24 tokens, each after its own number of them."""
        if self._params.ignore_eos or self._params.end_id == -1 or self._count != 1 + self._seed % 24:
            return None
        ends: list[int | None] = [self._params.end_id, *(self._params.stop_token_ids or ())]
        return ends[self._seed // 24 % len(ends)]


class Executor:
    def __init__(self, slots: int, vocab: int, shows_end_token: bool, reuses_blocks: bool) -> None:
        self._slots, self._vocab = slots, vocab
        self._shows_end_token, self._reuses_blocks = shows_end_token, reuses_blocks
        self._seen: set[tuple[int, ...]] = set()
        self._waiting: deque[_Running] = deque()
        self._wake = threading.Event()
        self._ended = False
        self._steps_left = int(os.environ.get("STAND_IN_STEPS", "-1"))
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, prompt: list[int], params: SamplingParams, streaming: bool, timed: bool) -> RequestOutput:
        result = RequestOutput(0, prompt)
        running = _Running(result, params, streaming, timed, self._vocab)
        if self._reuses_blocks and tuple(prompt) in self._seen:
            running.cached_tokens = len(prompt) - 1
        self._seen.add(tuple(prompt))
        self._waiting.append(running)
        if self._steps_left == 0:
            running.fail()
        self._wake.set()
        return result

    def shutdown(self) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        running: list[Any] = []
        while not self._ended:
            while self._waiting and len(running) < self._slots:
                one = self._waiting.popleft()
                one.mark("first_scheduled_time")
                running.append(one)
            if not running:
                self._wake.wait()
                self._wake.clear()
                continue
            time.sleep(STEP_S)
            if self._steps_left == 0:
                for one in (*running, *self._waiting):
                    one.fail()
                return
            self._steps_left -= 1
            running = [one for one in running if not one.step(self._shows_end_token)]
