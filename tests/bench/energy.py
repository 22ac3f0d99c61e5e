"""How far the energy figure is from the truth, on scripted power curves in virtual time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.random import default_rng

from tests.bench.figures import Figure
from tests.gpu_node.library import ENV_NODE
from tests.gpu_node.node import Node, build_library, use_in_process
from tests.gpu_node.windows import MeasuredWindow, mixed_window, square_window, tied_window

_WINDOWS = 100
_MIXED = 1000
_CALL_COST_S = 30e-6
_CURVES: dict[str, Callable[..., MeasuredWindow]] = {
    "(a) square 90/400 W, 1.7 s": square_window,
    "(b) load tied to the marks": tied_window,
}
_LIMITS = {1.0: (0.8, 0.3), 2.0: (0.4, 0.15), 5.0: (0.2, 0.1), 10.0: (0.1, 0.05)}


def simulated_node(folder: Path, gpus: int, virtual_s: float | None = None) -> Node:
    """A node that this process's NVML finds."""
    node = Node.create(folder / "node", gpus, virtual_s)
    os.environ[ENV_NODE] = str(node.file)
    use_in_process(build_library(folder / "lib"), node.file)
    return node


def energy_figures(scratch: Path) -> Iterator[Figure]:
    node = simulated_node(scratch, 1, virtual_s=1000.0)
    node.call_cost_s = _CALL_COST_S
    for name, curve in _CURVES.items():
        for seconds, (limit, signed_limit) in _LIMITS.items():
            measured = _windows(node, curve, seconds)
            errors = [100 * window.error for window in measured]
            yield Figure(f"{name}, {seconds:g} s: mean |error|", "%", np.abs(errors).tolist(), limit, _mean)
            naive = [abs(100 * (window.naive_j / window.true_j[0] - 1)) for window in measured]
            yield Figure("  the difference of two counter readings there", "%", naive, None, _mean)
            if curve is tied_window:
                yield Figure(f"{name}, {seconds:g} s: |mean signed error|", "%", errors, signed_limit, _absolute_mean)
    for name, curve in _CURVES.items():
        yield from _lag_figures(node, name, curve)
    node.gpus[0].counter_supported = False
    for name, curve in _CURVES.items():
        errors = [abs(100 * window.error) for window in _windows(node, curve, 5.0)]
        yield Figure(f"{name}, 5 s, without counter: mean |error|", "%", errors, 1.0, _mean)
    node.gpus[0].counter_supported = True
    mixed = [mixed_window(node, default_rng([2026, number])) for number in range(_MIXED)]
    held = [100.0 * (abs(window.error) <= window.bound) for window in mixed]
    yield Figure(f"{_MIXED:,} mixed windows: stored bound holds the truth", "%", held, 99.0, _mean, at_least=True)
    yield Figure(f"{_MIXED:,} mixed windows: median bound", "%", [100 * window.bound for window in mixed])


def _lag_figures(node: Node, name: str, curve: Callable[..., MeasuredWindow]) -> Iterator[Figure]:
    """The bound must grow with the lag, and hold the truth."""
    bounds = {lag_s: _windows(node, curve, 2.0, lag_s=lag_s) for lag_s in (0.0, 0.05, 0.1)}
    without = _mean([window.bound for window in bounds[0.0]])
    for lag_s in (0.05, 0.1):
        measured = bounds[lag_s]
        held = [100.0 * (abs(window.error) <= window.bound) for window in measured]
        more = _mean([window.bound for window in measured]) / without
        label = f"{name}, 2 s, counter {lag_s * 1e3:.0f} ms late"
        yield Figure(f"{label}: bound holds the truth", "%", held, 99.0, _mean, at_least=True)
        yield Figure(f"{label}: mean bound over that without lag", "x", [more], 1.0, at_least=True)
        yield Figure(f"{label}: mean |error|", "%", [abs(100 * window.error) for window in measured], None, _mean)


def _windows(node: Node, curve: Callable[..., MeasuredWindow], seconds: float, **more: float) -> list[MeasuredWindow]:
    random = default_rng(int(seconds * 1000))
    return [curve(node, seconds, random, **more) for _ in range(_WINDOWS)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _absolute_mean(values: Sequence[float]) -> float:
    return abs(_mean(values))
