"""nvidia-ml-py against the simulated driver: identity, errors, modes, faults, time, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.gpu_node.gpu import FaultKind
from tests.gpu_node.node import Node, use_in_process

LOST, UNSUPPORTED, FORBIDDEN = (
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
)


def code_of(call: Callable[..., Any], *arguments: Any) -> int:
    """The code that a call fails with."""
    with pytest.raises(pynvml.NVMLError) as caught:
        call(*arguments)
    return int(caught.value.value)


def handle_of(node: Node, index: int = 0) -> Any:
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(node.gpus[index].uuid)


def energy_mj(handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def field(handle: Any, number: int) -> Any:
    return pynvml.nvmlDeviceGetFieldValues(handle, [number])[0]


def test_every_gpu_says_who_it_is(gpu_node: Node) -> None:
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 8
    assert pynvml.nvmlSystemGetDriverVersion() == "999.00.01-simulated"
    assert pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13000
    for index, gpu in enumerate(gpu_node.gpus):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        assert pynvml.nvmlDeviceGetUUID(handle) == gpu.uuid == f"GPU-51a00000-0000-4000-8000-{index:012x}"
        assert pynvml.nvmlDeviceGetName(handle) == f"SIMULATED GPU {index}"
        assert pynvml.nvmlDeviceGetIndex(handle) == pynvml.nvmlDeviceGetMinorNumber(handle) == index
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        assert pci.busId == gpu.pci_bus_id
        assert (pci.domain, pci.bus, pci.device) == (0, 0x1A + index, 0)
        for bus_id in (gpu.pci_bus_id, gpu.pci_bus_id[4:].lower()):
            same = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)
            assert pynvml.nvmlDeviceGetUUID(same) == gpu.uuid
    assert pynvml.nvmlDeviceGetArchitecture(handle) == pynvml.NVML_DEVICE_ARCH_HOPPER
    assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == (9, 0)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(handle) == pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 700_000


def test_errors_are_the_real_ones(gpu_node: Node) -> None:
    handle = handle_of(gpu_node)
    assert code_of(pynvml.nvmlDeviceGetHandleByIndex, 8) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert code_of(pynvml.nvmlDeviceGetHandleByUUID, "GPU-nope") == pynvml.NVML_ERROR_NOT_FOUND
    assert code_of(pynvml.nvmlDeviceGetHandleByPciBusId, "00000000:99:00.0") == pynvml.NVML_ERROR_NOT_FOUND
    assert code_of(pynvml.nvmlDeviceGetUUID, pynvml.c_nvmlDevice_t()) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert code_of(pynvml.nvmlDeviceGetFanSpeed, handle) == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert code_of(pynvml.nvmlDeviceGetMemoryInfo, handle, 0x01000028) == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    short = pynvml.create_string_buffer(8)
    named = pynvml.nvmlLib.nvmlDeviceGetUUID(handle, short, 8)
    assert named == pynvml.NVML_ERROR_INSUFFICIENT_SIZE
    assert pynvml.nvmlErrorString(LOST) == "GPU is lost"


def test_init_counts_and_shutdown_ends(gpu_node: Node) -> None:
    handle = handle_of(gpu_node)
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    assert energy_mj(handle) > 0
    pynvml.nvmlShutdown()
    for call in (pynvml.nvmlDeviceGetCount, pynvml.nvmlShutdown):
        assert code_of(call) == pynvml.NVML_ERROR_UNINITIALIZED
    assert code_of(energy_mj, handle) == pynvml.NVML_ERROR_UNINITIALIZED


def test_a_driver_that_does_not_start(gpu_node: Node, gpu_library: Path, tmp_path: Path) -> None:
    gpu_node.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    assert code_of(pynvml.nvmlInit) == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    assert code_of(pynvml.nvmlDeviceGetCount) == pynvml.NVML_ERROR_UNINITIALIZED
    gpu_node.init_error = 0
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    use_in_process(gpu_library, tmp_path / "absent")
    assert code_of(pynvml.nvmlInit) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    (tmp_path / "old").write_bytes(b"of another version")
    use_in_process(gpu_library, tmp_path / "old")
    assert code_of(pynvml.nvmlInit) == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH


def test_one_node_after_another(gpu_node: Node, gpu_library: Path, tmp_path: Path) -> None:
    pynvml.nvmlInit()
    other = Node.create(tmp_path / "other" / "node", gpus=2)
    use_in_process(gpu_library, other.file)
    assert pynvml.nvmlDeviceGetCount() == 8, "only nvmlInit looks for the node"
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2
    pynvml.nvmlShutdown()
    Node.create(other.file, gpus=3)
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 3, "the same name, another file"


def test_only_the_visible_ones_exist(gpu_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    uuids = [gpu.uuid for gpu in gpu_node.gpus]
    gpu_node.show_only([uuids[6], uuids[2]])
    pynvml.nvmlInit()
    seen = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    assert [pynvml.nvmlDeviceGetUUID(handle) for handle in seen] == [uuids[2], uuids[6]]
    assert [pynvml.nvmlDeviceGetIndex(handle) for handle in seen] == [0, 1]
    assert [pynvml.nvmlDeviceGetMinorNumber(handle) for handle in seen] == [2, 6]
    assert code_of(pynvml.nvmlDeviceGetHandleByUUID, uuids[0]) == pynvml.NVML_ERROR_NOT_FOUND
    pynvml.nvmlShutdown()
    gpu_node.show_only([])
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 0


def test_modes_memory_and_processes(gpu_node: Node) -> None:
    gpu, handle = gpu_node.gpus[1], handle_of(gpu_node, 1)
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    gpu.persistence, gpu.ecc, gpu.mig = False, False, True
    assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 0
    assert pynvml.nvmlDeviceGetEccMode(handle) == [0, 0]
    assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 1]
    gpu.ecc_supported = gpu.mig_supported = False
    assert code_of(pynvml.nvmlDeviceGetEccMode, handle) == code_of(pynvml.nvmlDeviceGetMigMode, handle) == UNSUPPORTED
    gpu.memory_total, gpu.memory_reserved, gpu.memory_used = 1000, 100, 300
    second = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    assert (second.total, second.reserved, second.used, second.free) == (1000, 100, 300, 600)
    first = pynvml.nvmlDeviceGetMemoryInfo(handle)
    assert (first.total, first.used, first.free) == (1000, 400, 600)
    gpu.set_processes(compute=[(11, 111), (22, 222)], graphics=[(33, 333)])
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert [(one.pid, one.usedGpuMemory) for one in running] == gpu.processes == [(11, 111), (22, 222)]
    assert [one.pid for one in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)] == [33]
    gpu.processes = []
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []


def test_temperature_clocks_and_utilisation(virtual_node: Node) -> None:
    gpu, clock, handle = virtual_node.gpus[0], virtual_node.clock, handle_of(virtual_node)
    gpu.temperature(50, rate_c_per_s=2, max_c=70)
    gpu.clocks(sm_mhz=1500, mem_mhz=2000, max_sm_mhz=1800)
    gpu.throttle(1004, 1006, pynvml.nvmlClocksEventReasonSwPowerCap, 900)
    gpu.square(100, 600, period_s=10, start_s=1000)
    seen = []
    for moment_s in (1000, 1004, 1005.999, 1006, 1030):
        clock.advance_to(moment_s)
        seen.append(
            (
                pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
                pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
                pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
                pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            )
        )
    assert seen == [(50, 1500, 0, 100), (58, 900, 4, 100), (62, 900, 4, 0), (62, 1500, 0, 0), (70, 1500, 0, 100)]
    assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 70
    assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) == 0
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) == 2000
    assert pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM) == 1800
    gpu.utilisation_follows_power, gpu.utilisation = False, 42
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 42


def test_older_boards_say_less(gpu_node: Node) -> None:
    gpu, handle = gpu_node.gpus[0], handle_of(gpu_node)
    assert [one.nvmlReturn for one in pynvml.nvmlDeviceGetFieldValues(handle, [83, (186, 1), 9999])] == [0, 3, 3]
    gpu.instant_supported = False
    assert [one.nvmlReturn for one in pynvml.nvmlDeviceGetFieldValues(handle, [83, 185, 186])] == [0, 0, 3]
    gpu.counter_supported = False
    assert (code_of(energy_mj, handle), field(handle, 83).nvmlReturn) == (UNSUPPORTED, UNSUPPORTED)
    gpu.power_supported = False
    assert (code_of(pynvml.nvmlDeviceGetPowerUsage, handle), field(handle, 185).nvmlReturn) == (3, 3)
    gpu.field_api_supported = False
    assert code_of(pynvml.nvmlDeviceGetFieldValues, handle, [83]) == UNSUPPORTED


@pytest.mark.parametrize(
    ("kind", "counter", "power"),
    [("counter_unsupported", UNSUPPORTED, 0), ("no_permission", FORBIDDEN, FORBIDDEN), ("gpu_lost", LOST, LOST)],
)
def test_faults_that_refuse(virtual_node: Node, kind: FaultKind, counter: int, power: int) -> None:
    gpu, clock, handle = virtual_node.gpus[0], virtual_node.clock, handle_of(virtual_node)
    gpu.fault(kind, from_s=1001, to_s=1002)
    neighbour = pynvml.nvmlDeviceGetHandleByIndex(1)
    for moment_s, hit in ((1000.5, False), (1001, True), (1001.999, True), (1002, False)):
        clock.advance_to(moment_s)
        assert energy_mj(neighbour) > 0
        if not hit:
            assert (field(handle, 83).nvmlReturn, field(handle, 186).nvmlReturn) == (0, 0)
            continue
        assert code_of(energy_mj, handle) == counter
        if power:
            assert code_of(pynvml.nvmlDeviceGetPowerUsage, handle) == power
        if kind == "gpu_lost":
            assert code_of(pynvml.nvmlDeviceGetTemperature, handle, 0) == LOST
            assert code_of(pynvml.nvmlDeviceGetName, handle) == LOST
            assert code_of(pynvml.nvmlDeviceGetFieldValues, handle, [83]) == LOST
            assert code_of(pynvml.nvmlDeviceGetHandleByUUID, gpu.uuid) == LOST
        else:
            assert (field(handle, 83).nvmlReturn, field(handle, 186).nvmlReturn) == (counter, power)
    gpu.clear_faults()


def test_faults_that_lie(virtual_node: Node) -> None:
    clock = virtual_node.clock
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(5)]
    backwards, stuck, zero, absurd, _ = virtual_node.gpus[:5]
    backwards.fault("counter_backwards", from_s=1010, value=1_500_000)
    stuck.fault("counter_stuck", from_s=1010, to_s=1020)
    zero.fault("power_zero")
    absurd.fault("power_absurd", value=4_000_000)
    clock.advance_to(1009.95)
    before, _, _, _, sound_before = (energy_mj(handle) for handle in handles)
    assert before == sound_before
    clock.advance_to(1015)
    after, held, _, _, sound = (energy_mj(handle) for handle in handles)
    assert after == sound - 1_500_000 < before
    assert held == 1_000_000_000 + 1_000_000, "frozen at 10 s of 100 W"
    for handle, milliwatts in ((handles[2], 0), (handles[3], 4_000_000), (handles[4], 100_000)):
        assert pynvml.nvmlDeviceGetPowerUsage(handle) == milliwatts
        assert [one.value.uiVal for one in pynvml.nvmlDeviceGetFieldValues(handle, [185, 186])] == [milliwatts] * 2
    clock.advance_to(1020)
    assert energy_mj(handles[1]) == energy_mj(handles[4])


def test_slow_calls_and_call_cost(gpu_node: Node, virtual_node: Node, gpu_library: Path) -> None:
    """virtual_node is made last, so it is the active one first."""
    handle, clock = handle_of(virtual_node), virtual_node.clock
    virtual_node.call_cost_s = 0.002
    for _ in range(10):
        energy_mj(handle)
        pynvml.nvmlDeviceGetName(handle)
    assert clock.now_s() == pytest.approx(1000.02)
    virtual_node.gpus[0].fault("slow_call", value=500_000_000)
    start = time.perf_counter()
    energy_mj(handle)
    assert clock.now_s() == pytest.approx(1000.522)
    assert time.perf_counter() - start < 0.3
    use_in_process(gpu_library, gpu_node.file)
    handle = handle_of(gpu_node)
    gpu_node.call_cost_s = 0.02
    start = time.perf_counter()
    energy_mj(handle)
    assert 0.02 <= time.perf_counter() - start < 0.3
    gpu_node.gpus[0].fault("slow_call", value=100_000_000)
    start = time.perf_counter()
    energy_mj(handle)
    assert time.perf_counter() - start >= 0.12


def test_the_virtual_clock_stands_still_and_never_goes_back(virtual_node: Node) -> None:
    clock = virtual_node.clock
    assert clock.is_virtual
    start = time.perf_counter()
    clock.sleep(3600)
    clock.advance_to(5000)
    assert clock.now_s() == 5000
    assert time.perf_counter() - start < 1
    with pytest.raises(ValueError, match="past"):
        clock.advance_to(4999)


def test_the_real_clock_is_pythons(gpu_node: Node) -> None:
    gpu, handle = gpu_node.gpus[0], handle_of(gpu_node)
    gpu.counter(step_s=0, base_j=0)
    first_s, first_mj = time.perf_counter(), energy_mj(handle)
    gpu_node.clock.sleep(0.2)
    last_mj, last_s = energy_mj(handle), gpu_node.clock.now_s()
    assert (last_mj - first_mj) / 1e5 == pytest.approx(last_s - first_s, abs=0.02)


def test_many_threads_while_others_come_and_go(gpu_node: Node) -> None:
    """Readers, and a thread that ends and starts the library: no crash, and no answer but these."""
    handle = handle_of(gpu_node)
    allowed = {pynvml.NVML_ERROR_UNINITIALIZED}
    wrong: list[object] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                values = pynvml.nvmlDeviceGetFieldValues(handle, [83, 186])
                if values[1].value.uiVal not in (100_000, 200_000):
                    wrong.append(values[1].value.uiVal)
            except pynvml.NVMLError as error:
                if error.value not in allowed:
                    wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for turn in range(300):
        pynvml.nvmlShutdown()
        gpu_node.gpus[0].constant(100 if turn % 2 else 200)
        pynvml.nvmlInit()
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []
