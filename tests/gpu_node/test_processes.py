"""One node, several processes: live loads, CUDA contexts, and a torch that sees no CUDA device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.gpu_node.node import Node

# What a process sees through libcuda: its devices' UUIDs, or the code that cuInit fails with.
LIST_CUDA = """
import ctypes, json, uuid
cuda = ctypes.CDLL("libcuda.so.1")
code, count, text = cuda.cuInit(0), ctypes.c_int(), ctypes.create_string_buffer(16)
if code:
    raise SystemExit(print(json.dumps(code)))
assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
seen = []
for device in range(count.value):
    assert cuda.cuDeviceGetUuid_v2(text, device) == 0
    seen.append("GPU-" + str(uuid.UUID(bytes=text.raw)))
print(json.dumps(seen))
"""
# Holds contexts on all its devices, says so, and waits for a line or its end.
HOLD_CONTEXTS = """
import ctypes
cuda, count, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
for device in range(count.value):
    for _ in range(2):
        assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuDevicePrimaryCtxRelease_v2(0) == 0
print("held", flush=True)
input()
"""


def _run(program: str, environment: dict[str, str], **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment | more,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _instant_mw(node: Node, index: int) -> int:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(node.gpus[index].uuid)
    return int(pynvml.nvmlDeviceGetFieldValues(handle, [186])[0].value.uiVal)


def test_a_load_written_by_another_python(gpu_node: Node, repository: Path) -> None:
    assert _instant_mw(gpu_node, 2) == 100_000
    program = "import sys; from pathlib import Path; from tests.gpu_node.node import Node\n"
    program += "Node.open(Path(sys.argv[1])).gpus[2].load(432.1)"
    subprocess.run([sys.executable, "-c", program, str(gpu_node.file)], check=True, cwd=repository)
    assert _instant_mw(gpu_node, 2) == 432_100
    assert _instant_mw(gpu_node, 3) == 100_000
    assert gpu_node.gpus[2].true_power_w(gpu_node.clock.now_s()) == 432.1


def test_loads_written_through_the_library_by_many(gpu_node: Node, gpu_library: Path) -> None:
    """As a job in a container does it; no entry of several writers is lost."""
    gpu = gpu_node.gpus[4]
    program = "import ctypes; nvml = ctypes.CDLL('libnvidia-ml.so.1')\n"
    program += f"for _ in range(200): assert nvml.gpu_node_load(b'{gpu.uuid}', ctypes.c_double(250), 0) == 0\n"
    program += "assert nvml.gpu_node_load(b'GPU-nope', ctypes.c_double(250), 0) == -1"
    environment = os.environ | gpu_node.environment(gpu_library)
    writers = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(3)]
    for _ in range(200):
        gpu.load(250)
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert gpu.state.load_count == 800
    times = [entry.time_ns for entry in gpu.state.loads[:800]]
    assert times == sorted(times)
    assert _instant_mw(gpu_node, 4) == 250_000


def test_a_virtual_clock_is_everyones(virtual_node: Node, gpu_library: Path) -> None:
    virtual_node.call_cost_s = 0.5
    program = "import pynvml; pynvml.nvmlInit(); h = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
    program += "[pynvml.nvmlDeviceGetPowerUsage(h) for _ in range(6)]"
    _run(program, virtual_node.environment(gpu_library))
    assert virtual_node.clock.now_s() == 1003


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        ("1,9,2", [1]),
        ("1,-1,2", [1]),
        ("GPU-51a00000-0000-4000-8000-000000000003, 1", [3, 1]),
        ("gpu-51a00000-0000-4000-8000-000000000002", [2]),
        ("GPU-51a00000", 100),
        ("1,1", 100),
        ("", 100),
        ("-1", 100),
    ],
)
def test_cuda_reads_its_list_as_cuda_does(
    setting: str | None,
    expected: list[int] | int,
    gpu_node: Node,
    gpu_library: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu_node.show_only([gpu.uuid for gpu in gpu_node.gpus[:4]])
    more = {} if setting is None else {"CUDA_VISIBLE_DEVICES": setting}
    seen: Any = json.loads(_run(LIST_CUDA, gpu_node.environment(gpu_library), **more))
    assert seen == ([gpu_node.gpus[index].uuid for index in expected] if isinstance(expected, list) else expected)


def test_contexts_are_counted_and_given_back(gpu_node: Node, gpu_library: Path) -> None:
    environment = os.environ | gpu_node.environment(gpu_library) | {"CUDA_VISIBLE_DEVICES": "5,1"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_CONTEXTS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        opened = [gpu.contexts_open for gpu in gpu_node.gpus]
        holder.stdin.write("\n")
    assert opened == [0, 1, 0, 0, 0, 1, 0, 0]
    assert [gpu.contexts_open for gpu in gpu_node.gpus] == [0] * 8
    assert [gpu.contexts_opened for gpu in gpu_node.gpus] == opened


def test_a_writer_that_is_killed_leaves_a_node_that_answers(gpu_node: Node, repository: Path) -> None:
    program = "import sys; from pathlib import Path; from tests.gpu_node.node import Node\n"
    program += "node = Node.open(Path(sys.argv[1])); print(1, flush=True)\n"
    program += "while True: node.gpus[0].trace([0, 1, 2], [300, 300, 300], 2)"
    command = [sys.executable, "-c", program, str(gpu_node.file)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        for _ in range(2000):
            assert _instant_mw(gpu_node, 0) in (100_000, 300_000)
            pynvml.nvmlShutdown()
        writer.send_signal(signal.SIGKILL)
    gpu_node.gpus[0].state.sequence |= 1  # half-way
    assert _instant_mw(gpu_node, 0) in (100_000, 300_000)
    gpu_node.gpus[0].constant(150)
    start = time.perf_counter()
    assert _instant_mw(gpu_node, 0) == 150_000
    assert time.perf_counter() - start < 0.05


@pytest.mark.torch
def test_torch_for_cpus_is_not_confused(gpu_node: Node, gpu_library: Path) -> None:
    pytest.importorskip("torch")
    program = "import torch; print(torch.cuda.is_available(), torch.ones(2).sum().item())"
    assert _run(program, gpu_node.environment(gpu_library)).split() == ["False", "2.0"]
