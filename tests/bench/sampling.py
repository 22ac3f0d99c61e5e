"""What the sampler and the progress report take from the machine, and from the work that is measured."""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from images.contract.config import parse_config
from images.contract.job import JobContext
from images.harness.backend import Backend
from images.harness.nvml import Device, open_devices
from images.harness.progress import Live, ProgressFile
from images.harness.sampler import Sampler, SystemClock
from images.harness.workload import prepare_workload
from tests.bench.energy import simulated_node
from tests.bench.figures import Figure
from tests.gpu_node.node import Node

_INTERVAL_S = 0.1
_GPUS = 8
_WATCHED_S = 10.0
_PAIRS = 20
_T_95_ONE_SIDED = 1.729  # Student's t with 19 degrees of freedom
_OFTENER = 100

Beside = Callable[[Backend], AbstractContextManager[None]]
"""What runs beside the work of a backend."""


def sampling_figures(scratch: Path) -> Iterator[Figure]:
    node = simulated_node(scratch, _GPUS)
    # Of a real driver each reading costs something; 20 us is what a busy one takes.
    node.call_cost_s = 20e-6
    yield Figure(
        f"sampler at 100 ms, {_GPUS} GPUs: CPU time of one core", "%", [100 * _cpu_share(node) for _ in range(3)], 2.0
    )
    yield Figure(
        "progress once a second: CPU time of one core", "%", [100 * _progress_share(scratch) for _ in range(3)], 0.1
    )
    if importlib.util.find_spec("torch") is None:
        return
    devices = open_devices([gpu.uuid for gpu in node.gpus], time.perf_counter)
    besides: dict[str, Beside] = {
        "sampling": lambda _: _sampled(devices),
        "progress once a second": lambda backend: _reported(backend, scratch),
    }
    for name, beside in besides.items():
        yield Figure(
            f"tokens/s without over with {name}, torch on one core, {_PAIRS} alternating pairs: upper 95 % bound - 1",
            "%",
            _slowdowns(beside),
            3.0,
            _upper_bound,
        )


def _cpu_share(node: Node) -> float:
    """CPU seconds of this process per second while nothing but the sampler runs."""
    sampler = Sampler(open_devices([gpu.uuid for gpu in node.gpus], time.perf_counter), _INTERVAL_S, SystemClock())
    sampler.start()
    share = _busy_share()
    sampler.stop()
    return share


def _progress_share(scratch: Path) -> float:
    """The same of the thread that reports; it does so a hundred times as often, to be seen at all."""
    progress = ProgressFile(scratch / "progress.json", 1.0 / _OFTENER)
    with progress.following(lambda: Live(time.perf_counter(), time.perf_counter_ns() // 10**6, 400.0)):
        progress.phase("window")
        share = _busy_share() / _OFTENER
    progress.close()
    return share


def _busy_share() -> float:
    before_s, begun_s = time.process_time(), time.perf_counter()
    time.sleep(_WATCHED_S)
    return (time.process_time() - before_s) / (time.perf_counter() - begun_s)


@contextmanager
def _sampled(devices: Sequence[Device]) -> Iterator[None]:
    sampler = Sampler(devices, _INTERVAL_S, SystemClock())
    sampler.start()
    yield
    sampler.stop()


@contextmanager
def _reported(backend: Backend, scratch: Path) -> Iterator[None]:
    progress = ProgressFile(scratch / "progress.json")
    with progress.following(lambda: Live(time.perf_counter(), backend.delivered(), None)):
        progress.phase("window")
        yield
    progress.close()


def _slowdowns(beside: Beside) -> list[float]:
    """Percent by which real torch work takes longer with something beside it, of each pair."""
    import torch

    from images.pytorch.backend import Backend as Pytorch

    # A machine with GPUs has a core to spare for the sampler; with every core in torch's hands, two threads would
    # be timed that wait for each other's turn.
    torch.set_num_threads(1)
    config = parse_config(
        {"batch_size": 8, "workload": {"n_prompts": 256, "max_output_tokens": 64, "ignore_eos": True}}
    )
    backend: Backend = Pytorch()
    loaded = backend.load(config, JobContext(gpu_uuids=[]))
    requests = prepare_workload(config, loaded).requests
    backend.run(requests)
    found = []
    for pair in range(_PAIRS):
        seconds = {}
        for accompanied in (True, False) if pair % 2 else (False, True):
            with beside(backend) if accompanied else nullcontext():
                begun_s = time.perf_counter()
                backend.run(requests)
                seconds[accompanied] = time.perf_counter() - begun_s
        found.append(100 * (seconds[True] / seconds[False] - 1))
    backend.close()
    return found


def _upper_bound(percents: Sequence[float]) -> float:
    """Upper 95 % bound of the mean slowdown (%), Student's t on log ratios."""
    logs = [math.log1p(percent / 100) for percent in percents]
    upper = statistics.mean(logs) + _T_95_ONE_SIDED * statistics.stdev(logs) / math.sqrt(len(logs))
    return 100 * math.expm1(upper)
