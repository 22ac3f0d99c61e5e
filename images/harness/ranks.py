"""Several processes in one container: the coordinator starts them, sets the common marks and collects what they wrote.

Every rank is a process of its own (`rank.py`) with GPUs of its own in CUDA_VISIBLE_DEVICES. The two sides talk over
one inherited connection each:

    rank -> coordinator   phase, ready, near, finished, written, failed
    coordinator -> rank   gather, open, close, leave

The clock of the marks is CLOCK_MONOTONIC, which all processes of a machine share. How far the ranks are stands on a
board in shared memory, which nobody waits for.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from images.contract import files
from images.contract.aggregation import validate_process_completeness
from images.contract.config import ExperimentConfig
from images.contract.facts import Facts, write_facts
from images.contract.gpus import VISIBLE_DEVICES
from images.contract.job import (
    CONFIG_FILE,
    CONTEXT_FILE,
    IncompleteProcesses,
    JobContext,
    JobError,
    MeasurementFailed,
)
from images.contract.process import ProcessData, load_processes
from images.harness.backend import Backend
from images.harness.board import Board
from images.harness.progress import Progress
from images.harness.rank import PLAN_FILE

log = logging.getLogger(__name__)

_OPEN_IN_S = 0.005
"""Long enough for every rank to hear of the opening mark before it comes."""
_GRACE_S = 2.0
_LEAVE_S = 30.0


class _Rank:
    """One started rank, as the coordinator sees it."""

    def __init__(self, index: int, process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
        self.index = index
        self.connection = connection
        self._process = process
        self.error: JobError | None = None
        self.phases: list[str] = []

    @property
    def failed(self) -> bool:
        return self.error is not None

    def receive(self) -> tuple[Any, ...] | None:
        """The next message that matters; None for a phase or for the last sign of life."""
        try:
            message: tuple[Any, ...] = self.connection.recv()
        except (EOFError, OSError):
            self.error = self._cause_of_death()
            return None
        if message[0] == "phase":
            self.phases.append(str(message[1]))
            return None
        if message[0] == "failed":
            self.error = _as_error(self.index, *message[1:])
            return None
        return message

    def send(self, *message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.error = self.error or self._cause_of_death()

    def ended_by(self, deadline_s: float) -> bool:
        """Whether it has ended; waits for that until the deadline (time.monotonic)."""
        try:
            self._process.wait(max(deadline_s - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def _cause_of_death(self) -> IncompleteProcesses:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return IncompleteProcesses(f"process {self.index} stopped answering.", "Look at the log.")
        if code < 0:
            name = signal.Signals(-code).name
            return IncompleteProcesses(
                f"process {self.index} was killed by {name}.",
                "Run it again; if it was memory, lower batch_size.",
            )
        return IncompleteProcesses(
            f"process {self.index} ended with exit code {code} in mid-work.", "Its traceback is in the log."
        )


class _Ranks:
    """All ranks of one experiment; none outlives the block."""

    def __init__(self, config: ExperimentConfig, context: JobContext, folder: Path, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self._phases = 0
        self._board = Board.create(config.num_processes)
        self.all: list[_Rank] = []
        self._gpus = context.gpu_uuids or []
        self._folder = folder

    def __enter__(self) -> _Ranks:
        for index in range(self._config.num_processes):
            ours, theirs = Pipe()
            with theirs:
                os.set_inheritable(theirs.fileno(), True)
                descriptors = (theirs.fileno(), self._board.descriptor)
                process = subprocess.Popen(
                    [sys.executable, "-m", "images.harness.rank", *map(str, (self._folder, index, *descriptors))],
                    env=self._environment(index),
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                )
            self.all.append(_Rank(index, process, ours))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rank in self.all:
            rank.terminate()
        deadline_s = time.monotonic() + _GRACE_S
        try:
            for rank in self.all:
                rank.ended_by(deadline_s)
        finally:  # a further signal ends the waiting, and not the ending
            for rank in self.all:
                rank.kill()
            os.close(self._board.descriptor)

    @property
    def living(self) -> list[_Rank]:
        return [rank for rank in self.all if not rank.failed]

    @property
    def first_error(self) -> JobError | None:
        return next((rank.error for rank in self.all if rank.error is not None), None)

    def gather(self, word: str, *, all_or_none: bool = False) -> dict[int, tuple[Any, ...]]:
        """Every living rank's message `word`; one that fails meanwhile is no longer waited for.

        Raises:
            JobError: with `all_or_none`, a rank failed; the others are no longer waited for.
        """
        said: dict[int, tuple[Any, ...]] = {}
        while waiting := {rank.connection: rank for rank in self.living if rank.index not in said}:
            for connection in wait(list(waiting)):
                rank = waiting[connection]  # type: ignore[index]
                message = rank.receive()
                self._report_phase()
                if message is not None and message[0] == word:
                    said[rank.index] = message[1:]
            if all_or_none:
                self.require_all()
        return said

    def followed(self) -> AbstractContextManager[None]:
        """In the block it is told how far all ranks together are."""
        return self._progress.following(self._board.total)

    def tell(self, *message: object) -> None:
        for rank in self.living:
            rank.send(*message)

    def require_all(self) -> None:
        """
        Raises:
            JobError: the first failed rank's.
        """
        if self.first_error is not None:
            raise self.first_error

    def _report_phase(self) -> None:
        """A phase has begun when the slowest rank is in it."""
        slowest = min((rank.phases for rank in self.living), key=len, default=[])
        for phase in slowest[self._phases :]:
            self._progress.phase(phase)
        self._phases = max(self._phases, len(slowest))

    def _environment(self, index: int) -> dict[str, str]:
        width = self._config.gpus_per_process
        visible = self._gpus or _visible(self._config.num_processes * width)
        own = {VISIBLE_DEVICES: ",".join(visible[index * width : (index + 1) * width])}
        if "OMP_NUM_THREADS" not in os.environ:
            # Each rank would otherwise take every core, also beside a GPU, and wait for the others' threads in turn.
            cores = len(os.sched_getaffinity(0))
            own["OMP_NUM_THREADS"] = str(max(cores // self._config.num_processes, 1))
        return {**os.environ, **own}


def measure_ranks(
    config: ExperimentConfig,
    context: JobContext,
    facts: Callable[[], Facts],
    backend: Backend,
    progress: Progress,
    after_window: Callable[[ProcessData | None], None],
    output: Path,
) -> list[ProcessData]:
    """What every process measured between the common marks.

    Args:
        facts: what is known of the experiment by now.

    Raises:
        JobError: a rank failed. Once the window was open, the others finish and what they wrote stays.
    """
    known = facts()
    folder = _raw_folder(output, known.experiment_id)
    plan = {
        "experiment_id": known.experiment_id,
        "config_hash": known.config_hash,
        "backend": type(backend).__module__,
    }
    _prepare(folder, config, context, known, plan)

    def all_written() -> None:
        after_window(None)
        try:
            write_facts(folder, facts())
        except OSError as error:
            log.warning("what became known in the window cannot be kept with the raw results (%s)", error.strerror)

    with _Ranks(config, context, folder, progress) as ranks:
        _run(ranks, all_written)
        data = load_processes(folder)
        _require_complete(data, config, known.experiment_id, folder)
    return data


@contextmanager
def raw_kept_unless_saved(output: Path, experiment_id: str) -> Iterator[None]:
    """Raw results go when the block has saved what was made of them; else those of whole processes stay in raw/."""
    folder = _raw_folder(output, experiment_id)
    try:
        yield
    except BaseException:
        _keep(folder, output, experiment_id)
        raise
    files.remove_folder(folder)


def raw_left(output: Path, experiment_id: str) -> Path | None:
    """Raw results of an experiment that failed, of one or more whole processes; None if there are none."""
    # The second, where the coordinator hangs and could not put them away.
    folders = (output / files.RAW_FOLDER / experiment_id, _raw_folder(output, experiment_id))
    return next((folder for folder in folders if any(folder.glob(f"{files.COMPLETED_PREFIX}*"))), None)


def _visible(needed: int) -> list[str]:
    """GPUs that NVML was not asked for, or did not name: as CUDA names them; what is not there is the CPU."""
    setting = os.environ.get(VISIBLE_DEVICES)
    return [str(number) for number in range(needed)] if setting is None else setting.split(",")


def _raw_folder(output: Path, experiment_id: str) -> Path:
    return output / f"{files.UNFINISHED_RAW_PREFIX}{experiment_id}"


def _prepare(folder: Path, config: ExperimentConfig, context: JobContext, facts: Facts, plan: dict[str, str]) -> None:
    """What the ranks read, and later whoever aggregates what they leave."""
    try:
        folder.mkdir()
        files.write_atomic(folder / CONFIG_FILE, config.model_dump_json(indent=1))
        files.write_atomic(folder / CONTEXT_FILE, context.model_dump_json(indent=1))
        write_facts(folder, facts)
        files.write_atomic(folder / PLAN_FILE, json.dumps(plan))
    except OSError as error:
        raise MeasurementFailed(
            f"nothing can be written to {folder.parent} ({error.strerror}).", "Make room there and run it again."
        ) from None


def _run(ranks: _Ranks, all_written: Callable[[], None]) -> None:
    """The barriers. A failure before the window opens ends the experiment at once; after it, the others go on."""
    with ranks.followed():
        ranks.gather("ready", all_or_none=True)
        ranks.tell("gather")
        ranks.gather("near", all_or_none=True)
        opened_s = time.perf_counter() + _OPEN_IN_S
        opened_at = datetime.now(UTC).timestamp() + _OPEN_IN_S
        ranks.tell("open", opened_s, opened_at)
        finished = ranks.gather("finished")
    if not finished:
        ranks.require_all()
    spans = [span for _, span in finished.values() if span is not None]
    common = (max(span[0] for span in spans), min(span[1] for span in spans)) if spans else None
    ranks.tell("close", max(finished_s for finished_s, _ in finished.values()), common)
    ranks.gather("written")
    ranks.require_all()
    all_written()
    # From here on a rank may die: all that it measured is written.
    ranks.tell("leave")
    deadline_s = time.monotonic() + _LEAVE_S
    for rank in ranks.living:
        if not rank.ended_by(deadline_s):
            log.warning("process %d did not close its backend in %.0f s and is ended", rank.index, _LEAVE_S)


def _require_complete(data: Sequence[ProcessData], config: ExperimentConfig, experiment_id: str, folder: Path) -> None:
    report = validate_process_completeness(
        experiment_id, [one.record.raw for one in data], config.num_processes, folder
    )
    if not report.is_complete:
        raise IncompleteProcesses(
            f"{report.found} of {report.expected} processes left a whole result (missing: {report.missing}).",
            "Look at the log; what there is is kept in raw/.",
        )


def _keep(folder: Path, output: Path, experiment_id: str) -> None:
    """What some process completed stays for later; a folder without any is of no use."""
    if not any(folder.glob(f"{files.COMPLETED_PREFIX}*")):
        files.remove_folder(folder)
        return
    raw = output / files.RAW_FOLDER
    raw.mkdir(exist_ok=True)
    folder.rename(raw / experiment_id)
    log.warning("what single processes measured is kept in %s", raw / experiment_id)


def _as_error(index: int, exit_code: int, message: str, advice: str) -> JobError:
    kinds: dict[int, type[JobError]] = {int(kind.exit_code): kind for kind in JobError.__subclasses__()}
    kind = kinds.get(exit_code, IncompleteProcesses)
    return kind(f"process {index}: {message}", advice)
