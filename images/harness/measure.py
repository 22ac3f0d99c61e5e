"""One measured experiment, read top-down: GPUs, idle power, the processes' work, idle power again, one result.

Time, tokens, energy and latency come from the same window of the same run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from images.contract import files
from images.contract.assembly import assemble
from images.contract.config import ExperimentConfig
from images.contract.facts import Baseline, Facts
from images.contract.gpus import VISIBLE_DEVICES
from images.contract.job import JobContext
from images.contract.process import ProcessData
from images.contract.result import ExperimentResult
from images.contract.scheduling import block_name
from images.harness.backend import Backend
from images.harness.baseline import BaselineFailed, measure_baseline
from images.harness.environment import snapshot_environment
from images.harness.gpus import find_gpus, wait_until_cool, with_gpus
from images.harness.process import Place, measure_process
from images.harness.progress import Progress
from images.harness.ranks import measure_ranks
from images.harness.sampler import SystemClock
from images.harness.window import OwnMarks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """The result and its sidecars' rows."""

    result: ExperimentResult
    requests: files.Table
    timeseries: files.Table | None


@dataclass(slots=True)
class _Idle:
    """Idle power before load and after the window, and why it is missing."""

    seconds: float | None
    uuids: list[str]
    before: Baseline | None = None
    after: Baseline | None = None
    missing: str | None = field(default=None)

    def measure(self) -> Baseline | None:
        if self.seconds is None:
            self.missing = "it was turned off (measurement.baseline.enabled)"
            return None
        try:
            return measure_baseline(self.uuids, self.seconds)
        except BaselineFailed as error:
            log.warning("idle power could not be measured: %s", error)
            self.missing = str(error)
            return None


def _block(context: JobContext, gpu_uuids: Sequence[str]) -> str | None:
    """Where whoever placed the job could not know the GPUs: the block is that of those it got."""
    scheduling = context.scheduling
    in_blocks = scheduling is not None and scheduling.placement == "block"
    return block_name(context.cycle, gpu_uuids) if in_blocks else None


def measure(
    config: ExperimentConfig,
    context: JobContext,
    experiment_id: str,
    backend: Backend,
    progress: Progress,
    output: Path,
) -> Measured:
    """Run one experiment on `backend`.

    Args:
        progress: told each phase as it begins, never inside the measured window; what it looks at meanwhile, in a
            thread of its own, is there anyway.
        output: where the processes of an experiment of several leave their raw results.

    Raises:
        JobError: with the cause and what to do.
    """
    clock = SystemClock()
    config_hash = context.measurement_config_hash or config.measurement_config_hash()
    gpus = find_gpus(config, context, clock)
    context = context.model_copy(
        update={"gpu_uuids": gpus.uuids, "block": context.block or _block(context, gpus.uuids)}
    )
    environment = with_gpus(snapshot_environment(context, backend.packages), gpus)
    if config.measurement.cool_down.max_temperature_c is not None:
        progress.phase("cool_down")
    cool_down = wait_until_cool(gpus.devices, config.measurement.cool_down, clock)
    baseline = config.measurement.baseline
    idle = _Idle(baseline.seconds if baseline.enabled else None, gpus.uuids)

    def facts() -> Facts:
        return Facts(
            experiment_id=experiment_id,
            config_hash=config_hash,
            environment=environment,
            cool_down=cool_down,
            baseline_before=idle.before,
            baseline_after=idle.after,
            no_meter=gpus.no_meter,
            no_baseline=idle.missing if idle.before is None else None,
            foreign=list(gpus.foreign),
        )

    def idle_again(data: ProcessData | None) -> None:
        metered = data is None or bool(data.record.devices)
        if gpus.devices and idle.before is not None and metered:
            progress.phase("baseline")
            idle.after = idle.measure()

    if gpus.devices:
        if baseline.enabled:
            progress.phase("baseline")
        idle.before = idle.measure()
    if config.num_processes == 1:
        if gpus.uuids:
            # The work has to run where it is metered, whatever is visible beside.
            os.environ[VISIBLE_DEVICES] = ",".join(gpus.uuids)
        place = Place(experiment_id, config_hash, 0, 0, gpus.devices)
        data = [measure_process(config, context, place, backend, OwnMarks(), progress, idle_again)]
    else:
        data = measure_ranks(config, context, facts, backend, progress, idle_again, output)
    return Measured(*assemble(config, context, facts(), data))
