"""The job process: arguments -> run -> save -> exit code. Exceptions become exit codes here only."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from images.contract import files
from images.contract.config import parse_config
from images.contract.failure import JobFailure
from images.contract.job import (
    ARG_CONFIG,
    ARG_CONTEXT,
    ARG_DEADLINE,
    ARG_KEEP_GOING,
    ARG_OUTPUT,
    ARG_PUBLISH,
    ARG_REPORT,
    ARG_TRIES,
    ENV_JOB,
    ENV_LOG_LEVEL,
    ENV_NODE,
    ENV_POD,
    PROGRESS_FILE,
    RESULTS_MOUNT,
    ConfigInvalid,
    ExitCode,
    Interrupted,
    JobContext,
    JobError,
    MeasurementFailed,
    OutOfMemory,
    only_json,
)
from images.harness.measure import measure
from images.harness.progress import ProgressFile
from images.harness.publishing.delivery import Delivery
from images.harness.ranks import raw_kept_unless_saved, raw_left

log = logging.getLogger(__name__)

TERMINATION_GRACE_S = 5.0
_SIGNAL_AGAIN_S = 0.5
_LAST_WORD_S = 3.0
_FAILURE_DELIVERED_S = 300.0
"""For a failure that counts: longer than a place that is away is asked again."""
_LONGEST_WAIT_S = 3600.0
_LOG_TAIL_LINES = 50


class _Terminated(BaseException):
    """SIGTERM or SIGINT; not an Exception, so that no library's handler swallows it."""


class Bug(JobError):
    """Anything that nobody foresaw."""


class TimedOut(MeasurementFailed):
    """No result by the deadline."""


class _LogTail(logging.Handler):
    """Keeps the last lines for failure.json."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_LOG_TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.extend(self.format(record).splitlines())


class Job:
    """What is known of this job, so that a failure at any moment can be written down."""

    def __init__(self, backend: str, output: Path, delivery: Delivery) -> None:
        self.backend = backend
        self.output = output
        self.delivery = delivery
        self.started = datetime.now(UTC)
        self.experiment_id = files.new_experiment_id(self.started)
        self.raw_config: dict[str, Any] | None = None
        self.context = JobContext()
        self.tail = _LogTail()
        self.progress = ProgressFile(output / PROGRESS_FILE)
        self.overdue: TimedOut | None = None
        self._ending = threading.RLock()
        self._main_is_ending = threading.Event()

    def fail(self, error: JobError) -> int:
        """Write failure.json, say why in one line, deliver both, and return the exit code."""
        return self.deliver(error, self.write_failure(error))

    def deliver(self, error: JobError, directory: Path | None) -> int:
        """Tell whoever is not on this host; returns the exit code.

        Args:
            directory: with failure.json; None if it could not be written.
        """
        return self.delivery.failure(error, directory, self.experiment_id, raw_left(self.output, self.experiment_id))

    def write_failure(self, error: JobError) -> Path | None:
        """The directory with failure.json; None if it could not be written."""
        log.error("%s", error)
        failure = JobFailure(
            experiment_id=self.experiment_id,
            backend=self.backend,
            measurement_config_hash=self.context.measurement_config_hash,
            config=self.raw_config,
            study=self.context.study,
            experiment=self.context.experiment,
            cycle=self.context.cycle,
            attempt=self.context.attempt,
            error_class=type(error).__name__,
            exit_code=int(error.exit_code),
            message=error.message,
            advice=error.advice,
            log_tail=list(self.tail.lines),
            time=datetime.now(UTC),
        )
        try:
            return failure.save(self.output).parent
        except (OSError, ValueError) as problem:
            log.error("failure.json could not be written: %s", problem)
            return None

    def watch_for_termination(self, deadline_after_s: float | None) -> None:
        """End this job within 5 s of SIGTERM, SIGINT or its deadline, also when the main thread never returns.

        The handler raises in the main thread, which cannot happen while that is inside a call that does
        not come back (a hung driver). So a thread is woken by the interpreter's own C-level handler
        through a socket. It signals the main thread again for a while, because compiled modules swallow what
        is raised while they are imported; then it writes failure.json and leaves. A deadline is a signal that
        this thread sends by itself.

        Args:
            deadline_after_s: from now (s); None: it may take as long as it needs.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _raise_terminated)
        threading.Thread(target=self._leave_after_grace, args=(reader, writer, deadline_after_s), daemon=True).start()

    def begin_end(self) -> None:
        """From here on no signal interrupts, and only the caller writes the end.

        If the watchdog was first, this never returns: that one ends the process.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # Not SIG_IGN: Python complains of a signal that came in before and would be ignored now.
                signal.signal(number, lambda _number, _frame: None)
        self._main_is_ending.set()
        self._ending.acquire()

    def _leave_after_grace(self, reader: socket.socket, _writer: socket.socket, deadline_after_s: float | None) -> None:
        if not _signalled_within(deadline_after_s, reader) and not self._main_is_ending.is_set():
            self.overdue = TimedOut(
                f"no result after {deadline_after_s:g} s; the job was ended.", "Raise the timeout, or look at the log."
            )
        deadline = time.monotonic() + TERMINATION_GRACE_S
        while time.monotonic() < deadline and not self._main_is_ending.wait(_SIGNAL_AGAIN_S):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(max(deadline - time.monotonic(), 0.0))
        self.begin_end()
        error = self.overdue or Interrupted("terminated from outside while a call did not return.", "Run it again.")
        directory = self.write_failure(error)
        codes = [int(error.exit_code)]
        # A place that does not answer is no reason to stay.
        last_word = threading.Thread(target=lambda: codes.append(self.deliver(error, directory)), daemon=True)
        last_word.start()
        last_word.join(_LAST_WORD_S if self.overdue is None else _FAILURE_DELIVERED_S)
        self.progress.close()
        os._exit(codes[-1])


def main(backend_module: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one job and exit.

    Args:
        backend_module: module with a class ``Backend``; imported late, so that an import that fails or
            hangs is a failure like any other.
    """
    options = _parse(backend_module, arguments)
    delivery = Delivery(options.publish, options.report, options.keep_going, options.tries, os.environ.get(ENV_JOB))
    job = Job(backend_module.split(".")[1], options.output, delivery)
    _set_up_logging(job)
    _check_output(options.output)
    try:
        job.watch_for_termination(options.deadline)  # in here, because its handler may raise before it returns
        code = _run(job, options, backend_module)
    except BaseException as error:  # noqa: BLE001 - the one place where exceptions become exit codes
        job.begin_end()
        code = job.fail(_as_job_error(error, job.overdue))
    job.progress.close()
    logging.shutdown()
    # Leave at once: threads of an engine, or a broken driver, could keep the interpreter from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(job: Job, options: argparse.Namespace, backend_module: str) -> int:
    job.raw_config = _read(options.config)
    job.context = _read_context(options.context)
    config = parse_config(job.raw_config)
    if config.backend != job.backend:
        raise ConfigInvalid(
            f"the configuration is for backend '{config.backend}', this image runs '{job.backend}'.",
            "Start the other image, or set backend.",
        )
    config_hash = job.context.measurement_config_hash or config.measurement_config_hash()
    if (context := job.delivery.begin(job.context, config_hash)) is None:
        job.begin_end()
        return int(ExitCode.OK)
    job.context = context
    job.progress.phase("start")
    backend = import_module(backend_module).Backend()
    with raw_kept_unless_saved(job.output, job.experiment_id):
        measured = measure(config, job.context, job.experiment_id, backend, job.progress, job.output)
        job.begin_end()  # a finished measurement is saved, whatever arrives now
        try:
            path = measured.result.save(job.output, requests=measured.requests, timeseries=measured.timeseries)
        except OSError as error:
            raise MeasurementFailed(
                f"the result cannot be written to {job.output} ({error.strerror}).", "Make room there and run it again."
            ) from None
        log.info("saved %s", path)
        job.delivery.result(path.parent, job.experiment_id)
    return int(ExitCode.OK)


def _parse(backend_module: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {backend_module.rpartition('.')[0]}", description="Run one measured experiment."
    )
    parser.add_argument(ARG_CONFIG, type=Path, required=True, help="ExperimentConfig as a JSON file")
    parser.add_argument(ARG_CONTEXT, type=Path, help="JobContext as a JSON file")
    parser.add_argument(ARG_OUTPUT, type=Path, default=Path(RESULTS_MOUNT), help="where the result directory goes")
    parser.add_argument(ARG_PUBLISH, metavar="PLACE", help="publish it from there to a folder or s3://bucket/prefix")
    parser.add_argument(ARG_KEEP_GOING, action="store_true", help="exit with 0 after a failure that is published")
    parser.add_argument(ARG_TRIES, type=int, metavar="N", help="most that may end without a word, or on a broken GPU")
    parser.add_argument(ARG_REPORT, type=Path, metavar="FILE", help="where a last word goes, as JSON")
    parser.add_argument(ARG_DEADLINE, type=_seconds, metavar="SECONDS", help="end as a failure if not measured by then")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")


def _set_up_logging(job: Job) -> None:
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    stream = logging.StreamHandler(sys.stderr)
    for handler in (stream, job.tail):
        handler.setFormatter(form)
    wanted = os.environ.get(ENV_LOG_LEVEL, "INFO").upper()
    known = logging.getLevelNamesMapping()
    logging.basicConfig(level=known.get(wanted, logging.INFO), handlers=[stream, job.tail])
    if wanted not in known:
        log.warning("%s is '%s'; using INFO. Known: %s.", ENV_LOG_LEVEL, wanted, ", ".join(known))


def _check_output(output: Path) -> None:
    try:
        # Tried, not asked: permissions say yes to root also where nothing can be written.
        tempfile.TemporaryFile(dir=output).close()
    except OSError:
        log.error(
            "the output directory %s is not there or not writable by uid %d, gid %d. Create it for that user, "
            "or start the job as another one.",
            output,
            os.getuid(),
            os.getgid(),
        )
        os._exit(int(ExitCode.USAGE))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = files.read_json(path)
        only_json(data)  # else failure.json could not hold it
    except ValueError as error:
        reason = str(error) if isinstance(error, files.UnreadableResult) else f"{path}: {error}"
        raise ConfigInvalid(f"{reason}.", f"Give a JSON object with {ARG_CONFIG}.") from None
    return data


def _read_context(path: Path | None) -> JobContext:
    own = {name: value for name, key in (("node", ENV_NODE), ("pod", ENV_POD)) if (value := os.environ.get(key))}
    if path is None:
        return JobContext(**own)
    try:
        return JobContext.model_validate({**_read(path), **own})
    except ValidationError as error:
        raise ConfigInvalid(
            f"{path} is not a job context: {error.errors()[0]['msg']}.", "Let the runner write it."
        ) from None


def _as_job_error(error: BaseException, overdue: TimedOut | None) -> JobError:
    if isinstance(error, JobError):
        return error
    if overdue is not None:
        return overdue
    if isinstance(error, _Terminated):
        return Interrupted("terminated from outside.", "Run it again.")
    if isinstance(error, MemoryError):
        return OutOfMemory("the process ran out of memory.", "Lower batch_size or the workload's token limits.")
    log.error("%s", "".join(traceback.format_exception(error)).rstrip())
    return Bug(f"{type(error).__name__}: {error}", "This is a bug; please report it with failure.json.")


def _signalled_within(seconds: float | None, reader: socket.socket) -> bool:
    """Wait for SIGTERM or SIGINT; False if neither comes in time.

    Args:
        seconds: None waits for ever.
        reader: gets the number of each signal.
    """
    give_up_s = math.inf if seconds is None else time.monotonic() + seconds
    while (left_s := give_up_s - time.monotonic()) > 0:
        reader.settimeout(min(left_s, _LONGEST_WAIT_S))
        with suppress(TimeoutError):
            if set(reader.recv(1)) & {signal.SIGTERM, signal.SIGINT}:
                return True
    return False


def _raise_terminated(_number: int, _frame: object) -> None:
    raise _Terminated
