"""What a user sees while jobs run, and that seeing it, or not, never disturbs them."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from images.contract.config import ExperimentConfig
from images.contract.failure import JobFailure
from images.contract.progress import JobProgress
from runner.layout import Attempt
from runner.outcome import Outcome
from runner.studies.study import Experiment, Job
from runner.view.progress import Progress
from runner.view.table import JobRow, Snapshot, estimate_s, render
from tests.warehouse.results import make_result

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONFIG = ExperimentConfig(backend="stub")
UUIDS = ("GPU-1234abcd-0000-4000-8000-000000000001", "GPU-99aa88bb-0000-4000-8000-000000000002")


def job(name: str = "small", cycle: int = 1) -> Job:
    return Job("a-study", Experiment(name, CONFIG, CONFIG.measurement_config_hash()), cycle)


def failure(error_class: str = "Unexplained", exit_code: int = 1, log_tail: list[str] | None = None) -> JobFailure:
    return JobFailure(
        experiment_id="exp_20260102_030405_00000001",
        error_class=error_class,
        exit_code=exit_code,
        message="it broke.",
        advice="Look.",
        log_tail=log_tail or [],
        time=START,
    )


@dataclass
class Time:
    """Stands still until it is moved."""

    now_s: float = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.now_s)


@dataclass
class Watched:
    """A Progress and what it has written."""

    progress: Progress
    written: io.StringIO
    folder: Path
    time: Time = field(default_factory=Time)

    def start(self, one: Job, uuids: tuple[str, ...] = UUIDS[:1], attempt: int = 1) -> Attempt:
        place = Attempt(self.folder / f"{one.label.replace(' ', '-')}-a{attempt}")
        place.folder.mkdir()
        self.progress.started(one, place, uuids, attempt)
        return place

    def report(self, place: Attempt, phase: str, **figures: float) -> None:
        report = JobProgress.model_validate({"phase": phase, "time": self.time.now(), **figures})
        place.progress.write_text(report.model_dump_json())

    def succeed(self, one: Job) -> None:
        directory = make_result(one.cycle, n_requests=None, energy_j=120.0).save(self.folder / "out").parent
        self.progress.ended(one, Outcome(one, directory, None), None)

    def fail(self, one: Job, what: JobFailure, again_in_s: float | None = None) -> None:
        self.progress.ended(one, Outcome(one, None, what), again_in_s)

    @property
    def lines(self) -> list[str]:
        return self.written.getvalue().splitlines()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Not on a terminal."""
    written = io.StringIO()
    clock = Time()
    progress = Progress(Console(file=written, width=80), clock=lambda: clock.now_s, now=clock.now)
    yield Watched(progress, written, tmp_path, clock)
    progress.stop()


def test_one_job_at_a_time_is_told_with_its_phases(watched: Watched) -> None:
    watched.progress.begin(total=3, done=1, slots=1)
    place = watched.start(job())
    for after_s, phase in ((2.0, "loading"), (5.0, "loading"), (9.0, "window")):
        watched.time.now_s = after_s
        watched.report(place, phase)
        watched.progress.refresh()
    watched.time.now_s = 12.3
    watched.succeed(job())

    assert watched.lines == [
        "[2/3] small c001  on GPU-1234abcd",
        "         2.0 s  loading",
        "         9.0 s  window",
        "        12.3 s  ok: window 2.0 s, 5.0 output tokens/s, 12 J/output token",
    ]


def test_jobs_side_by_side_are_named_at_both_ends_and_summed_up_each_minute(watched: Watched) -> None:
    watched.progress.begin(total=60, done=2, slots=8)
    places = [watched.start(job("small")), watched.start(job("large"), UUIDS)]
    watched.report(places[0], "window")
    watched.time.now_s = 59.0
    watched.progress.refresh()
    watched.time.now_s = 80.0
    watched.succeed(job("small"))
    for _ in range(3):
        watched.progress.refresh()

    assert watched.lines == [
        "[3/60] small c001  on GPU-1234abcd",
        "[4/60] large c001  on GPU-1234abcd GPU-99aa88bb",
        "[3/60] small c001    80.0 s  ok: window 2.0 s, 5.0 output tokens/s, 12 J/output token",
        # 56 jobs of 80 s on 8 GPUs
        "      3 done, 1 running, 56 left; 1:20 so far, 9:20 to go",
    ]


def test_a_failure_says_what_to_do_and_whether_it_is_tried_again(watched: Watched) -> None:
    watched.progress.begin(total=2, done=0, slots=1)
    watched.start(job())
    log = [f"line {number}" for number in range(20)] + ["\x1b[1;31mred\x1b[0m"]
    watched.fail(job(), failure("Crashed", 1, log), again_in_s=90)
    watched.start(job(), attempt=2)
    watched.fail(job(), failure("GpuUnusable", 13, log), again_in_s=None)

    said = watched.lines
    assert said[1].endswith("FAILED (Crashed, exit code 1): it broke. Look.  It is tried again in 1:30.")
    assert [line.strip() for line in said[2:10]] == [*(f"| line {number}" for number in range(13, 20)), "| red"]
    assert said[10] == "[1/2] small c001  on GPU-1234abcd  (try 2)", "the same job, so the same number"
    assert said[11].endswith("FAILED (GpuUnusable, exit code 13): it broke. Look.")
    assert len(said) == 12


def test_counts_follow_retries_kills_and_new_cycles(watched: Watched) -> None:
    progress = watched.progress
    progress.begin(total=4, done=0, slots=4)
    for name in ("again", "lost", "killed", "good"):
        watched.start(job(name))
    watched.fail(job("again"), failure(), again_in_s=5)
    watched.fail(job("lost"), failure())
    watched.fail(job("killed"), failure("Killed", 16))
    watched.succeed(job("good"))
    progress.grow(10)
    watched.start(job("again"), attempt=2)

    seen = progress.snapshot()
    assert (seen.done, seen.failed, len(seen.running), seen.left) == (1, 1, 1, 7)


def test_waiting_is_said_once_until_it_changes_or_a_job_starts(watched: Watched) -> None:
    watched.progress.begin(total=2, done=0, slots=1)
    for after_s, text in (
        (0, "leased"),
        (1, "leased"),
        (2, None),
        (3, "leased"),
        (40, "83 C"),
        (41, "82 C"),
        (70, "75 C"),
    ):
        watched.time.now_s = after_s
        watched.progress.waiting(text)
    watched.start(job())
    watched.progress.waiting("75 C")

    said = [line.strip() for line in watched.lines]
    assert said == ["leased", "83 C", "75 C", "[1/2] small c001  on GPU-1234abcd", "75 C"]


def test_the_table_shows_where_each_job_is(watched: Watched) -> None:
    report = JobProgress(phase="window", time=START, output_tokens_per_second=1234.56, power_w=699.6)
    rows = (
        JobRow.of("small[b] c001", UUIDS, report, START + timedelta(seconds=75)),
        JobRow.of("large c002", (), None, START),
    )
    shown = drawn(Snapshot(5, 1, 53, rows, 3725.0, None, "waiting for a leased GPU"), width=100)

    assert shown[0] == "5 done, 1 failed, 2 running, 53 left; 1:02:05 so far, - to go"
    assert re.split(r"\s{2,}", shown[2]) == [
        "small[b] c001",
        "GPU-1234abcd GPU-99aa88bb",
        "window",
        "1:15",
        "1234.6",
        "700",
    ]
    assert re.split(r"\s{2,}", shown[3]) == ["large c002", "CPU", "starting", "-", "-"]
    assert shown[4] == "waiting for a leased GPU"


def test_a_narrow_terminal_gets_one_line_per_job() -> None:
    row = JobRow("a-rather-long-experiment-name c001", UUIDS, "idle baseline", 3.0, None, 100.0)
    shown = drawn(Snapshot(0, 0, 0, (row, row), 1.0, None), width=50)

    assert sum("a-rather" in line for line in shown) == 2
    assert all(len(line) <= 50 for line in shown)


def drawn(snapshot: Snapshot, width: int) -> list[str]:
    console = Console(record=True, force_terminal=True, width=width, file=io.StringIO())
    console.print(render(snapshot))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize(
    ("durations", "running", "left", "slots", "expected"),
    [
        ({}, [("a", 5.0)], 10, 2, None),
        ({"a": [10.0, 20.0]}, [], 4, 2, 30.0),
        ({"a": [10.0]}, [("a", 4.0)], 0, 8, 6.0),  # one job on many slots takes as long as it takes
        ({"a": [10.0]}, [("a", 25.0)], 0, 1, 0.0),  # late, but never less than nothing
        ({"a": [10.0]}, [], 1, 8, 10.0),
        ({"a": [10.0] * 9, "b": [100.0]}, [], 10, 1, 550.0),  # what ended first does not stand for the rest
        ({"a": [10.0], "b": [100.0]}, [("b", 40.0), ("new", 5.0)], 0, 1, 110.0),
    ],
)
def test_the_time_to_go(
    durations: dict[str, list[float]],
    running: list[tuple[str, float]],
    left: int,
    slots: int,
    expected: float | None,
) -> None:
    assert estimate_s(durations, running, left, slots) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_full_disk_behind_standard_error_disturbs_nobody(tmp_path: Path, terminal: bool) -> None:
    with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it says once more that it is full
        progress = Progress(Console(file=full, force_terminal=terminal, width=80))
        progress.begin(total=1, done=0, slots=2)
        watched = Watched(progress, io.StringIO(), tmp_path)
        watched.start(job())
        progress.refresh()
        progress.refresh()
        watched.succeed(job())
        progress.waiting("for a GPU")
        progress.stop()
        assert progress.snapshot().done == 1


def test_many_threads_lose_no_line_and_no_job(tmp_path: Path) -> None:
    written = io.StringIO()
    progress = Progress(Console(file=written, force_terminal=True, width=100))
    watched = Watched(progress, written, tmp_path)
    progress.begin(total=80, done=0, slots=8)

    def work(name: str) -> None:
        for cycle in range(1, 11):
            place = watched.start(job(name, cycle))
            watched.report(place, "window", power_w=300.0)
            progress.refresh()
            watched.fail(job(name, cycle), failure("Stalled", 14))

    workers = [threading.Thread(target=work, args=(f"worker{number}",)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    progress.stop()
    progress.stop()

    assert (progress.snapshot().failed, progress.snapshot().running) == (80, ())
    ends = re.findall(r"\[(\d+)/80\] (worker\d c\d{3}) +[\d.]+ s  FAILED", written.getvalue())
    assert sorted(int(number) for number, _ in ends) == list(range(1, 81))
    assert len({label for _, label in ends}) == 80


SCRIPT = """
import sys, time
from pathlib import Path
from tests.runner.view.test_progress import failure, job
from runner.layout import Attempt
from runner.outcome import Outcome
from runner.view.progress import Progress, StandardError

progress = Progress(StandardError())
progress.begin(total=9, done=0, slots=2)
place = Attempt(Path(sys.argv[1]))
place.progress.write_text('{"phase": "window", "time": "2026-01-02T03:04:05Z", "power_w": 321.4}')
progress.started(job(), place, ["GPU-1234abcd-1"], 1)
time.sleep(float(sys.argv[2]))
progress.ended(job(), Outcome(job(), None, failure("Stalled", 14)), None)
progress.note("x" * 100_000)
progress.stop()
progress.note("afterwards")
print("the end")
"""


def test_a_terminal_gets_a_table_and_is_given_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "2.5"], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    with suppress(OSError):  # that is how a terminal ends
        while part := os.read(ours, 65536):
            written += part
    os.close(ours)
    assert process.communicate()[0] == b"the end\n"
    assert process.returncode == 0

    text = written.decode()
    assert re.search(r"small c001\s+GPU-1234abcd\s+window", text), "in the table"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is shown again"
    assert text.rindex("\x1b[?25h") < text.rindex("afterwards")
    assert re.search(r"\[1/9\] small c001 .*FAILED \(Stalled", text)


def test_a_reader_who_leaves_takes_nothing_with_him(tmp_path: Path) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "0.3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=buffered,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"[1/9] small c001")
    process.stderr.close()
    started_s = time.monotonic()

    assert process.stdout is not None
    assert process.stdout.read() == b"the end\n", "standard output is another reader's"
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - started_s < 10
