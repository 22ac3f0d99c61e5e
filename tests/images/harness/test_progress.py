"""What is told while work runs: counts from the phase's beginning, and never at the work's cost."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from images.contract import files
from images.contract.progress import JobProgress
from images.harness.board import Board, RankProgress
from images.harness.meter import Meter
from images.harness.progress import Live, ProgressFile
from images.harness.sampler import Sampler, SystemClock
from tests.images.harness.fakes import Clock

TICK_S = 0.02
QUIET_S = 10 * TICK_S


class Work:
    """Running work with a clock and counts that only the test moves."""

    def __init__(self) -> None:
        self.live = Live(100.0, 700, 250.0)

    def __call__(self) -> Live | None:
        return self.live

    def goes_on(self, seconds: float, tokens: int) -> None:
        self.live = replace(
            self.live, at_s=self.live.at_s + seconds, output_tokens=(self.live.output_tokens or 0) + tokens
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "progress.json"


@pytest.fixture
def progress(path: Path) -> Iterator[ProgressFile]:
    made = ProgressFile(path, TICK_S)
    yield made
    made.close()


def told(path: Path) -> JobProgress:
    report = JobProgress.load(path)
    assert report is not None
    return report


def until(path: Path, condition: Callable[[JobProgress], bool]) -> JobProgress:
    deadline_s = time.monotonic() + 5.0
    while not condition(report := told(path)):
        assert time.monotonic() < deadline_s, report
        time.sleep(TICK_S / 4)
    return report


def test_a_phase_is_on_disk_when_it_begins(path: Path, progress: ProgressFile) -> None:
    for name in ("start", "load"):
        progress.phase(name)
        assert (told(path).phase, told(path).output_tokens, told(path).power_w) == (name, None, None)


def test_tokens_count_from_the_phases_beginning_and_the_rate_from_the_last_report(
    path: Path, progress: ProgressFile
) -> None:
    work = Work()
    with progress.following(work):
        progress.phase("window")
        first = told(path)
        work.goes_on(seconds=2.0, tokens=50)
        second = until(path, lambda report: report.output_tokens == 50)
        work.goes_on(seconds=1.0, tokens=100)
        third = until(path, lambda report: report.output_tokens == 150)
    assert (first.output_tokens, first.output_tokens_per_second, first.power_w) == (0, None, 250.0)
    assert (second.output_tokens_per_second, third.output_tokens_per_second) == (25.0, 100.0)
    assert first.time == second.time == third.time, "when the phase began"


def test_work_that_stands_still_is_told_with_a_rate_of_nothing(path: Path, progress: ProgressFile) -> None:
    work = Work()
    with progress.following(work):
        progress.phase("window")
        work.goes_on(seconds=1.0, tokens=0)
        report = until(path, lambda report: report.output_tokens_per_second is not None)
    assert (report.output_tokens, report.output_tokens_per_second) == (0, 0.0)


def test_an_engine_that_does_not_tell_leaves_tokens_unknown_and_power_known(path: Path, progress: ProgressFile) -> None:
    work = Work()
    work.live = Live(100.0, None, 250.0)
    with progress.following(work):
        progress.phase("window")
        work.live = Live(101.0, None, 260.0)
        report = until(path, lambda report: report.power_w == 260.0)
    assert (report.output_tokens, report.output_tokens_per_second) == (None, None)


def test_nothing_is_written_where_nothing_is_new_or_nobody_is_followed(path: Path, progress: ProgressFile) -> None:
    work = Work()
    with progress.following(work):
        progress.phase("window")
        before = path.stat().st_ino
        time.sleep(QUIET_S)
        assert path.stat().st_ino == before
    work.goes_on(seconds=1.0, tokens=1)
    time.sleep(QUIET_S)
    assert path.stat().st_ino == before


def test_a_disk_that_refuses_is_one_warning_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "progress.json"
    progress, work = ProgressFile(path, TICK_S), Work()
    with caplog.at_level(logging.WARNING), progress.following(work):
        progress.phase("warm_up")
        progress.phase("window")
        work.goes_on(seconds=1.0, tokens=1)
        time.sleep(QUIET_S)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "progress.json could not be written: " in caplog.text
        path.parent.mkdir()
        work.goes_on(seconds=1.0, tokens=1)
        time.sleep(QUIET_S)
    assert told(path).output_tokens == 2
    progress.close()


def test_a_disk_that_hangs_holds_up_neither_a_phase_nor_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    hanging, begun = threading.Event(), threading.Event()
    request.addfinalizer(hanging.set)

    def hang(*_: object) -> None:
        begun.set()
        hanging.wait()

    monkeypatch.setattr(files, "write_atomic", hang)
    progress = ProgressFile(path, TICK_S)
    started_s = time.monotonic()
    progress.phase("load")
    progress.phase("warm_up")
    assert begun.wait(5.0)
    assert time.monotonic() - started_s < 0.5
    progress.close()
    assert time.monotonic() - started_s < 2.0


def test_nothing_is_left_or_written_after_the_end(path: Path) -> None:
    progress, work = ProgressFile(path, TICK_S), Work()
    with progress.following(work):
        progress.phase("window")
        progress.close()
        work.goes_on(seconds=1.0, tokens=1)
        time.sleep(QUIET_S)
    assert list(path.parent.iterdir()) == []


def test_a_board_adds_up_once_every_process_has_told_something() -> None:
    board = Board.create(2)
    seen_by_another = Board(board.descriptor, 2)
    board.put(0, Live(10.0, 2**40, 100.5))
    assert seen_by_another.total() is None
    board.put(1, Live(12.0, 3, 50.0))
    assert seen_by_another.total() == Live(11.0, 2**40 + 3, 150.5)
    board.put(1, Live(14.0, None, 50.0))
    assert seen_by_another.total() == Live(12.0, None, 150.5), "a sum with an unknown part is unknown"
    board.put(1, Live(16.0, 4, None))
    assert seen_by_another.total() == Live(13.0, 2**40 + 4, None)


def test_who_hears_of_a_ranks_phase_finds_its_tokens_until_then_on_the_board() -> None:
    board, work, heard = Board.create(1), Work(), list[tuple[str, Live | None]]()
    rank = RankProgress(board, 0, lambda name: heard.append((name, board.total())))
    rank.phase("load")
    with rank.following(work):
        rank.phase("warm_up")
        work.goes_on(seconds=0.5, tokens=11)
        rank.phase("window")
        work.goes_on(seconds=0.5, tokens=5)
    rank.phase("close")
    at = 100.0
    assert heard == [
        ("load", None),
        ("warm_up", Live(at, 700, 250.0)),
        ("window", Live(at + 0.5, 711, 250.0)),
        ("close", Live(at + 1.0, 716, 250.0)),
    ]


def test_power_is_the_sum_of_what_was_read_last_and_old_or_missing_readings_are_none(clock: Clock) -> None:
    sampler = Sampler([], 0.1, SystemClock())
    assert sampler.latest_power_w() is None, "no GPU draws no known power"
    sampler = Sampler([object(), object()], 0.1, SystemClock())  # type: ignore[list-item]  # never asked
    assert sampler.latest_power_w() is None
    for series, power_w in zip(sampler.series, (100.0, 50.5), strict=True):
        series.time_s.append(clock.now_s)
        series.power_w.append(power_w)
    assert sampler.latest_power_w() == 150.5
    clock.advance(1.9)
    assert sampler.latest_power_w() == 150.5
    clock.advance(0.2)
    assert sampler.latest_power_w() is None
    sampler.series[0].time_s.append(clock.now_s)
    sampler.series[1].time_s.append(clock.now_s)
    sampler.series[1].power_w.append(math.nan)
    assert sampler.latest_power_w() is None
    assert Meter([], 0.1).power_w() is None
