"""What is waited for before a job on a GPU, how long, and what is said when it stays."""

from __future__ import annotations

import os
import threading
import time

import pytest

from images.contract.job import GpuUnusable
from runner.gpu.settle import Settler, check_power_limits
from runner.interrupt import Stop
from runner.studies.settings import CoolDown
from tests.gpu_node.node import Node

QUICK = CoolDown(busy_timeout_s=1.5, max_temperature_c=60.0, temperature_timeout_s=1.5)


def settled(node: Node, settler: Settler, stop: Stop | None = None) -> tuple[list[str], list[str], float]:
    """What stayed wrong, what was waited for, and the seconds."""
    said: list[str | None] = []
    began_s = time.monotonic()
    problems = settler.settle([gpu.uuid for gpu in node.gpus[:2]], stop or Stop(), said.append)
    return problems, [text for text in said if text is not None], time.monotonic() - began_s


def test_an_idle_and_cool_gpu_is_not_waited_for(gpu_node: Node) -> None:
    problems, said, took_s = settled(gpu_node, Settler(QUICK))
    assert (problems, said) == ([], [])
    assert took_s < 0.5


def test_memory_that_is_given_back_late_is_waited_for(gpu_node: Node) -> None:
    gpu = gpu_node.gpus[1]
    gpu.memory_used = 30 * 2**30
    timer = threading.Timer(0.5, lambda: setattr(gpu, "memory_used", 0))
    timer.start()
    problems, said, _ = settled(gpu_node, Settler(CoolDown(busy_timeout_s=20.0)))
    timer.join()
    assert problems == []
    assert said[0].startswith("waiting: gpu_memory_in_use: ")


def test_memory_that_stays_in_use_is_waited_for_once(gpu_node: Node) -> None:
    gpu_node.gpus[0].memory_used = 2 * 2**30
    settler = Settler(QUICK)
    assert settled(gpu_node, settler)[0] != []
    problems, _, took_s = settled(gpu_node, settler)
    assert problems == []
    assert took_s < 0.5
    gpu_node.gpus[0].memory_used = 4 * 2**30
    assert settled(gpu_node, settler)[0] != [], "more than what is usual"


def test_somebody_else_and_heat_are_said_when_the_time_is_over(gpu_node: Node) -> None:
    gpu_node.gpus[0].processes = [(os.getpid(), 2**30)]
    gpu_node.gpus[1].temperature(base_c=75.0)
    problems, _, took_s = settled(gpu_node, Settler(QUICK))
    assert took_s >= 1.5
    assert f"(pid {os.getpid()}) on {gpu_node.gpus[0].uuid}" in problems[0]
    assert f"{gpu_node.gpus[1].uuid} has 75 degrees C, above 60" in problems[1]


def test_who_wants_to_stop_does_not_wait(gpu_node: Node) -> None:
    gpu_node.gpus[0].processes = [(os.getpid(), 2**30)]
    stop = Stop()
    stop.ask()
    assert settled(gpu_node, Settler(CoolDown(busy_timeout_s=60.0)), stop)[2] < 0.5


def test_a_lost_gpu_is_told_at_once(gpu_node: Node) -> None:
    gpu_node.gpus[1].fault("gpu_lost", from_s=0.0)
    with pytest.raises(GpuUnusable, match=gpu_node.gpus[1].uuid):
        settled(gpu_node, Settler(QUICK))


def test_only_the_expected_power_limit_will_do(gpu_node: Node) -> None:
    uuids = [gpu.uuid for gpu in gpu_node.gpus[:2]]
    check_power_limits(uuids, None)
    check_power_limits(uuids, 700.0)
    with pytest.raises(GpuUnusable, match=rf"expects a power limit of 400 W, and {uuids[0]} has 700 W.*nvidia-smi"):
        check_power_limits(uuids, 400.0)
