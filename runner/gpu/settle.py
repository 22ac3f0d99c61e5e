"""Before each job: its GPUs as they should be - their memory given back, nobody else on them, cool if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from images.contract.job import GpuUnusable
from runner.gpu.gpus import GpuState, read_gpus
from runner.interrupt import Stop
from runner.studies.settings import CoolDown

IDLE_MEMORY_MB = 1024.0
"""The driver itself holds several hundred MB."""
_USUAL = 1.1
_LOOK_EVERY_S = 1.0


def check_power_limits(uuids: Sequence[str], expected_w: float | None) -> None:
    """
    Raises:
        GpuUnusable: a GPU has another power limit than the study expects, or does not tell it. It is never set.
    """
    if expected_w is None or not uuids:
        return
    for gpu in read_gpus(uuids):
        if gpu.power_limit_w is None or abs(gpu.power_limit_w - expected_w) >= 1.0:
            found = "no power limit that it tells" if gpu.power_limit_w is None else f"{gpu.power_limit_w:g} W"
            raise GpuUnusable(
                f"the study expects a power limit of {expected_w:g} W, and {gpu.uuid} has {found}.",
                f"Set it (`nvidia-smi -i {gpu.uuid} -pl {expected_w:g}`), or correct launcher.power_limit_w.",
            )


def busy_gpus(uuids: Sequence[str]) -> list[str]:
    """Those on which somebody computes, or holds memory. One that does not answer is not busy but lost."""
    try:
        states = read_gpus(uuids)
    except GpuUnusable:
        return []
    return [gpu.uuid for gpu in states if gpu.processes or (gpu.memory_used_mb or 0.0) > IDLE_MEMORY_MB]


class Settler:
    """Waits before jobs, by one study's rules. Threads may share it: each has GPUs of its own."""

    def __init__(self, rules: CoolDown) -> None:
        self._rules = rules
        self._usual_mb: dict[str, float] = {}

    def settle(self, uuids: Sequence[str], stop: Stop, waiting: Callable[[str | None], None]) -> list[str]:
        """Wait until the GPUs are as they should be, or the rules' time is over.

        Memory that stays in use, as a desktop's does, is waited for once.

        Args:
            waiting: told what is waited for, and None at the end.

        Returns:
            What is still not as it should be, in words; it is measured all the same, and the result says so.

        Raises:
            GpuUnusable: a GPU is lost.
        """
        began_s = time.monotonic()
        while uuids:
            states = read_gpus(uuids)
            problems, patience_s = self._problems(states)
            over = time.monotonic() - began_s >= patience_s
            if not problems or over or stop.drain:
                waiting(None)
                if problems:
                    self._usual_mb |= {gpu.uuid: gpu.memory_used_mb or 0.0 for gpu in states}
                return problems
            waiting(f"waiting: {problems[0]}")
            time.sleep(_LOOK_EVERY_S)
        return []

    def _problems(self, states: Sequence[GpuState]) -> tuple[list[str], float]:
        """What is wrong, and how long to wait for that."""
        busy, hot = [], []
        limit_c = self._rules.max_temperature_c
        for gpu in states:
            usual_mb = max(IDLE_MEMORY_MB, self._usual_mb.get(gpu.uuid, 0.0) * _USUAL)
            if gpu.processes:
                busy.append(f"foreign_process: {gpu.processes[0]}")
            elif gpu.memory_used_mb is not None and gpu.memory_used_mb > usual_mb:
                busy.append(f"gpu_memory_in_use: {gpu.memory_used_mb:.0f} MB on {gpu.uuid}")
            if limit_c is not None and gpu.temperature_c is not None and gpu.temperature_c > limit_c:
                hot.append(f"not_cooled_down: {gpu.uuid} has {gpu.temperature_c:.0f} degrees C, above {limit_c:g}")
        patience_s = max(self._rules.busy_timeout_s if busy else 0.0, self._rules.temperature_timeout_s if hot else 0.0)
        return [*busy, *hot], patience_s
