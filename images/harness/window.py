"""The measured window: two marks, all work between them, and the part of it that is described."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from images.contract.config import ExperimentConfig
from images.contract.job import MeasurementFailed
from images.harness.backend import Backend, Generation, Request
from images.harness.meter import Meter
from images.harness.open_loop import feeding

Span = tuple[float, float]
"""From, to, in seconds after the window opened."""


class Marks(Protocol):
    """Where a window opens and closes; several processes share one pair of marks."""

    def gather(self) -> None:
        """Return when every process is ready to open."""
        ...

    def open(self, meter: Meter) -> tuple[float, datetime]:
        """The opening mark, which is now: on the clock (s) and on the wall."""
        ...

    def close(self, finished_s: float, span: Span | None, meter: Meter) -> tuple[float, Span | None]:
        """The closing mark (s), at or after the end of this process's own work, and the part that all describe."""
        ...


class OwnMarks:
    """The marks of a process that shares them with no other."""

    def gather(self) -> None:
        return None

    def open(self, _meter: Meter) -> tuple[float, datetime]:
        return time.perf_counter(), datetime.now(UTC)

    def close(self, finished_s: float, span: Span | None, _meter: Meter) -> tuple[float, Span | None]:
        return finished_s, span


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the workload.

    Attributes:
        arrived_s: when it began, which is when all its requests arrived that are not due later.
        handed_s: open loop: when each was handed over, by request index.
        padding_fraction: padded share of the prompt positions computed in it; None where the backend does not tell.
    """

    requests: Sequence[Request]
    arrived_s: float
    generations: Sequence[Generation]
    handed_s: Mapping[int, float] = field(default_factory=dict)
    padding_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What came back between the marks.

    Attributes:
        opened_s, closed_s: the common marks; finished_s: end of this process's own work.
        span: the part that is described, if not all of it.
    """

    opened_s: float
    finished_s: float
    closed_s: float
    opened_at: datetime
    passes: list[Pass]
    caches_emptied: bool
    span: Span | None

    @property
    def described(self) -> Span:
        """The described part, always as from and to."""
        return self.span or (0.0, self.closed_s - self.opened_s)

    @property
    def padding_fraction(self) -> float | None:
        """Padded share of all prompt positions computed, in all passes; None where the backend does not tell."""
        tokens = positions = 0.0
        for one in self.passes:
            if one.padding_fraction is None:
                return None
            own = sum(len(request.token_ids) for request in one.requests)
            tokens += own
            positions += own / (1.0 - one.padding_fraction)
        return 1.0 - tokens / positions if positions else None


def run_window(
    prepared: Sequence[Sequence[Request]],
    config: ExperimentConfig,
    backend: Backend,
    meter: Meter,
    marks: Marks,
    slots: int | None = None,
) -> Window:
    """Drain, empty caches, mark, whole passes, drain, mark.

    Args:
        prepared: requests of each pass; where more are needed, they come again.
        slots: requests that the backend works on at once; None: batch_size.

    Raises:
        MeasurementFailed: a request did not come back, or came back twice; no part of the window is what the
            methodology describes.
    """
    gc.collect()  # not in the window
    backend.drain()
    caches_emptied = backend.reset_caches()
    backend.drain()
    marks.gather()
    meter.begin()
    opened_s, opened_at = marks.open(meter)
    meter.opened()
    passes: list[Pass] = []
    while True:
        arrived_s = time.perf_counter() if passes else opened_s
        requests = _numbered(prepared[len(passes) % len(prepared)], len(passes))
        generations, handed_s = _work_through(requests, arrived_s, backend)
        backend.drain()
        meter.snap()
        finished_s = time.perf_counter()
        passes.append(Pass(requests, arrived_s, generations, handed_s, backend.padding_fraction()))
        if finished_s - opened_s >= config.measurement.min_window_s:
            break
        caches_emptied = backend.reset_caches() and caches_emptied
        backend.drain()
    for one in passes:
        _check_pass(one, opened_s, finished_s)
    own_span = _describe(config, slots or config.batch_size, passes, opened_s, finished_s)
    closed_s, span = marks.close(finished_s, own_span, meter)
    meter.finish(closed_s)
    return Window(opened_s, finished_s, closed_s, opened_at, passes, caches_emptied, span)


def _work_through(
    requests: Sequence[Request], began_s: float, backend: Backend
) -> tuple[list[Generation], Mapping[int, float]]:
    """What came back, and when each request of an open loop was handed over."""
    if requests[0].due_s is None:
        return backend.run(requests), {}
    with feeding(requests, began_s) as feed:
        return backend.serve(feed), feed.handed_s


def _numbered(requests: Sequence[Request], number: int) -> Sequence[Request]:
    """Later passes go on counting."""
    if number == 0:
        return requests
    offset = number * len(requests)
    return [replace(request, index=offset + at) for at, request in enumerate(requests)]


def _describe(
    config: ExperimentConfig, slots: int, passes: Sequence[Pass], opened_s: float, finished_s: float
) -> Span | None:
    """The part of the window that the methodology describes; None for all of it.

    Raises:
        MeasurementFailed: there is no such part.
    """
    measurement = config.measurement
    if measurement.methodology == "total":
        return None
    if measurement.methodology == "windowed":
        span = (measurement.window_skip_s, measurement.window_skip_s + measurement.window_length_s)
        if span[1] > finished_s - opened_s:
            raise MeasurementFailed(
                f"the work took {finished_s - opened_s:.1f} s, and the part to describe ends at {span[1]:.1f} s.",
                f"Raise {'workload.n_prompts' if config.workload.arrivals.is_open else 'measurement.min_window_s'}, or "
                "lower measurement.window_skip_s or window_length_s.",
            )
        return span
    return full_load(passes, slots, opened_s)


def full_load(passes: Sequence[Pass], slots: int, opened_s: float) -> Span:
    """From the first to the last moment that as many requests run as there are slots, or requests.

    A request runs from its start to its last token. A rule on load alone: nothing is chosen by power or speed.

    Raises:
        MeasurementFailed: the backend does not say when requests start, or that many never ran at once.
    """
    full = min(slots, min(len(one.requests) for one in passes))
    changes: list[tuple[float, int]] = []
    for one in passes:
        for generation in one.generations:
            last_token_s = generation.last_token_s
            if generation.started_s is None or last_token_s is None:
                raise MeasurementFailed(
                    "the backend does not say when requests start and end.", "Set measurement.methodology: total."
                )
            changes += [(generation.started_s, 1), (last_token_s, -1)]
    running, first_s, last_s = 0, None, None
    for moment_s, change in sorted(changes):
        if running >= full and change < 0:
            last_s = moment_s
        running += change
        if running >= full and first_s is None:
            first_s = moment_s
    if first_s is None or last_s is None or last_s <= first_s:
        raise MeasurementFailed(
            f"{full} requests never ran at the same time.", "Set measurement.methodology: total, or lower batch_size."
        )
    return max(first_s - opened_s, 0.0), last_s - opened_s


def _check_pass(one: Pass, opened_s: float, finished_s: float) -> None:
    returned = sorted(generation.request_index for generation in one.generations)
    if returned != [request.index for request in one.requests]:
        raise MeasurementFailed(
            f"{len(one.requests)} requests went in and {len(returned)} came back.",
            "Report this as a bug of the backend.",
        )
    for request, generation in zip(
        one.requests, sorted(one.generations, key=lambda generation: generation.request_index), strict=True
    ):
        problem = _broken_promise(request, generation, opened_s, finished_s)
        if problem is not None:
            raise MeasurementFailed(
                f"request {request.index} came back with {problem}.", "Report this as a backend's bug."
            )


def _broken_promise(request: Request, generation: Generation, opened_s: float, finished_s: float) -> str | None:
    """What every figure rests on: counts add up and every mark lies inside the window; better no figure than a
    wrong one."""
    produced = len(generation.output_ids)
    times, tokens = generation.delivery_s, generation.delivery_tokens
    if generation.ends_s is not None and not opened_s <= generation.ends_s[0] <= generation.ends_s[1] <= finished_s:
        return "time stamps outside the measured window"
    if not 0 < produced <= request.max_output_tokens:
        return f"{produced} output tokens, {request.max_output_tokens} allowed"
    if times is None:
        return None
    if tokens is None or len(times) != len(tokens) or sum(tokens) != produced:
        return "deliveries that do not add up to its output tokens"
    if list(times) != sorted(times):
        return "time stamps that run backwards"
    if times and not opened_s <= times[0] <= times[-1] <= finished_s:
        return "time stamps outside the measured window"
    return None
