"""Stub jobs on a simulated GPU node: every GPU's true joules are known, and so are the job's processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.gpu_node.node import Gpu, Node
from tests.images.stub.jobs import Job, start, stub


def on_gpus(workload: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A configuration without a baseline; `measurement` and `stub` are merged into what is there."""
    document = stub(workload, **{"window_s": 0.5, **fields.pop("stub", {})})
    document["measurement"] |= {"baseline": {"enabled": False}, **fields.pop("measurement", {})}
    return {**document, **fields}


class Machine:
    """A node of eight GPUs, number i at a constant 100 + 50 i W so that no two can be taken for each other."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.node = Node.create(folder / "node" / "node")
        self._library = library
        for gpu in self.node.gpus:
            gpu.constant(watts_of(gpu.index))

    def environment(self) -> dict[str, str]:
        """With it a process sees this node in the place of a driver."""
        return self.node.environment(self._library)

    def start(
        self,
        folder: Path,
        document: dict[str, Any],
        *,
        context: dict[str, Any] | None = None,
        visible: str | None = None,
        **process: Any,
    ) -> Job:
        """Start a job in `folder`, which is made.

        Args:
            visible: CUDA_VISIBLE_DEVICES.
        """
        folder.mkdir(exist_ok=True)
        arguments = []
        if context is not None:
            (folder / "context.json").write_text(json.dumps(context))
            arguments = ["--context", str(folder / "context.json")]
        environment = self.environment()
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        return start(folder, document, *arguments, env=environment, **process)


def watts_of(index: int) -> float:
    return 100.0 + 50.0 * index


def true_energy_j(gpu: Gpu, start: datetime, end: datetime) -> float:
    """Joules between two moments on the wall; the node's clock is the monotonic one."""
    ahead_s = time.time() - time.perf_counter()
    return gpu.true_energy_j(start.timestamp() - ahead_s, end.timestamp() - ahead_s)


def ranks_of(output: Path) -> dict[int, psutil.Process]:
    """The living processes of a job that writes below `output`, by their index."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if "images.harness.rank" in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            folder, index = command[command.index("images.harness.rank") + 1 :][:2]
            if Path(folder).is_relative_to(output):
                found[int(index)] = process
    return found


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
