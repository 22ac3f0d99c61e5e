"""`make test-gpu`: joulehouse on a real GPU, without Docker. Prints a table; docs/gpu-acceptance.md explains it."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from images.contract.config import TINY_LLAMA
from images.contract.gpus import VISIBLE_DEVICES
from images.contract.job import ExitCode, JobError
from images.harness.nvml import MeterUnavailable, open_devices
from images.harness.sampler import SystemClock
from tests.gpu_acceptance.machines import Machine, RealMachine, SimulatedMachine
from tests.gpu_acceptance.programme import Plan, examine

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # Child processes start modules of this checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            machine: Machine = SimulatedMachine(Path(folder)) if options.simulated else RealMachine()
            uuids = _choose(options)
            if options.all:
                return _each_alone(uuids, arguments)
            return _examine(machine, uuids[0], options)
        except JobError as error:
            print(error, file=sys.stderr)
            return int(error.exit_code)
        except MeterUnavailable as error:
            reason = f"needs a GPU: {error}. --simulated tries the programme itself on a simulated one."
            print(reason, file=sys.stderr)
            return int(ExitCode.GPU_UNUSABLE)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return int(ExitCode.INTERRUPTED)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-gpu", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gpu", metavar="UUID", help="this GPU; the first visible one if left out")
    which.add_argument("--all", action="store_true", help="all visible GPUs, one after the other")
    parser.add_argument("--simulated", action="store_true", help="try the programme itself, on a simulated GPU")
    parser.add_argument("--backend", choices=("pytorch", "stub"), help="pytorch; with --simulated stub")
    parser.add_argument("--model", default=TINY_LLAMA, help="hub id or local folder (default: %(default)s)")
    parser.add_argument("--batch-size", type=_at_least(1), default=8, help="requests at once (default: %(default)s)")
    parser.add_argument("--pairs", type=_at_least(2), default=10, help="runs with and without sampling (default: 10)")
    parser.add_argument("--pair-seconds", type=float, default=5.0, help="length of each (default: %(default)s)")
    parser.add_argument("--run-seconds", type=float, default=60.0, help="length of the energy run (default: 60)")
    parser.add_argument("--watch-seconds", type=float, default=10.0, help="each look at the sensors (default: 10)")
    parser.add_argument("--output", type=Path, help="append the table to this file, as Markdown")
    return parser.parse_args(arguments)


def _at_least(lowest: int) -> type[int]:
    class _Count(int):
        def __new__(cls, text: str) -> _Count:
            if int(text) < lowest:
                raise argparse.ArgumentTypeError(f"at least {lowest}")
            return super().__new__(cls, text)

    return _Count


def _choose(options: argparse.Namespace) -> list[str]:
    if options.gpu is not None:
        return [options.gpu]
    uuids = [device.uuid for device in open_devices(None, SystemClock().now_s)]
    if not uuids:
        raise MeterUnavailable(f"none is visible ({VISIBLE_DEVICES} is '{os.environ.get(VISIBLE_DEVICES, '')}')")
    return uuids


def _examine(machine: Machine, uuid: str, options: argparse.Namespace) -> int:
    # Before anything loads CUDA; there the GPU is then number 0.
    os.environ[VISIBLE_DEVICES] = uuid
    plan = Plan(
        backend=options.backend or ("stub" if machine.simulated else "pytorch"),
        model=options.model,
        batch_size=options.batch_size,
        watch_s=options.watch_seconds,
        run_s=options.run_seconds,
        pairs=options.pairs,
        pair_s=options.pair_seconds,
    )
    rows = examine(machine, uuid, plan)
    rows.show()
    if options.output is not None:
        rows.append_to(options.output)
    return int(ExitCode.OK) if rows.passed(simulated=machine.simulated) else 1


def _each_alone(uuids: Sequence[str], arguments: Sequence[str]) -> int:
    """A process per GPU, because CUDA chooses its GPUs once; the first failure's code."""
    shared = [argument for argument in arguments if argument != "--all"]
    codes = []
    for uuid in uuids:
        command = [sys.executable, "-m", "tests.gpu_acceptance", "--gpu", uuid, *shared]
        child = subprocess.Popen(command, cwd=_ROOT)
        try:
            codes.append(child.wait())
        except KeyboardInterrupt:
            child.terminate()
            try:
                child.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
    return next((code for code in codes if code != 0), 0)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-C or the end from outside: once, so that what cleans up is not interrupted too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
