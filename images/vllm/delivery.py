"""From what the engine hands out to generations, with the engine's own times.

Its times are `time.monotonic()` in the engine's process; on Linux that is the clock of `time.perf_counter()`, which all
processes of a machine share. A token's time is when the engine had it on the host, whichever way it is taken from
there, so TTFT means the same with and without `vllm.token_times`. `arrival_time` is the wall clock and not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from images.contract.job import MeasurementFailed
from images.harness.backend import Generation

_FINISHED: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}


@dataclass(slots=True)
class Counts:
    """Output tokens and preemptions since load; a stat logger of vLLM's, called at every step by the thread that takes
    it. One thread counts, any other may look.
    """

    tokens: int = 0
    preemptions: int = 0

    def record(self, _scheduler: object, iteration: Any, *_more: object, **_named: object) -> None:
        if iteration is not None:
            self.tokens += iteration.num_generation_tokens
            self.preemptions += iteration.num_preempted_reqs

    def log(self) -> None:
        """Nothing: vLLM's own loggers say it."""

    def log_engine_initialized(self) -> None:
        """Nothing."""

    def record_sleep_state(self, _sleep: int = 0, _level: int = 0) -> None:
        """Nothing: it is never put to sleep."""


@dataclass(slots=True)
class Deliveries:
    """What came for one request so far, delivery by delivery."""

    output_ids: list[int] = field(default_factory=list)
    stamps_s: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, output: Any) -> None:
        """Take over one output of the engine's stream, at once: its metrics go on changing."""
        ids = output.outputs[0].token_ids
        if ids:
            self.output_ids.extend(ids)
            self.stamps_s.append(output.metrics.last_token_ts)
            self.counts.append(len(ids))


def stamped(request_index: int, last: Any, deliveries: Deliveries) -> Generation:
    """The generation of a request whose tokens were taken one delivery after the other.

    Args:
        last: vLLM's RequestOutput that ended it.
    """
    return Generation(
        request_index=request_index,
        output_ids=tuple(deliveries.output_ids),
        finish_reason=_finish_reason(request_index, last),
        started_s=last.metrics.scheduled_ts or None,
        delivery_s=tuple(deliveries.stamps_s),
        delivery_tokens=tuple(deliveries.counts),
        cached_input_tokens=last.num_cached_tokens,
    )


def whole(request_index: int, output: Any) -> Generation:
    """The generation of a request whose output was taken as one."""
    metrics = output.metrics
    return Generation(
        request_index=request_index,
        output_ids=tuple(output.outputs[0].token_ids),
        finish_reason=_finish_reason(request_index, output),
        started_s=metrics.scheduled_ts or None,
        delivery_s=None,
        delivery_tokens=None,
        cached_input_tokens=output.num_cached_tokens,
        ends_s=(metrics.first_token_ts, metrics.last_token_ts),
    )


def _finish_reason(request_index: int, output: Any) -> Literal["stop", "length"]:
    reason = output.outputs[0].finish_reason
    if reason not in _FINISHED:
        raise MeasurementFailed(f"vLLM ended request {request_index} with '{reason}'.", "Look at its log.")
    return _FINISHED[reason]
