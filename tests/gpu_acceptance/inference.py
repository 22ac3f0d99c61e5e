"""A model on the GPU: what the meter costs it, what its energy is by both methods, and when its tokens come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from images.contract.config import BackendName, ExperimentConfig
from images.contract.job import JobContext
from images.contract.options.pytorch import PytorchOptions
from images.contract.options.stub import StubOptions
from images.contract.work import Measurement, Workload
from images.harness.backend import Backend, LoadedModel, Request
from images.harness.meter import Meter, Metered
from images.harness.nvml import Device
from images.harness.window import OwnMarks, Window, run_window
from images.harness.workload import prepare_passes, prepare_workload
from tests.gpu_acceptance.machines import Machine
from tests.gpu_acceptance.rows import tell
from tests.gpu_acceptance.sensors import SAMPLE_INTERVAL_S
from warehouse.bootstrap import student_t_ci

_INPUT_TOKENS = _OUTPUT_TOKENS = 64
_BATCHES = 4
_DIFFERENT_PASSES = 8
_STUB_PASS_S = 0.4


@dataclass(frozen=True)
class Work:
    """A model in memory and what it is given: some passes of a few full batches, all of the same length."""

    config: ExperimentConfig
    backend: Backend
    loaded: LoadedModel
    passes: Sequence[Sequence[Request]]


@dataclass(frozen=True)
class Ratio:
    """Tokens per second with sampling over those without: geometric mean of the pairs, Student's t on their logs.

    Attributes:
        tokens_per_second: mean rate without sampling (output tokens/s).
        low, high: 95 % interval.
    """

    tokens_per_second: float
    mean: float
    low: float
    high: float
    pairs: int


def experiment(backend: BackendName, model: str, batch_size: int, *, simulated: bool) -> ExperimentConfig:
    """Random prompts of 64 tokens, 64 tokens out, in four full batches per pass."""
    return ExperimentConfig(
        backend=backend,
        model=model,
        batch_size=batch_size,
        workload=Workload(
            source="synthetic",
            n_prompts=_BATCHES * batch_size,
            max_input_tokens=_INPUT_TOKENS,
            max_output_tokens=_OUTPUT_TOKENS,
            ignore_eos=True,
        ),
        pytorch=PytorchOptions(device="cpu" if simulated else "cuda") if backend == "pytorch" else None,
        stub=StubOptions(window_s=_STUB_PASS_S) if backend == "stub" else None,
    )


@contextmanager
def loaded_work(machine: Machine, config: ExperimentConfig, uuid: str) -> Iterator[Work]:
    """The model in memory, and out of it again at the end.

    Raises:
        JobError: the model or the GPU cannot be used.
        NeedsCuda: what the backend needs is not installed.
    """
    tell(f"loading {config.model}")
    backend = machine.backend(config.backend, uuid)
    # A simulated GPU is nothing that PyTorch could be given.
    loaded = backend.load(config, JobContext(gpu_uuids=[] if machine.simulated else [uuid]))
    try:
        workload = prepare_workload(config, loaded)
        yield Work(config, backend, loaded, prepare_passes(workload, config, loaded, 0, _DIFFERENT_PASSES))
    finally:
        backend.close()


def run_for(work: Work, devices: Sequence[Device], seconds: float) -> tuple[Window, Metered]:
    """One window of at least so long, as the harness measures it; without devices nothing is sampled."""
    measurement = Measurement(min_window_s=seconds)
    config = work.config.model_copy(update={"measurement": measurement})
    meter = Meter(devices, SAMPLE_INTERVAL_S)
    meter.calibrate()
    with meter.watching():
        work.backend.run(work.passes[0])
        work.backend.drain()
    try:
        window = run_window(work.passes, config, work.backend, meter, OwnMarks())
    finally:
        meter.stop()
    return window, meter.metered(window.opened_s, window.closed_s)


def compare_rates(work: Work, device: Device, pairs: int, seconds: float) -> Ratio:
    """Windows with and without sampling by turns; which of a pair comes first alternates too."""
    logs, without = [], []
    for number in range(pairs):
        tell(f"pair {number + 1} of {pairs}, with and without sampling")
        rates = {}
        for sampled in (True, False) if number % 2 else (False, True):
            window, _ = run_for(work, [device] if sampled else [], seconds)
            rates[sampled] = _output_tokens(window) / (window.finished_s - window.opened_s)
        without.append(rates[False])
        logs.append(math.log(rates[True] / rates[False]))
    interval = student_t_ci(logs)
    assert interval is not None, "two pairs at least"
    low, high = (math.exp(edge) for edge in interval)
    return Ratio(math.fsum(without) / pairs, math.exp(math.fsum(logs) / pairs), low, high, pairs)


def _output_tokens(window: Window) -> int:
    return sum(len(generation.output_ids) for one in window.passes for generation in one.generations)
