"""A simulated GPU node: N GPUs with scripted power, an exact energy counter, and faults, in one file.

The C library answers NVML calls from that file, Python writes it: see gpu.py for what a GPU can be told, and
README.md for the pieces.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from tests.gpu_node.gpu import FaultKind, Gpu
from tests.gpu_node.layout import MAGIC, MAX_GPUS, VERSION, GpuStruct, NodeStruct, to_ns
from tests.gpu_node.library import ENV_NODE, build_library, use_in_process

__all__ = ["HOST_FOLDER", "Clock", "FaultKind", "Gpu", "Node", "build_library", "use_in_process"]

# Where the hook looks on the host, and where it puts the same file into a container.
HOST_FOLDER = Path("/run/gpu-node")
_HOST_LOCK = Path("/run/gpu-node.lock")
_HOST_PATIENCE_S = 240.0
_GIB = 2**30


class Clock:
    """The node's time: CLOCK_MONOTONIC, as time.perf_counter, or a virtual one that stands still until told."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def is_virtual(self) -> bool:
        return bool(self._node.state.virtual_ns)

    def now_ns(self) -> int:
        state = self._node.state
        return int(state.virtual_ns + state.spent_ns) if state.virtual_ns else time.perf_counter_ns()

    def now_s(self) -> float:
        return self.now_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        """Let time pass: really, or at once."""
        if not self.is_virtual:
            time.sleep(seconds)
            return
        with self._node.exclusive():
            self._node.state.virtual_ns += max(0, to_ns(seconds))

    def advance_to(self, t_s: float) -> None:
        """Sleep until a time; it must not be past on a virtual clock."""
        if not self.is_virtual:
            time.sleep(max(0.0, t_s - self.now_s()))
            return
        with self._node.exclusive():
            if to_ns(t_s) < self.now_ns():
                raise ValueError(f"{t_s} s is past: the node's clock is at {self.now_s()} s")
            self._node.state.virtual_ns = to_ns(t_s) - self._node.state.spent_ns


class Node:
    """A node file that is open for scripting. A context manager; its end changes nothing in the file."""

    def __init__(self, file: Path, lock: FileLock | None = None) -> None:
        self.file = file
        self._lock = lock
        self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self.state = NodeStruct.from_buffer(mmap.mmap(self._descriptor, ctypes.sizeof(NodeStruct)))
        if (self.state.magic, self.state.version, self.state.size) != (MAGIC, VERSION, ctypes.sizeof(NodeStruct)):
            raise ValueError(f"{file} is no node file of this version")
        self.clock = Clock(self)
        gpus = range(self.state.gpu_count)
        self.gpus = [Gpu(index, self.state.gpus[index], self.clock, self.exclusive) for index in gpus]

    @classmethod
    def create(cls, file: Path, gpus: int = 8, virtual_s: float | None = None) -> Node:
        """Make a node of idle GPUs (constant 100 W) and open it; a node that is there already stays with its users."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        with unfinished.open("wb") as made:
            made.truncate(ctypes.sizeof(NodeStruct))
        # A container's process runs under an arbitrary user and writes too (contexts, virtual time).
        unfinished.chmod(0o666)
        _write_defaults(unfinished, gpus, virtual_s)
        unfinished.replace(file)
        return cls(file)

    @classmethod
    def open(cls, file: Path) -> Node:
        """A node that exists, also one that another process scripts."""
        return cls(file)

    @classmethod
    def install(cls, gpus: int = 8, virtual_s: float | None = None) -> Node:
        """Make this host's node, which the hook gives to containers; needs root.

        One at a time on a host: waits until another process has closed its own. A container that still runs
        keeps the node it was started with.
        """
        # Not re-entrant within a process either: two tests would silently share one node.
        lock = FileLock(_HOST_LOCK, timeout=_HOST_PATIENCE_S, thread_local=False)
        lock.acquire()
        try:
            build_library(HOST_FOLDER / "lib")
            node = cls.create(HOST_FOLDER / "node", gpus, virtual_s)
        except BaseException:
            lock.release()
            raise
        node._lock = lock
        return node

    def close(self) -> None:
        """Take an installed node away from the host again; otherwise nothing."""
        if self._lock is None:
            return
        if self.file.exists() and self.file.stat().st_ino == os.fstat(self._descriptor).st_ino:
            self.file.unlink()
        self._lock.release()
        self._lock = None

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Alone among all who write to this node."""
        # Opened anew each time, because threads would share a descriptor's lock; and not by its name, under
        # which there may be another node by now.
        with Path(f"/proc/self/fd/{self._descriptor}").open("r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            yield

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs in its environment to see this node (library: build_library's folder)."""
        others = os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": f"{library}:{others}" if others else str(library), ENV_NODE: str(self.file)}

    @property
    def call_cost_s(self) -> float:
        """Seconds that each call which reads a sensor takes."""
        return float(self.state.call_cost_ns) / 1e9

    @call_cost_s.setter
    def call_cost_s(self, seconds: float) -> None:
        self.state.call_cost_ns = to_ns(seconds)

    @property
    def init_error(self) -> int:
        """The code that nvmlInit returns; 0: it works."""
        return int(self.state.init_error)

    @init_error.setter
    def init_error(self, code: int) -> None:
        self.state.init_error = code

    def show_only(self, uuids: list[str] | None) -> None:
        """Let only these GPUs exist for whoever initialises NVML from now on, as in a container; None: all."""
        listed = self.file.with_name("visible")
        if uuids is None:
            listed.unlink(missing_ok=True)
        else:
            listed.write_text("".join(f"{uuid}\n" for uuid in uuids))


def _write_defaults(file: Path, gpus: int, virtual_s: float | None) -> None:
    if not 0 <= gpus <= MAX_GPUS:
        raise ValueError(f"a node has 0 to {MAX_GPUS} GPUs, not {gpus}")
    with file.open("r+b") as opened:
        state = NodeStruct.from_buffer(mmap.mmap(opened.fileno(), ctypes.sizeof(NodeStruct)))
    state.magic, state.version, state.size = MAGIC, VERSION, ctypes.sizeof(NodeStruct)
    state.gpu_count = gpus
    state.virtual_ns = to_ns(virtual_s or 0.0)
    state.epoch_ns = state.virtual_ns or time.perf_counter_ns()
    state.driver_version, state.cuda_version = b"999.00.01-simulated", 13000
    for index in range(gpus):
        _write_gpu(state.gpus[index], index, state.epoch_ns)


def _write_gpu(gpu: GpuStruct, index: int, epoch_ns: int) -> None:
    gpu.uuid = f"GPU-51a00000-0000-4000-8000-{index:012x}".encode()
    gpu.name = f"SIMULATED GPU {index}".encode()
    gpu.pci_bus_id = f"00000000:{0x1A + index:02X}:00.0".encode()
    gpu.minor = index
    gpu.architecture, gpu.capability_major, gpu.capability_minor = 9, 9, 0
    gpu.memory_total, gpu.memory_reserved, gpu.memory_used = 80 * _GIB, _GIB // 2, 0
    gpu.persistence = gpu.ecc_supported = gpu.ecc = gpu.mig_supported = 1
    gpu.power_limit_mw = 700_000
    gpu.sm_mhz = gpu.max_sm_mhz = 1980
    gpu.mem_mhz = gpu.max_mem_mhz = 2619
    gpu.utilisation_follows_power = 1
    gpu.field_api_supported = gpu.power_supported = gpu.instant_supported = gpu.counter_supported = 1
    gpu.counter_step_ns = to_ns(0.1)
    gpu.counter_base_mj = 1e9
    gpu.temperature_start_ns, gpu.temperature_base_c, gpu.temperature_max_c = epoch_ns, 40.0, 90.0
    gpu.curve_start_ns, gpu.point_count = epoch_ns, 1
    gpu.points[0].watts = 100.0
