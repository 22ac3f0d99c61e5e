"""Idle power, measured by a child process that holds a CUDA context on every GPU and then exits.

A context of its own is what makes a GPU idle as it idles between requests; that it ends with the process is what
keeps the measured model's memory free. Run as ``python -m images.harness.baseline SECONDS UUID...``; it prints JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from images.contract.facts import Baseline
from images.contract.gpus import VISIBLE_DEVICES
from images.contract.job import JobError
from images.harness.lifetime import end_with_parent
from images.harness.meter import Meter
from images.harness.nvml import MeterUnavailable, open_devices
from images.harness.sampler import SystemClock

_SETTLE_S = 1.0
_INTERVAL_S = 0.05
_PATIENCE_S = 60.0


class BaselineFailed(Exception):
    """Idle power could not be measured; the text says why."""


def measure_baseline(uuids: Sequence[str], seconds: float) -> Baseline:
    """Idle power of these GPUs over `seconds`, in a child process.

    Raises:
        BaselineFailed: the child failed; what was to be measured is measured without it.
    """
    command = [sys.executable, "-m", "images.harness.baseline", str(seconds), *uuids]
    environment = {**os.environ, VISIBLE_DEVICES: ",".join(uuids)}
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds + _PATIENCE_S, check=True
        )
        return Baseline(**json.loads(child.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines()
        raise BaselineFailed(lines[-1] if lines else f"exit code {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise BaselineFailed(f"no answer for {seconds + _PATIENCE_S:.0f} s") from None
    except (IndexError, ValueError, TypeError):
        raise BaselineFailed("the measuring process said nothing") from None


def _hold_contexts(count: int) -> bool:
    """Retain the primary context of the first `count` visible devices for the rest of this process."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    if cuda.cuInit(0) != 0:
        return False
    for number in range(count):
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if cuda.cuDeviceGet(ctypes.byref(device), number) != 0:
            return False
        if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0:
            return False
    return True


def _measure(seconds: float, uuids: Sequence[str]) -> Baseline:
    """Mean power as a window of this length is measured, and the spread of the samples in it."""
    clock = SystemClock()
    meter = Meter(open_devices(uuids, clock.now_s), _INTERVAL_S, clock)
    held = _hold_contexts(len(uuids))
    clock.sleep(_SETTLE_S)  # a new context raises the clocks for a moment
    meter.calibrate()
    meter.begin()
    opened_s = clock.now_s()
    clock.sleep(seconds)
    closed_s = clock.now_s()
    meter.finish(closed_s)
    energies = meter.metered(opened_s, closed_s).devices
    mute = [device.gpu_uuid for device in energies if device.energy_j is None]
    if mute:
        raise BaselineFailed(f"{mute[0]} gave no reading")
    power_w = sum(device.energy_j or 0.0 for device in energies) / (closed_s - opened_s)
    return Baseline(power_w, _spread_w(meter, opened_s, closed_s), held)


def _spread_w(meter: Meter, opened_s: float, closed_s: float) -> float:
    """Standard deviation of the samples, of all devices together."""
    deviations = []
    for series in meter.sampler.series:
        time_s, power_w = series.readings().powered()
        inside = power_w[(time_s >= opened_s) & (time_s <= closed_s)]
        deviations.append(float(inside.std()) if inside.size else 0.0)
    return float(np.hypot.reduce(deviations))


def main(arguments: Sequence[str]) -> None:
    end_with_parent()
    seconds, *uuids = arguments
    try:
        measured = _measure(float(seconds), uuids)
    except (BaselineFailed, MeterUnavailable, JobError) as error:
        sys.exit(str(error))
    # Standard output is the answer; the parent reads its last line.
    sys.stdout.write(
        json.dumps({"power_w": measured.power_w, "spread_w": measured.spread_w, "held_context": measured.held_context})
        + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
