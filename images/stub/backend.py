"""A backend without a model: it sleeps for a told time and makes up deterministic tokens.

For plumbing tests: it starts fast, and fails or hangs in every way that real engines do.
"""

from __future__ import annotations

import os
import signal
import time
from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from images.contract.config import ExperimentConfig
from images.contract.job import (
    GpuUnusable,
    JobContext,
    MeasurementFailed,
    ModelUnavailable,
    OutOfMemory,
)
from images.contract.options.stub import StubOptions
from images.harness.backend import Arrivals, Generation, LoadedModel, MemoryUse, Request

_PAD, _BOS, _EOS, _BYTES = 0, 1, 2, 3
_FAILURES = {
    "model_unavailable": ModelUnavailable("the stub was told that its model is not there.", "Set stub.fail: none."),
    "out_of_memory": OutOfMemory("the stub was told to run out of memory.", "Set stub.fail: none."),
    "gpu_unusable": GpuUnusable("the stub was told that its GPU is unusable.", "Set stub.fail: none."),
    "measurement_failed": MeasurementFailed("the stub was told to fail.", "Set stub.fail: none."),
    "bug": RuntimeError("the stub was told to have a bug"),
}


class ByteTokenizer:
    """One token per UTF-8 byte."""

    vocab_size = 256 + _BYTES
    special_ids = frozenset({_PAD, _BOS, _EOS})
    has_chat_template = False

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [_BOS] * add_special_tokens + [byte + _BYTES for byte in text.encode()]

    def encode_chat(self, text: str) -> list[int]:
        return self.encode(text, add_special_tokens=True)


class Backend:
    packages: tuple[str, ...] = ()

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel:
        self._options = config.stub or StubOptions()
        self._batch_size = config.batch_size
        self._rank = context.process_index
        self._noise = np.random.default_rng([config.seed, context.cycle])
        self._delivered: tuple[int, list[Generation]] = (0, [])
        self._phase = "load"
        self._misbehave()
        time.sleep(self._options.load_s)
        self._phase = "warm_up"
        return LoadedModel(tokenizer=ByteTokenizer(), device="none")

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        self._misbehave()
        # A warm-up round is short: only the window is told its length.
        seconds = self._window_s() if self._phase == "window" else 0.005
        started = time.perf_counter()
        batches = [requests[at : at + self._batch_size] for at in range(0, len(requests), self._batch_size)]
        share = seconds / len(batches)
        generations = [
            _generate(request, started + share * number, share)
            for number, batch in enumerate(batches)
            for request in batch
        ]
        before, _ = self._delivered
        after = before + sum(len(one.output_ids) for one in generations)
        self._delivered = (before, generations)
        time.sleep(max(started + seconds - time.perf_counter(), 0.0))
        self._delivered = (after, [])
        return generations

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        """Each request takes one of batch_size slots for a told time, as soon as there is one."""
        self._misbehave()
        before, _ = self._delivered
        free_s = [0.0] * self._batch_size
        generations: list[Generation] = []
        while not arrivals.is_over:
            for request in arrivals.take(None):
                started = max(time.perf_counter(), heappop(free_s))
                heappush(free_s, started + self._options.service_s)
                generations.append(_generate(request, started, self._options.service_s))
                self._delivered = (before, generations)
        time.sleep(max(max(free_s) - time.perf_counter(), 0.0))
        self._delivered = (before + sum(len(one.output_ids) for one in generations), [])
        return generations

    def delivered(self) -> int | None:
        """What earlier runs delivered, and what by its schedule the present one has until now."""
        finished, running = self._delivered
        now_s = time.perf_counter()
        return finished + sum(bisect_right(one.delivery_s or (), now_s) for one in running)

    def drain(self) -> None:
        return None

    def reset_caches(self) -> bool:
        self._phase = "window"  # the harness empties caches just before the window opens
        return True

    def memory(self) -> MemoryUse:
        return MemoryUse()

    def findings(self) -> tuple[str, ...]:
        return ()

    def padding_fraction(self) -> float | None:
        return None

    def close(self) -> None:
        return None

    def _window_s(self) -> float:
        factor = 1.0 + self._options.noise * float(self._noise.standard_normal())
        return self._options.window_s * max(factor, 0.0) * (1.0 + self._options.slowdown_per_rank * self._rank)

    def _misbehave(self) -> None:
        if self._phase != self._options.when or self._options.rank not in (None, self._rank):
            return
        if self._options.hang != "none":
            if self._options.hang == "uninterruptible":
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            time.sleep(1e6)
        if self._options.fail == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._options.fail != "none":
            raise _FAILURES[self._options.fail]


def _generate(request: Request, started_s: float, seconds: float) -> Generation:
    """Tokens that depend on the prompt only, spread evenly over the batch's time."""
    source = np.random.default_rng(list(request.token_ids))
    full = request.max_output_tokens
    count = full if request.ignore_eos else int(source.integers(max(full // 2, 1), full + 1))
    ids = source.integers(_BYTES, ByteTokenizer.vocab_size, size=count).tolist()
    stopped = not request.ignore_eos and count < full
    if stopped:
        ids[-1] = _EOS
    times = started_s + seconds * np.arange(1, count + 1) / full
    return Generation(
        request_index=request.index,
        output_ids=tuple(ids),
        finish_reason="stop" if stopped else "length",
        started_s=started_s,
        delivery_s=tuple(times.tolist()),
        delivery_tokens=(1,) * count,
    )
