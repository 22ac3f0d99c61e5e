"""One request in TensorRT-LLM's terms, and its result in ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from images.contract.job import MeasurementFailed
from images.contract.work import Sampling
from images.harness.backend import Generation, Request
from images.trt.engine import SamplingParams


@dataclass(slots=True)
class Deliveries:
    """When tokens reached the host, and how many each time."""

    stamps: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    answered_s: float = 0.0

    def add(self, total: int, now_s: float) -> int:
        """Note that `total` tokens are there now; returns how many of them are new."""
        new = total - sum(self.counts)
        if new > 0:
            self.stamps.append(now_s)
            self.counts.append(new)
        self.answered_s = now_s
        return new

    def add_end_token(self) -> None:
        """Count a token that the engine made and does not show: it came with the last answer."""
        self.add(sum(self.counts) + 1, self.answered_s)


def sampling_params(request: Request, sampling: Sampling, end_ids: Sequence[int], pad_id: int, seed: int) -> Any:
    """Everything is said, so that the model's generation_config.json changes nothing behind our back.

    Args:
        seed: the experiment's; each request draws from numbers of its own.
    """
    chosen: dict[str, Any] = {"top_k": 1}  # greedy, for both engines
    if sampling.temperature > 0:
        chosen = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": seed + request.index,
        }
    ends = () if request.ignore_eos else tuple(end_ids)
    return SamplingParams(
        max_tokens=request.max_output_tokens,
        end_id=ends[0] if ends else -1,
        pad_id=pad_id,
        stop_token_ids=list(ends[1:]) or None,
        include_stop_str_in_output=True,
        ignore_eos=request.ignore_eos,
        detokenize=False,
        return_perf_metrics=True,
        **chosen,
    )


def generation(
    request: Request,
    result: Any,
    end_ids: Sequence[int],
    deliveries: Deliveries | None,
    cached_input_tokens: int | None,
) -> Generation:
    """What came back for a request that is done.

    Args:
        result: RequestOutput.
        deliveries: None if they were not followed.

    Raises:
        MeasurementFailed: it did not end by itself.
    """
    output = result.outputs[0]
    if output.finish_reason not in ("stop", "length"):
        raise MeasurementFailed(
            f"request {request.index} ended as {output.finish_reason}.", "Look at the log of the engine."
        )
    ids = list(output.token_ids)
    if output.finish_reason == "stop" and end_ids and (not ids or ids[-1] not in end_ids):
        ids.append(end_ids[0])  # generated, but the TensorRT backend leaves it out
        if deliveries is not None:
            deliveries.add_end_token()
    times = _timing(output)
    return Generation(
        request_index=request.index,
        output_ids=tuple(ids),
        finish_reason=output.finish_reason,
        started_s=_moment(times, "first_scheduled_time"),
        delivery_s=tuple(deliveries.stamps) if deliveries is not None else None,
        delivery_tokens=tuple(deliveries.counts) if deliveries is not None else None,
        cached_input_tokens=cached_input_tokens,
        ends_s=None if deliveries is not None else _ends(times),
    )


def _timing(output: Any) -> Any:
    metrics = output.request_perf_metrics
    return None if metrics is None else metrics.timing_metrics


def _ends(times: Any) -> tuple[float, float] | None:
    first_s, last_s = _moment(times, "first_token_time"), _moment(times, "last_token_time")
    return None if first_s is None or last_s is None else (first_s, last_s)


def _moment(times: Any, name: str) -> float | None:
    """On `time.perf_counter()`'s clock: on Linux that and the engine's std::chrono::steady_clock are one.

    Both are CLOCK_MONOTONIC. The engine gives time since that clock's start, and 0 for what has not happened.
    """
    since_start: timedelta | None = getattr(times, name, None)
    return since_start.total_seconds() if since_start else None
