"""Whole jobs on simulated GPUs in real time: what two ranks share, and what must not enter the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from images.contract.result import ExperimentResult
from tests.bench.figures import Figure
from tests.gpu_node.node import build_library
from tests.images.stub.simulated import Machine, on_gpus, true_energy_j

_REPEATS = 3


def rank_figures(scratch: Path) -> Iterator[Figure]:
    machine = Machine(scratch, build_library(scratch / "lib"))
    yield Figure(
        "two ranks, one twice as slow: joules / common window against the mean total power",
        "%",
        [_two_ranks(machine, scratch / f"two-{number}") for number in range(_REPEATS)],
        0.5,
        max,
    )
    short = _one(machine, scratch / "short")
    longer = [_one(machine, scratch / f"long-{number}", load_s=1.5) for number in range(_REPEATS)]
    assert {result.total_tokens for result in longer} == {short.total_tokens}
    for name, values in (
        ("time", [_change(result.total_inference_time_sec, short.total_inference_time_sec) for result in longer]),
        ("energy", [_change(result.total_energy_j, short.total_energy_j) for result in longer]),
    ):
        yield Figure(f"{name} of a window after a longer set-up and warm-up: change", "%", values, 0.5, max)


def _two_ranks(machine: Machine, folder: Path) -> float:
    """Percent between joules per second of the common window and the true mean power of both GPUs in it."""
    first, second = machine.node.gpus[0], machine.node.gpus[1]
    first.square(90.0, 400.0, 1.7)
    second.square(80.0, 500.0, 0.6)
    document = on_gpus(num_processes=2, stub={"window_s": 1.5, "slowdown_per_rank": 1.0})
    result = _run(machine, folder, document, "0,1")
    true_j = sum(true_energy_j(gpu, result.start_time, result.end_time) for gpu in (first, second))
    return _change(result.total_energy_j, true_j)


def _one(machine: Machine, folder: Path, **stub: Any) -> ExperimentResult:
    """A constant load, so that any second too many shows."""
    rounds = 8 if stub else 2
    document = on_gpus(
        stub={"window_s": 2.0, **stub},
        measurement={"warmup": {"window": 2, "max_rounds": rounds, "cv_threshold": 1e-9}},
    )
    return _run(machine, folder, document, "3")


def _run(machine: Machine, folder: Path, document: dict[str, Any], visible: str) -> ExperimentResult:
    ended = machine.start(folder, document, visible=visible).end()
    assert ended.code == 0, ended.stderr
    return ExperimentResult.from_json(ended.directory)


def _change(value: float | None, reference: float | None) -> float:
    assert value is not None
    assert reference is not None
    return 100 * abs(value / reference - 1.0)
