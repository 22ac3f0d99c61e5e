"""Idle power is measured by a process of its own, which holds a context and takes it with it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from images.harness.baseline import BaselineFailed, measure_baseline
from tests.gpu_node.node import Node


@pytest.fixture
def visible(gpu_node: Node, gpu_library: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node that child processes see, too."""
    for name, value in gpu_node.environment(gpu_library).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    return gpu_node


def test_baseline_power_is_the_sum_of_the_devices_means(visible: Node) -> None:
    first, second = visible.gpus[1], visible.gpus[4]
    first.constant(81.0)
    second.square(60.0, 100.0, 0.25)
    measured = measure_baseline([first.uuid, second.uuid], 1.0)
    assert measured.power_w == pytest.approx(81.0 + 80.0, rel=0.02)
    assert measured.spread_w == pytest.approx(20.0, rel=0.3)


def test_a_context_is_held_on_the_measured_gpus_only_while_it_measures(visible: Node) -> None:
    chosen = visible.gpus[3]
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.append(chosen.contexts_open)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        measured = measure_baseline([chosen.uuid], 1.0)
    finally:
        over.set()
        watcher.join()
    assert measured.held_context
    assert max(seen) == 1
    assert chosen.contexts_open == 0
    assert [gpu.contexts_opened for gpu in visible.gpus] == [0, 0, 0, 1, 0, 0, 0, 0]


def test_what_the_context_changes_in_its_first_moments_is_not_idle_power(visible: Node) -> None:
    gpu = visible.gpus[0]
    gpu.constant(300.0)
    begun_s = time.perf_counter()

    def settle() -> None:
        while gpu.contexts_opened == 0 and time.perf_counter() - begun_s < 30.0:
            time.sleep(0.01)
        gpu.load(70.0)

    settling = threading.Thread(target=settle)
    settling.start()
    measured = measure_baseline([gpu.uuid], 1.0)
    settling.join()
    assert measured.power_w == pytest.approx(70.0, rel=0.02)


def test_a_gpu_that_cannot_be_read_is_a_reason_in_one_line(visible: Node) -> None:
    gpu = visible.gpus[0]
    gpu.fault("no_permission")
    with pytest.raises(BaselineFailed) as caught:
        measure_baseline([gpu.uuid], 1.0)
    assert str(caught.value) == f"{gpu.uuid} gave no reading"
