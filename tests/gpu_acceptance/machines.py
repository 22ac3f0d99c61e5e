"""Where the acceptance runs: on this machine's GPUs, or on a simulated one that tries the programme itself."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Protocol

from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.harness.backend import Arrivals, Backend, Generation, LoadedModel, Request
from tests.gpu_acceptance.loads import Load, NeedsCuda, matmul_load
from tests.gpu_node.library import build_library, use_in_process
from tests.gpu_node.node import Gpu, Node

COUNTER_STEP_S, COUNTER_LAG_S, INSTANT_STEP_S = 0.1, 0.03, 0.02
IDLE_W, LOADED_W, BUSY_W = 100.0, 120.0, 400.0
_JITTER_W = 10.0
_LIBRARY = Path(__file__).resolve().parents[2] / ".cache" / "gpu-node"


class Machine(Protocol):
    """What differs between a real GPU and a simulated one."""

    simulated: bool

    def load(self, uuid: str) -> AbstractContextManager[Load]:
        """Work for this GPU.

        Raises:
            NeedsCuda: there is no way to make any.
        """
        ...

    def backend(self, name: str, uuid: str) -> Backend:
        """A backend on this GPU.

        Raises:
            NeedsCuda: what it needs is not installed.
        """
        ...

    def true_energy_j(self, uuid: str, opened_s: float, closed_s: float) -> float | None:
        """The joules between two moments, where they are known."""
        ...


def _backend(name: str) -> Backend:
    try:
        made: Backend = import_module(f"images.{name}.backend").Backend()
    except ImportError as error:
        raise NeedsCuda(f"needs torch for CUDA and transformers: {error}") from None
    return made


class RealMachine:
    """GPUs as the driver shows them. Nothing on them is ever set."""

    simulated = False

    def load(self, uuid: str) -> AbstractContextManager[Load]:
        return matmul_load(uuid)

    def backend(self, name: str, uuid: str) -> Backend:
        return _backend(name)

    def true_energy_j(self, uuid: str, opened_s: float, closed_s: float) -> float | None:
        return None


class SimulatedMachine:
    """The node of tests/gpu_node: two GPUs, whose power follows the load and the backend's work.

    Args:
        folder: where the node's file goes.
    """

    simulated = True

    def __init__(self, folder: Path) -> None:
        library = build_library(_LIBRARY)
        self.node = Node.create(folder / "gpu-node" / "node", gpus=2)
        use_in_process(library, self.node.file)
        os.environ.update(self.node.environment(library))  # for child processes
        for gpu in self.node.gpus:
            gpu.constant(IDLE_W)
            gpu.counter(step_s=COUNTER_STEP_S, lag_s=COUNTER_LAG_S)
            gpu.instant(step_s=INSTANT_STEP_S)

    def _gpu(self, uuid: str) -> Gpu:
        return next(gpu for gpu in self.node.gpus if gpu.uuid == uuid)

    @contextmanager
    def load(self, uuid: str) -> Iterator[Load]:
        load = _ScriptedLoad(self._gpu(uuid))
        try:
            yield load
        finally:
            load.off()

    def backend(self, name: str, uuid: str) -> Backend:
        return _Powered(_backend(name), self._gpu(uuid))

    def true_energy_j(self, uuid: str, opened_s: float, closed_s: float) -> float | None:
        return self._gpu(uuid).true_energy_j(opened_s, closed_s)


class _ScriptedLoad:
    """A busy GPU's power: about the same, and never twice the same."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def on(self) -> None:
        self._stop.clear()
        self._gpu.load(BUSY_W)
        self._thread = threading.Thread(target=self._jitter, daemon=True)
        self._thread.start()

    def off(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._gpu.load(IDLE_W)

    def _jitter(self) -> None:
        generator = random.Random(3)
        while not self._stop.wait(INSTANT_STEP_S):
            self._gpu.load(BUSY_W + generator.uniform(-_JITTER_W, _JITTER_W))


class _Powered:
    """A backend whose work shows in the power of a simulated GPU."""

    def __init__(self, inner: Backend, gpu: Gpu) -> None:
        self.packages = inner.packages
        self._inner, self._gpu = inner, gpu
        self.drain = inner.drain
        self.reset_caches = inner.reset_caches
        self.memory = inner.memory
        self.findings = inner.findings
        self.padding_fraction = inner.padding_fraction
        self.delivered = inner.delivered

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel:
        loaded = self._inner.load(config, context)
        self._gpu.load(LOADED_W)
        return loaded

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        self._gpu.load(BUSY_W)
        try:
            return self._inner.run(requests)
        finally:
            self._gpu.load(LOADED_W)

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        self._gpu.load(BUSY_W)
        try:
            return self._inner.serve(arrivals)
        finally:
            self._gpu.load(LOADED_W)

    def close(self) -> None:
        self._inner.close()
        self._gpu.load(IDLE_W)
