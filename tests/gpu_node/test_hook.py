"""`docker run --gpus` on a machine without a GPU: dockerd, the stand-in hook, a container."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import docker
import pytest
from docker.types import DeviceRequest

from tests.docker_engine import docker_command
from tests.gpu_node.node import Node

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]

# The rights that joulehouse gives its jobs.
CONFINED = ["--read-only", "--user", "12345:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
CONFINED += ["--network", "none", "--tmpfs", "/tmp"]

LOOK = """
import ctypes, os, sys, time
nvml = ctypes.CDLL("libnvidia-ml.so.1")
assert nvml.nvmlInit_v2() == 0
count, handle, text, power = ctypes.c_uint(), ctypes.c_void_p(), ctypes.create_string_buffer(96), ctypes.c_uint()
nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
uuids = []
for index in range(count.value):
    assert nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
    assert nvml.nvmlDeviceGetUUID(handle, text, 96) == 0
    uuids.append(text.value.decode())

def watts():
    assert nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(power)) == 0
    return power.value / 1000
"""
SHOW = LOOK + "print(os.getuid(), *uuids)"
# Waits until the host changes the load, then answers with a load of its own.
FOLLOW = (
    LOOK
    + """
print(watts(), flush=True)
until = time.monotonic() + 60
while watts() < 400 and time.monotonic() < until:
    time.sleep(0.02)
print("risen" if watts() >= 400 else "still", flush=True)
assert nvml.gpu_node_load(uuids[0].encode(), ctypes.c_double(50), 0) == 0
"""
)


def _run(image: str, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "run", "--rm", *CONFINED, *options, "--entrypoint", "python3", image, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@contextmanager
def _started(image: str, program: str, *options: str) -> Iterator[str]:
    """A container that runs in the background, and goes with us."""
    name = docker_command("run", "-d", *CONFINED, *options, "--entrypoint", "python3", image, "-c", program).strip()
    try:
        yield name
    finally:
        docker_command("rm", "-f", name)


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("asked", "expected"), [("one", [3]), ("index", [6]), ("two", [1, 5]), ("all", list(range(8)))]
)
def test_a_container_sees_just_what_it_was_given(
    asked: str, expected: list[int], host_node: Node, stub_image: str
) -> None:
    uuids = [gpu.uuid for gpu in host_node.gpus]
    value = {"one": f"device={uuids[3]}", "index": "device=6", "two": f'"device={uuids[5]},{uuids[1]}"', "all": "all"}
    done = _run(stub_image, SHOW, "--gpus", value[asked])
    assert done.stderr == ""
    assert done.stdout.split() == ["12345", *(uuids[index] for index in expected)]


def test_as_the_docker_sdk_asks(host_node: Node, stub_image: str) -> None:
    request = DeviceRequest(device_ids=[host_node.gpus[7].uuid], capabilities=[["gpu"]])
    client = docker.from_env()
    try:
        output = client.containers.run(
            stub_image, ["-c", SHOW], entrypoint=["python3"], device_requests=[request], remove=True, read_only=True
        )
    finally:
        client.close()
    assert output.decode().split()[1:] == [host_node.gpus[7].uuid]


def test_a_tmpfs_on_run_is_no_obstacle(host_node: Node, stub_image: str) -> None:
    done = _run(stub_image, SHOW, "--gpus", "device=2", "--tmpfs", "/run")
    assert done.stdout.split() == ["12345", host_node.gpus[2].uuid], done.stderr


def test_without_gpus_there_is_no_driver(host_node: Node, stub_image: str) -> None:
    done = _run(stub_image, SHOW)
    assert done.returncode == 1
    assert "libnvidia-ml.so.1: cannot open shared object file" in done.stderr


@pytest.mark.parametrize("unknown", ["GPU-51a00000-0000-4000-8000-0000000000ff", "8"])
def test_an_unknown_gpu_does_not_start(unknown: str, host_node: Node, stub_image: str) -> None:
    done = _run(stub_image, SHOW, "--gpus", f"device={unknown}")
    assert done.returncode == 125
    assert f"device error: {unknown}: unknown device" in done.stderr


def test_a_load_is_seen_live_on_both_sides(host_node: Node, stub_image: str) -> None:
    gpu = host_node.gpus[3]
    with _started(stub_image, FOLLOW, "--gpus", f"device={gpu.uuid}") as name:
        _wait_for(lambda: docker_command("logs", name).startswith("100.0"), "the first reading")
        gpu.load(432)
        assert docker_command("wait", name).strip() == "0"
        assert docker_command("logs", name).split() == ["100.0", "risen"]
    assert gpu.true_power_w(host_node.clock.now_s()) == 50
    assert [other.state.load_count for other in host_node.gpus] == [0, 0, 0, 2, 0, 0, 0, 0]


def test_who_runs_keeps_the_node_it_started_with(host_node: Node, stub_image: str) -> None:
    gpu = host_node.gpus[0]
    with _started(stub_image, FOLLOW, "--gpus", "device=0") as name:
        _wait_for(lambda: docker_command("logs", name).startswith("100.0"), "the first reading")
        host_node.close()
        with Node.install(gpus=1) as other:
            other.gpus[0].constant(777)
            time.sleep(0.3)
            assert docker_command("logs", name).split() == ["100.0"]
            gpu.load(432)
            assert docker_command("wait", name).strip() == "0"
            assert other.gpus[0].state.load_count == 0
            fresh = _run(stub_image, LOOK + "print(len(uuids), watts())", "--gpus", "all")
            assert fresh.stdout.split() == ["1", "777.0"]


def test_a_host_without_a_node_says_so(host_node: Node, stub_image: str) -> None:
    host_node.file.unlink()  # not closed: then another session's node could take its place
    done = _run(stub_image, SHOW, "--gpus", "all")
    assert done.returncode == 125
    assert "no simulated GPU node" in done.stderr
