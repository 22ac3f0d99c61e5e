"""The acceptance programme itself, on a simulated GPU and a make-believe CUDA. It says nothing of real hardware."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from images.contract.job import ExitCode
from images.harness.backend import Backend, Generation
from images.harness.nvml import open_devices
from tests.gpu_acceptance import machines, sensors
from tests.gpu_acceptance.inference import experiment, loaded_work
from tests.gpu_acceptance.loads import NeedsCuda, matmul_load
from tests.gpu_acceptance.rows import Rows
from tests.gpu_acceptance.stamps import StampsUnmatched, compare_stamps
from tests.gpu_node.node import Node

SHORT = "--watch-seconds 1.2 --run-seconds 2 --pairs 2 --pair-seconds 0.3"
# torch, as far as the load needs it; each product takes a millisecond.
FAKE_TORCH = """
import time
float16 = __version__ = "fake"
class _Cuda:
    def is_available(self): return {available}
    def synchronize(self): pass
cuda = _Cuda()
def randn(*size, device, dtype): return 1.0
def empty_like(matrix): return 0.0
def matmul(one, other, out): time.sleep(0.001)
"""


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.gpu_acceptance", *arguments]


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return float(found[1])


@pytest.mark.usefixtures("gpu_library")
def test_the_whole_programme_on_a_simulated_gpu(repository: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    done = subprocess.run(
        _command("--simulated", *SHORT.split(), "--output", str(table)), cwd=repository, capture_output=True, text=True
    )
    cells = [line.strip("| ").split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")]
    seen = {row[0]: row[1] for row in cells[2:]}
    missed = [row for row in cells[2:] if row[-1] == "MISSED"]
    # A busy machine may miss what is about speed; the rest is exact.
    assert {row[0].split(",")[0] for row in missed} <= {"tokens/s with / without sampling", "sampler at 100 ms"}, missed
    assert done.returncode == (1 if missed else 0), done.stderr
    assert "SIMULATED GPU 0" in table.read_text().splitlines()[0]
    assert "SIMULATED GPU 0" in done.stdout
    assert seen["power method, scope"] == "instant, gpu"
    assert _number(r"median ([\d.]+) ms", seen["counter update period"]) == pytest.approx(100, rel=0.05)
    assert 15 < _number(r"median ([\d.]+) ms", seen["power update period"]) < 45
    assert _number(r"slope ([\d.]+) W", seen["power in steady load"]) == pytest.approx(machines.BUSY_W, rel=0.05)
    assert _number(r"slope ([\d.]+) W", seen["idle power, model loaded"]) == pytest.approx(machines.LOADED_W, rel=0.05)
    assert "true" in seen["energy against the truth"]
    assert seen["token stamps"].startswith("needs CUDA")


def test_no_gpu_is_said_in_one_line(repository: Path, tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a GPU")
    environment = {**os.environ, "GPU_NODE_FILE": str(tmp_path / "none")}
    done = subprocess.run(_command(), cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == ExitCode.GPU_UNUSABLE
    assert done.stdout == ""
    assert [line[:13] for line in done.stderr.splitlines()] == ["needs a GPU: "]


@pytest.mark.usefixtures("gpu_library")
def test_an_unknown_gpu_is_said(repository: Path) -> None:
    done = subprocess.run(_command("--simulated", "--gpu", "GPU-nope"), cwd=repository, capture_output=True, text=True)
    assert done.returncode == ExitCode.GPU_UNUSABLE
    assert "GPU-nope" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("gpu_library")
@pytest.mark.parametrize(("arguments", "number"), [([], signal.SIGINT), (["--all"], signal.SIGTERM)])
def test_an_end_from_outside_leaves_nothing_running(arguments: list[str], number: int, repository: Path) -> None:
    """While the child process that measures the idle power runs, too."""
    with subprocess.Popen(
        _command("--simulated", "--watch-seconds", "2.5", *arguments),
        cwd=repository,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as programme:
        assert programme.stderr
        while "with a context" not in programme.stderr.readline():
            pass
        time.sleep(1.0)
        children = psutil.Process(programme.pid).children(recursive=True)
        assert children
        programme.send_signal(number)
        assert programme.wait(30) == ExitCode.INTERRUPTED
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_verdicts() -> None:
    rows = Rows("GPU")
    rows.inform("name", "x")
    rows.judge("good", "1", "<= 2", met=True)
    assert rows.passed(simulated=False)
    rows.miss(["stamps"], "needs CUDA")
    assert rows.passed(simulated=True)
    assert not rows.passed(simulated=False)
    rows.judge("bad", "3", "<= 2", met=False)
    assert not rows.passed(simulated=True)


@pytest.mark.parametrize("lag_s", [0.0, 0.06])
def test_periods_and_lag_of_a_known_counter(lag_s: float, gpu_node: Node) -> None:
    gpu = gpu_node.gpus[1]
    gpu.counter(step_s=0.05, lag_s=lag_s)
    (device,) = open_devices([gpu.uuid], gpu_node.clock.now_s)
    periods = sensors.counter_periods(sensors.watch(device, 1.0))
    assert periods.median_s == pytest.approx(0.05, rel=0.05)
    assert periods.irregularity < 0.05
    load = machines._ScriptedLoad(gpu)
    readings = sensors.edges(device, load, 0.3)
    assert sensors.fitted_lag_s(readings, 0.05) == pytest.approx(lag_s, abs=0.006)


def test_a_gpu_without_counter_or_instant_power(gpu_node: Node) -> None:
    gpu = gpu_node.gpus[0]
    gpu.counter_supported = gpu.instant_supported = False
    (device,) = open_devices([gpu.uuid], gpu_node.clock.now_s)
    powers = sensors.compare_powers(device, 0.3)
    assert (powers.instant_w, powers.slope_w) == (None, None)
    assert powers.plain_w == pytest.approx(100)
    assert sensors.counter_periods(sensors.watch(device, 0.1)).gaps_s == []


@pytest.fixture
def fake_torch(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def make(available: bool) -> None:
        (tmp_path / "torch.py").write_text(FAKE_TORCH.format(available=available))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{repository}")

    return make


def test_the_load_goes_on_and_off(fake_torch: Callable[[bool], None]) -> None:
    fake_torch(True)
    with matmul_load("GPU-any") as load:
        (child,) = (one for one in psutil.Process().children() if "tests.gpu_acceptance.matmul" in one.cmdline())
        for _ in range(3):
            load.on()
            assert child.is_running()
            load.off()
        load.on()
    assert not child.is_running()


def test_a_load_without_cuda_says_so(fake_torch: Callable[[bool], None]) -> None:
    fake_torch(False)
    with pytest.raises(NeedsCuda, match="PyTorch fake sees no GPU"), matmul_load("GPU-any"):
        pass


class _Event:
    """A CUDA event of a GPU that works at once, whose clock runs 50 ppm fast."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at_s = time.perf_counter() * 1.00005

    def synchronize(self) -> None:
        return None

    def elapsed_time(self, later: _Event) -> float:
        return (later.at_s - self.at_s) * 1e3


class _Head:
    def __init__(self) -> None:
        self.hooks: list[Callable[..., None]] = []

    def register_forward_hook(self, hook: Callable[..., None]) -> Any:
        self.hooks.append(hook)
        return type("Handle", (), {"remove": self.hooks.clear})

    def get_output_embeddings(self) -> _Head:
        return self


class _Steps:
    """A backend whose tokens reach the host `late_s` after the GPU made them."""

    def __init__(self, late_s: float, unseen: int = 0) -> None:
        self._model = _Head()
        self._late_s, self._unseen = late_s, unseen

    def drain(self) -> None:
        return None

    def run(self, requests: list[int]) -> list[Generation]:
        made = []
        for request in requests:
            stamps = []
            for step in range(20):
                for hook in self._model.hooks if step >= self._unseen else ():
                    hook()
                stamps.append(time.perf_counter() + self._late_s)
                time.sleep(0.002)
            made.append(Generation(request, (1,) * 20, "length", None, tuple(stamps), (1,) * 20))
        return made


def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = ModuleType("torch")
    torch.cuda = type("cuda", (), {"Event": _Event})
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.parametrize("late_ms", [0.0, 3.0, -2.0])
def test_late_and_early_stamps_are_found(late_ms: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda(monkeypatch)
    backend: Any = _Steps(late_ms / 1e3)
    found = compare_stamps(backend, [0, 1, 2], batch_size=1)  # type: ignore[list-item]
    assert len(found.each_ms) == 60
    assert sorted(found.each_ms)[30] == pytest.approx(late_ms, abs=0.05)
    assert found.doubt_ms < 0.05
    assert found.gap_ms == pytest.approx(2, abs=1)


def test_a_missing_event_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda(monkeypatch)
    backend: Any = _Steps(0.0, unseen=1)
    with pytest.raises(StampsUnmatched, match="40 stamps, 38 events"):
        compare_stamps(backend, [0, 1], batch_size=1)  # type: ignore[list-item]


@pytest.mark.torch
def test_the_pytorch_backend_gives_an_event_per_stamp(gpu_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with events that are recorded as on a GPU: the hooks and the number of steps are real."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    config = experiment("pytorch", "builtin:tiny-llama", 2, simulated=True)

    class OnCpu(machines.RealMachine):
        simulated = True

        def backend(self, name: str, uuid: str) -> Backend:
            return super().backend(name, uuid)

    with loaded_work(OnCpu(), config, gpu_node.gpus[0].uuid) as work:
        work.backend.run(work.passes[0])
        found = compare_stamps(work.backend, work.passes[0], config.batch_size)
    assert len(found.each_ms) == 4 * 64
    assert min(found.each_ms) >= 0.0
    assert sorted(found.each_ms)[128] < found.gap_ms
