"""A study file from its first run to its last: resumed, extended, stopped, adaptive."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from images.contract.job import ExitCode
from images.contract.scheduling import AdaptiveCycles
from images.contract.study import StudyRecord
from tests.faults.aftermath import processes_in
from tests.runner.command import RUNNER, leftovers, results, runner
from tests.runner.sample_studies import written


def start(study: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [*RUNNER, "run", str(study), "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_study_goes_on_where_it_was_and_says_what_is_left(tmp_path: Path) -> None:
    study, out = written(tmp_path, "a", "b", cycles=3, stub={"window_s": 0.7}), tmp_path / "out"
    process = start(study, out)
    _wait_until(lambda: len(list(out.glob("*-c*"))) >= 2)
    process.kill()
    process.wait()
    before = {one.experiment_id for one in results(out)}

    planned = runner("plan", study, "--output", out)
    assert f"6 jobs, {6 - len(before)} to run" in planned.stdout
    ran = runner("run", study, "--output", out)

    assert ran.code == 0, ran.stderr
    assert f"an earlier runner (pid {process.pid}) was killed" in ran.stderr
    assert "study study: 6 of 6 cycles" in ran.stdout
    found = results(out)
    assert Counter((one.experiment, one.cycle) for one in found) == Counter((n, c) for n in "ab" for c in (1, 2, 3))
    assert before <= {one.experiment_id for one in found}, "nothing was measured twice"
    assert leftovers(out) == []


def test_a_study_has_a_results_directory_of_its_own_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    study = written(tmp_path, name="My Study")
    assert runner("run", study).code == 0
    assert len(results(tmp_path / "results" / "my-study")) == 1
    assert runner("status", study).stdout.startswith("study My Study")


def test_another_studys_results_directory_is_refused_and_nothing_in_it_changes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert runner("run", written(tmp_path / "x", name="x"), "--output", out).code == 0
    before = sorted(path.name for path in out.rglob("*"))

    other = runner("run", written(tmp_path / "y", name="y"), "--output", out)
    loose = runner("run", "--backend", "stub", "--launcher", "local", "--output", out)

    assert (other.code, loose.code) == (ExitCode.USAGE, ExitCode.USAGE)
    assert f"{out} belongs to study 'x', not to 'y'" in other.last_line
    assert f"{out} belongs to study 'x'" in loose.last_line
    assert sorted(path.name for path in out.rglob("*")) == before


def test_adaptive_cycles_end_when_the_pilots_number_is_there_and_are_not_computed_again(tmp_path: Path) -> None:
    cycles = {"min": 5, "max": 9, "metric": "total_inference_time_sec", "half_width": 0.05}
    study, out = written(tmp_path, "a", "b", cycles=cycles, stub={"window_s": 0.1, "noise": 0.06}), tmp_path / "out"

    ran = runner("run", study, "--output", out)

    assert ran.code == 0, ran.stderr
    record = StudyRecord.load(out)
    assert record is not None
    found = record.cycles
    assert isinstance(found, AdaptiveCycles)
    assert found.n is not None
    assert found.n > 5, "6 % of noise needs more than the pilot"
    assert found.outcome == ("reached" if max(one.n_required for one in found.pilot) <= 9 else "not_reached")
    counted = Counter(one.experiment for one in results(out))
    assert counted == {"a": found.n, "b": found.n}
    assert f"pilot of 5: {found.n} cycles of every experiment" in ran.stderr
    last = max(results(out), key=lambda one: one.cycle or 0)
    assert last.scheduling is not None
    assert last.scheduling.adaptive is not None
    assert (last.scheduling.adaptive.n, len(last.scheduling.adaptive.pilot)) == (found.n, 1)

    assert runner("run", study, "--output", out).code == 0
    again = StudyRecord.load(out)
    assert again == record


def test_stop_lets_the_running_job_finish_and_returns_when_the_runner_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(written(tmp_path, cycles=9, stub={"window_s": 2.0}), out)
    _wait_until(lambda: processes_in(out) != [])

    ran = runner("stop", out)

    assert ran.code == 0, ran.stderr
    assert process.wait(timeout=5) == ExitCode.INTERRUPTED
    assert len(results(out)) == 1
    assert leftovers(out) == []


def test_stop_now_ends_the_job_and_stop_without_a_runner_ends_what_it_left(tmp_path: Path) -> None:
    study, out = written(tmp_path, stub={"hang": "interruptible"}), tmp_path / "out"
    living = start(study, out)
    _wait_until(lambda: processes_in(out) != [])
    assert runner("stop", "--now", out).code == 0
    assert living.wait(timeout=5) == ExitCode.INTERRUPTED
    assert processes_in(out) == []

    killed = start(study, out)
    _wait_until(lambda: processes_in(out) != [])
    killed.kill()
    killed.wait()
    ran = runner("stop", out)

    assert ran.code == 0, ran.stderr
    assert "no runner works on study 'study'; nothing of it runs" in ran.stdout
    assert processes_in(out) == []
    assert leftovers(out) == []


def test_stop_names_the_studies_of_a_directory_without_a_study_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ran = runner("stop", out)
    assert (ran.code, ran.is_one_clear_line()) == (ExitCode.USAGE, True)
    assert f"there is nothing to stop in {out}" in ran.stderr

    asked = ["run", "--backend", "stub", "--launcher", "local", "--cycles", "99", "--output", str(out)]
    process = subprocess.Popen([*RUNNER, *asked, "--study", "run-1"], stderr=subprocess.DEVNULL)
    _wait_until(lambda: processes_in(out) != [])
    ran = runner("stop", "--now", out)
    assert (ran.code, ran.is_one_clear_line()) == (ExitCode.USAGE, True)
    assert "say which study to stop with --study run-1." in ran.stderr
    assert process.poll() is None

    assert runner("stop", "--now", out, "--study", "run-1").code == 0
    assert process.wait(timeout=5) == ExitCode.INTERRUPTED


def test_status_tells_of_a_running_study_from_another_terminal(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(written(tmp_path, "a", "b", cycles=2, stub={"window_s": 3.0}), out)
    _wait_until(lambda: processes_in(out) != [])
    time.sleep(1.0)

    text = runner("status", out).stdout
    process.kill()
    process.wait()

    assert f"(pid {process.pid} on " in text
    assert "0 of 4 cycles done" in text
    assert runner("stop", out).code == 0


def test_what_never_worked_is_corrected_and_the_study_completed(tmp_path: Path) -> None:
    parts = [{"name": "ok", "batch_size": 1}, {"name": "big", "batch_size": 9, "stub": {"fail": "out_of_memory"}}]
    out = tmp_path / "out"
    first = runner("run", written(tmp_path, experiments=parts), "--output", out)
    assert first.code == ExitCode.OUT_OF_MEMORY
    kept = {one.experiment_id for one in results(out)}
    parts[1] = {"name": "big", "batch_size": 8}
    study = written(tmp_path, experiments=parts)

    refused = runner("run", study, "--output", out)
    extended = runner("run", study, "--output", out, "--extend")

    assert "another configuration under the name 'big'. Run again with --extend if that is meant" in refused.last_line
    assert extended.code == 0, extended.stderr
    assert kept < {one.experiment_id for one in results(out)}
    assert Counter(one.experiment for one in results(out)) == {"ok": 1, "big": 1}


def test_who_asks_it_to_end_is_told_that_it_will_and_how_to_hurry_it(tmp_path: Path) -> None:
    command = [
        *RUNNER,
        "run",
        str(written(tmp_path, cycles=5, stub={"window_s": 3.0})),
        "--output",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _wait_until(lambda: processes_in(tmp_path / "out") != [])
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert "finishing the running job; Ctrl-C again, or `runner stop --now`, ends them now" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "name a study file, or an engine with --backend"),
        (["run", "study.yaml", "--backend", "stub"], "--backend and a study file contradict each other"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["stop", "/nowhere"], "there is no directory /nowhere"),
        (["status", "/nowhere"], "there is no directory /nowhere"),
    ],
)
def test_a_wrong_command_is_one_line(arguments: list[str], said: str) -> None:
    ran = runner(*arguments)
    assert ran.code in (ExitCode.USAGE, ExitCode.CONFIG_INVALID)
    assert said in ran.stderr
    assert ran.is_one_clear_line(), ran.stderr


def test_all_errors_of_a_study_file_are_said_at_once_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: s\ncycels: 3\nsweep:\n  grid:\n    batch_size: []\n    dtype: [flaot32]\n")

    ran = runner("run", file)

    assert ran.code == ExitCode.CONFIG_INVALID
    assert f"{file}:2:1: cycels: unknown key (did you mean 'cycles'?)" in ran.stderr
    assert f"{file}:5:17: " in ran.stderr
    assert f"{file}:6:13: " in ran.stderr
    assert "Traceback" not in ran.stderr


def _wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
