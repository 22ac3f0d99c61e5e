"""What the sampler takes from the machine, and from the work that is measured."""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from images.contract.config import parse_config
from images.contract.job import JobContext
from images.harness.backend import Backend
from images.harness.nvml import open_devices
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


def sampling_figures(scratch: Path) -> Iterator[Figure]:
    node = simulated_node(scratch, _GPUS)
    # Of a real driver each reading costs something; 20 us is what a busy one takes.
    node.call_cost_s = 20e-6
    yield Figure(
        f"sampler at 100 ms, {_GPUS} GPUs: CPU time of one core", "%", [100 * _cpu_share(node) for _ in range(3)], 2.0
    )
    if importlib.util.find_spec("torch") is None:
        return
    ratios = _slowdowns(node)
    yield Figure(
        f"tokens/s without over with sampling, torch on one core, {_PAIRS} alternating pairs: upper 95 % bound - 1",
        "%",
        ratios,
        3.0,
        _upper_bound,
    )


def _cpu_share(node: Node) -> float:
    """CPU seconds of this process per second while nothing but the sampler runs."""
    sampler = Sampler(open_devices([gpu.uuid for gpu in node.gpus], time.perf_counter), _INTERVAL_S, SystemClock())
    sampler.start()
    before_s, begun_s = time.process_time(), time.perf_counter()
    time.sleep(_WATCHED_S)
    spent_s, passed_s = time.process_time() - before_s, time.perf_counter() - begun_s
    sampler.stop()
    return spent_s / passed_s


def _slowdowns(node: Node) -> list[float]:
    """Percent by which real torch work takes longer while it is sampled, of each pair."""
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
    devices = open_devices([gpu.uuid for gpu in node.gpus], time.perf_counter)
    found = []
    for pair in range(_PAIRS):
        seconds = {}
        for sampled in (True, False) if pair % 2 else (False, True):
            sampler = Sampler(devices, _INTERVAL_S, SystemClock())
            if sampled:
                sampler.start()
            begun_s = time.perf_counter()
            backend.run(requests)
            seconds[sampled] = time.perf_counter() - begun_s
            sampler.stop()
        found.append(100 * (seconds[True] / seconds[False] - 1))
    backend.close()
    return found


def _upper_bound(percents: Sequence[float]) -> float:
    """Upper 95 % bound of the mean slowdown (%), Student's t on log ratios."""
    logs = [math.log1p(percent / 100) for percent in percents]
    upper = statistics.mean(logs) + _T_95_ONE_SIDED * statistics.stdev(logs) / math.sqrt(len(logs))
    return 100 * math.expm1(upper)
