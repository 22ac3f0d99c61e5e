"""Compiles the simulated driver, and puts it in the place of the real one for this process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from pathlib import Path

import pynvml
from filelock import FileLock

from tests.gpu_node.layout import NodeStruct

SOURCES = Path(__file__).resolve().parent
NVML, CUDA = "libnvidia-ml.so.1", "libcuda.so.1"
ENV_NODE = "GPU_NODE_FILE"
_PARTS = {NVML: ("nvml.c", "sensors.c"), CUDA: ("cuda.c",)}
_SHARED = ("file.c", "curve.c")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden")


def _digest() -> str:
    sources = sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")])
    text = b"\0".join([" ".join(_FLAGS).encode(), platform.machine().encode(), *(s.read_bytes() for s in sources)])
    return hashlib.sha256(text).hexdigest()


def build_library(folder: Path) -> Path:
    """Compile both libraries into a folder (for LD_LIBRARY_PATH) unless they are there and up to date; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp, digest = folder / "built", _digest()
    with FileLock(folder / "build.lock"):
        current = stamp.read_text() if stamp.exists() else ""
        if current == digest and all((folder / name).exists() for name in _PARTS):
            return folder
        for name, parts in _PARTS.items():
            unfinished = folder / f".{name}.{os.getpid()}"
            sources = [str(SOURCES / part) for part in (*parts, *_SHARED)]
            command = [os.environ.get("CC", "cc"), *_FLAGS, f"-Wl,-soname,{name}", "-o", str(unfinished), *sources]
            built = subprocess.run(command, capture_output=True, text=True)
            if built.returncode != 0:
                raise RuntimeError(f"the simulated GPU driver does not compile:\n{' '.join(command)}\n{built.stderr}")
            # A rename: a process that has the old one loaded keeps it whole.
            unfinished.replace(folder / name)
        stamp.write_text(digest)
    return folder


def use_in_process(library: Path, node_file: Path) -> None:
    """Make this process's NVML calls see a node, from the next nvmlInit on.

    nvidia-ml-py asks the dynamic linker for the soname, and a library that is loaded under it already is what
    the linker answers with. From then on only GPU_NODE_FILE names a node in this process: the host-wide one
    of the Docker tests is never found by accident.
    """
    loaded = ctypes.CDLL(str(library / NVML), mode=ctypes.RTLD_GLOBAL)
    loaded.gpu_node_no_default()
    loaded.gpu_node_sizeof.restype = ctypes.c_size_t
    if loaded.gpu_node_sizeof() != ctypes.sizeof(NodeStruct):
        raise RuntimeError("this process has loaded a simulated driver with another layout of the node file")
    if pynvml.nvmlLib is not None and not hasattr(pynvml.nvmlLib, "gpu_node_sizeof"):
        raise RuntimeError("nvidia-ml-py has loaded a real driver before; simulate in a process of its own")
    os.environ[ENV_NODE] = str(node_file)
