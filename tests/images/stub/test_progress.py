"""progress.json of running jobs: what the runner sees of them, and takes for a sign of life."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from images.contract.progress import JobProgress
from images.contract.result import ExperimentResult
from tests.images.stub.jobs import Ended, Job, start, stub
from tests.images.stub.simulated import Machine, on_gpus, watts_of
from tests.images.stub.test_termination import wait_for_phase

pytestmark = pytest.mark.xdist_group("progress")
FIFTY = {"n_prompts": 8, "max_output_tokens": 50, "ignore_eos": True}
SECONDS = 5.0


def watch(job: Job) -> tuple[list[JobProgress], Ended]:
    """Every report of a job, as a reader sees them who looks all the time, and its end."""
    reports: list[JobProgress] = []
    path, appeared = job.output / "progress.json", False
    while job.process.poll() is None:
        report = JobProgress.load(path)
        appeared = appeared or report is not None
        if report is not None and reports[-1:] != [report]:
            reports.append(report)
        time.sleep(0.005)
    assert appeared
    return reports, job.end()


def of(phase: str, reports: list[JobProgress]) -> list[JobProgress]:
    return [report for report in reports if report.phase == phase]


def assert_steady(window: list[JobProgress], tokens_per_second: float, power_w: float) -> None:
    tokens = [report.output_tokens or 0 for report in window]
    assert tokens == sorted(set(tokens)), "every report has more than the one before"
    assert tokens[0] == 0
    assert SECONDS - 1 <= len(tokens) <= SECONDS + 2
    # The window opens some time after its phase has begun.
    settled = [report.output_tokens_per_second for report in window[2:]]
    assert settled == pytest.approx([tokens_per_second] * len(settled), rel=0.25)
    assert [report.power_w for report in window[1:]] == pytest.approx([power_w] * len(window[1:]), rel=0.01)


def test_tokens_grow_once_a_second_over_all_passes_beside_the_power(machine: Machine, tmp_path: Path) -> None:
    a_pass_s = 1.25
    document = on_gpus(FIFTY, stub={"window_s": a_pass_s}, measurement={"min_window_s": SECONDS})
    reports, ended = watch(machine.start(tmp_path / "job", document))

    assert ended.code == 0, ended.stderr
    assert ExperimentResult.from_json(ended.directory).passes == 4
    phases = list(dict.fromkeys(report.phase for report in reports))
    assert phases == [phase for phase in ("start", "load", "warm_up", "window", "close") if phase in phases]
    assert_steady(of("window", reports), 8 * 50 / a_pass_s, watts_of(0))


def test_of_several_processes_tokens_and_power_are_added_up(machine: Machine, tmp_path: Path) -> None:
    document = on_gpus(FIFTY, num_processes=2, stub={"window_s": SECONDS})
    reports, ended = watch(machine.start(tmp_path / "job", document))

    assert ended.code == 0, ended.stderr
    assert_steady(of("window", reports), 8 * 50 / SECONDS, watts_of(0) + watts_of(1))


def test_the_warm_up_shows_life_too(tmp_path: Path) -> None:
    document = stub({"n_prompts": 8, "max_output_tokens": 50})
    document["measurement"] = {"warmup": {"window": 600, "max_rounds": 600}}
    reports, ended = watch(start(tmp_path, document))

    assert ended.code == 0, ended.stderr
    tokens = [report.output_tokens or 0 for report in of("warm_up", reports)]
    assert len(tokens) >= 3
    assert tokens == sorted(set(tokens))
    assert {report.power_w for report in reports} == {None}, "no meter, no power"


def test_a_job_that_hangs_gives_no_sign_of_life(tmp_path: Path) -> None:
    job = start(tmp_path, stub(FIFTY, hang="interruptible"))
    wait_for_phase(job, "window")
    signs = _signs(job, 2.5)
    job.process.terminate()
    job.end()
    assert signs == {("window", 0)}


def test_the_phase_is_that_of_the_slowest_process(machine: Machine, tmp_path: Path) -> None:
    document = on_gpus(FIFTY, num_processes=2, stub={"hang": "interruptible", "when": "load", "rank": 1})
    job = machine.start(tmp_path / "job", document)
    wait_for_phase(job, "load")
    signs = _signs(job, 2.5)
    job.process.terminate()
    ended = job.end()
    assert signs == {("load", None)}
    assert "warm-up round" in ended.stderr, "the other process went on"


def _signs(job: Job, seconds: float) -> set[tuple[str, int | None]]:
    """What the runner's stall timeout looks at."""
    seen, deadline_s = set(), time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if (report := JobProgress.load(job.output / "progress.json")) is not None:
            seen.add((report.phase, report.output_tokens))
        time.sleep(0.02)
    return seen
