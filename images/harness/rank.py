"""One of several processes of an experiment, ``python -m images.harness.rank FOLDER INDEX CONNECTION BOARD``.

`ranks.py` starts it and says what is spoken on the connection. It measures as a single process does; only the
marks are common, and what it measured goes into FOLDER.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from images.contract import files
from images.contract.config import ExperimentConfig
from images.contract.job import (
    CONFIG_FILE,
    CONTEXT_FILE,
    ExitCode,
    JobContext,
    JobError,
    MeasurementFailed,
    OutOfMemory,
)
from images.contract.process import ProcessData, write_process
from images.harness.board import Board, RankProgress
from images.harness.lifetime import end_with_parent
from images.harness.meter import Meter
from images.harness.nvml import Device, MeterUnavailable, open_devices
from images.harness.process import Place, measure_process
from images.harness.sampler import SystemClock
from images.harness.window import Span

PLAN_FILE = "plan.json"
_BARRIER_S = 24 * 3600.0


class CommonMarks:
    """A rank's side of the barriers."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection

    def gather(self) -> None:
        self.say("ready")
        self._hear("gather")

    def open(self, meter: Meter) -> tuple[float, datetime]:
        self.say("near")
        meter.watch_until(self._connection.poll, _BARRIER_S)
        opened_s, opened_at = self._hear("open")
        time.sleep(max(opened_s - time.perf_counter(), 0.0))
        return opened_s, datetime.fromtimestamp(opened_at, UTC)

    def close(self, finished_s: float, span: Span | None, _meter: Meter) -> tuple[float, Span | None]:
        self.say("finished", finished_s, span)
        closed_s, common = self._hear("close")
        if common is not None and common[1] <= common[0]:
            raise MeasurementFailed(
                "the processes never ran at full load at the same time.", "Set measurement.methodology: total."
            )
        return closed_s, common

    def leave(self) -> None:
        """The files are written; wait with the model in memory until nobody needs it idle any more."""
        self.say("written")
        self._hear("leave")

    def say(self, *message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            _leave_alone()

    def _hear(self, word: str) -> tuple[Any, ...]:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            _leave_alone()
        if message[0] != word:
            raise AssertionError(f"heard {message[0]} and not {word}")
        return tuple(message[1:])


def _leave_alone() -> NoReturn:
    """The coordinator is gone, and so is the experiment."""
    os._exit(int(ExitCode.INTERRUPTED))


def serve(folder: Path, index: int, connection: Connection[Any, Any], board: int) -> int:
    """Be rank `index` of the experiment in `folder`; returns the exit code.

    Args:
        board: descriptor of the memory in which the ranks tell how far they are.
    """
    if connection.poll():
        _leave_alone()  # before anything was said there is nothing to hear but the end
    config = ExperimentConfig.model_validate(files.read_json(folder / CONFIG_FILE))
    context = JobContext.model_validate(files.read_json(folder / CONTEXT_FILE))
    plan = files.read_json(folder / PLAN_FILE)
    first = index * config.gpus_per_process
    uuids = (context.gpu_uuids or [])[first : first + config.gpus_per_process]
    own = context.model_copy(update={"gpu_uuids": uuids, "process_index": index})
    marks = CommonMarks(connection)
    progress = RankProgress(Board(board, config.num_processes), index, lambda phase: marks.say("phase", phase))

    def written(data: ProcessData) -> None:
        try:
            write_process(folder, data)
        except OSError as error:
            raise MeasurementFailed(
                f"its result cannot be written ({error.strerror}).", "Make room there and run it again."
            ) from None
        marks.leave()

    try:
        place = Place(plan["experiment_id"], plan["config_hash"], index, first, _devices(config, own))
        backend = import_module(plan["backend"]).Backend()
        measure_process(config, own, place, backend, marks, progress, written)
    except (JobError, MemoryError) as problem:
        # Said by the coordinator, once, with this rank's name.
        error = problem if isinstance(problem, JobError) else OutOfMemory("ran out of memory.", "Lower batch_size.")
        marks.say("failed", int(error.exit_code), error.message, error.advice)
        return int(error.exit_code)
    return 0


def _devices(config: ExperimentConfig, context: JobContext) -> Sequence[Device]:
    """This rank's GPUs; the coordinator has said already why there are none, if there are none."""
    if config.measurement.energy == "none" or not context.gpu_uuids:
        return []
    try:
        return open_devices(context.gpu_uuids, SystemClock().now_s)
    except MeterUnavailable:
        return []


def main(arguments: Sequence[str]) -> int:
    folder, (index, descriptor, board) = Path(arguments[0]), map(int, arguments[1:])
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s process {index}: %(message)s", stream=sys.stderr
    )
    # Should the coordinator be killed, nobody else would end this process.
    end_with_parent()
    return serve(folder, index, Connection(descriptor), board)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # as a job does: an engine's threads could keep the interpreter from ending
