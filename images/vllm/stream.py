"""Requests in vLLM's engine, and what comes back step by step.

The engine runs in a process of its own and goes on whether anybody listens; a step here waits for the next thing that
it has to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any

from vllm.inputs import tokens_input
from vllm.v1.engine import EngineCoreOutputs

from images.harness.backend import Arrivals, Generation, Request
from images.vllm.delivery import Deliveries, stamped, whole


class Stream:
    """What is asked of an engine and not answered yet.

    Args:
        engine: vLLM's LLMEngine.
        sampling: vLLM's SamplingParams for a request.
        stamps: whether the engine hands out tokens as they come, which `sampling` has to ask for.
    """

    def __init__(self, engine: Any, sampling: Callable[[Request], Any], *, stamps: bool) -> None:
        self._engine = engine
        self._sampling = sampling
        self._deliveries: dict[int, Deliveries] | None = {} if stamps else None

    @property
    def is_busy(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            prompt = tokens_input(prompt_token_ids=list(request.token_ids))
            self._engine.add_request(str(request.index), prompt, self._sampling(request))

    def step(self) -> list[Generation]:
        """The requests that end with the engine's next message; none if it is of something else."""
        return [done for output in self._engine.step() if (done := self._take(output)) is not None]

    def _take(self, output: Any) -> Generation | None:
        index = int(output.request_id)
        if self._deliveries is None:
            return whole(index, output) if output.finished else None
        own = self._deliveries.setdefault(index, Deliveries())
        own.add(output)
        return stamped(index, output, self._deliveries.pop(index)) if output.finished else None


class Mailbox:
    """Requests that have arrived while the engine was waited for.

    A step waits until the engine says something, up to a whole step of its own. A request that arrives meanwhile would
    be handed over only after that, and then miss the step that begins at that moment; a server's engine has it in time.
    So a thread takes arrivals and puts an empty message among the engine's, which ends the wait.
    """

    def __init__(self, engine: Any) -> None:
        # There is no such queue where the engine runs in this process; its steps end by themselves.
        self._messages: SimpleQueue[Any] | None = getattr(engine.engine_core, "outputs_queue", None)
        self._changed = Condition()
        self._arrived: deque[Request] = deque()
        self._is_over = False

    def take(self, *, wait: bool) -> list[Request]:
        """What has arrived; with `wait`, nothing only if no more will come."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._arrived or self._is_over)
            taken = list(self._arrived)
            self._arrived.clear()
        return taken

    def open(self, arrivals: Arrivals) -> None:
        """Begin to take them; their source ends it by saying that no more will come."""
        Thread(target=self._collect, args=(arrivals,), name="mailbox", daemon=True).start()

    def _collect(self, arrivals: Arrivals) -> None:
        while taken := arrivals.take(None):
            with self._changed:
                self._arrived.extend(taken)
                self._changed.notify()
            if self._messages is not None:
                self._messages.put(EngineCoreOutputs())
        with self._changed:
            self._is_over = True
            self._changed.notify()


def run_through(stream: Stream, requests: Sequence[Request]) -> list[Generation]:
    """A closed batch: all at once, until all are done."""
    stream.add(requests)
    generations: list[Generation] = []
    while stream.is_busy:
        generations += stream.step()
    return generations


def serve_all(stream: Stream, mailbox: Mailbox, arrivals: Arrivals) -> list[Generation]:
    """An open loop: each when it arrives, until all have come and are done."""
    generations: list[Generation] = []
    mailbox.open(arrivals)
    while (arrived := mailbox.take(wait=not stream.is_busy)) or stream.is_busy:
        stream.add(arrived)
        generations += stream.step()
    return generations
