"""`runner run` with local processes: published, cleared up, and clear about what went wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from images.contract.job import ExitCode
from runner.launchers.local import LocalJob
from runner.layout import Layout
from runner.retry import MOST_KILLS
from tests.runner.command import RUNNER, failures, leftovers, results, runner
from tests.runner.sample_studies import written

STUB = ["run", "--backend", "stub", "--launcher", "local"]


def test_every_cycle_is_published_once_with_its_context(tmp_path: Path) -> None:
    ran = runner(*STUB, "--output", tmp_path, "--cycles", "3", "--study", "s1", "--set", "workload.n_prompts=5")

    assert ran.code == 0, ran.stderr
    found = results(tmp_path)
    assert [(one.study, one.cycle, one.attempt) for one in found] == [("s1", 1, 1), ("s1", 2, 1), ("s1", 3, 1)]
    assert len({one.experiment_id for one in found}) == 3
    assert len({one.measurement_config_hash for one in found}) == 1
    environment = found[0].environment_snapshot
    assert environment is not None
    assert (environment.launcher, environment.image_id) == ("local", None)
    assert environment.git_revision
    assert leftovers(tmp_path) == []


def test_a_failed_cycle_is_recorded_and_the_others_still_run(tmp_path: Path) -> None:
    ran = runner(
        *STUB, "--output", tmp_path, "--cycles", "2", "--retries", "0", "--set", "stub.fail=measurement_failed"
    )

    assert ran.code == ExitCode.MEASUREMENT_FAILED
    found = failures(tmp_path)
    assert [(one.cycle, one.exit_code, one.error_class) for one in found] == [
        (1, 14, "MeasurementFailed"),
        (2, 14, "MeasurementFailed"),
    ]
    assert found[0].config is not None
    assert found[0].config["stub"]["fail"] == "measurement_failed"
    assert found[0].measurement_config_hash
    assert leftovers(tmp_path) == []


def test_every_try_is_recorded_with_its_number_and_a_later_run_counts_on(tmp_path: Path) -> None:
    study = written(tmp_path, stub={"fail": "measurement_failed"}, retries={"limit": 1, "backoff_s": 0.0})

    assert runner("run", study, "--output", tmp_path / "out").code == ExitCode.MEASUREMENT_FAILED
    assert runner("run", study, "--output", tmp_path / "out", "--retries", "0").code == ExitCode.MEASUREMENT_FAILED

    assert sorted((one.attempt, one.experiment) for one in failures(tmp_path / "out")) == [(1, "a"), (2, "a"), (3, "a")]


def test_a_job_that_is_killed_again_and_again_is_left_for_the_next_run(tmp_path: Path) -> None:
    ran = runner("run", written(tmp_path, stub={"fail": "killed"}), "--output", tmp_path / "out")

    assert ran.code == ExitCode.INTERRUPTED
    assert ran.stderr.count("interrupted (Killed") == MOST_KILLS
    assert [one.error_class for one in failures(tmp_path / "out")] == ["Killed"], "too often to be chance"
    assert leftovers(tmp_path / "out") == []


def test_try_after_try_that_fails_ends_the_study(tmp_path: Path) -> None:
    study = written(
        tmp_path, cycles=9, stub={"fail": "measurement_failed"}, retries={"backoff_s": 0.0, "limit": 1, "stop_after": 5}
    )

    ran = runner("run", study, "--output", tmp_path / "out")

    assert ran.code == ExitCode.MEASUREMENT_FAILED
    assert ran.last_line.startswith("runner: 5 tries in a row failed, the last with: the stub was told to fail.")
    assert len(failures(tmp_path / "out")) == 5


@pytest.mark.parametrize("hang", ["interruptible", "uninterruptible"])
def test_a_timeout_ends_the_process_itself(tmp_path: Path, hang: str) -> None:
    ran = runner(
        *STUB, "--output", tmp_path, "--cycles", "1", "--retries", "0", "--timeout", "2", "--set", f"stub.hang={hang}"
    )

    assert ran.code == ExitCode.MEASUREMENT_FAILED
    (failure,) = failures(tmp_path)
    assert failure.error_class == "TimedOut"
    assert "2 s" in failure.message
    assert leftovers(tmp_path) == []
    assert _jobs_of(tmp_path) == []


def test_a_silent_hang_is_ended_and_a_job_that_reports_is_not(tmp_path: Path) -> None:
    silent = runner(
        *STUB, "--output", tmp_path, "--cycles", "1", "--retries", "0", "--stall-timeout", "3",
        "--set", "stub.hang=interruptible",
    )  # fmt: skip
    assert silent.code == ExitCode.MEASUREMENT_FAILED
    (failure,) = failures(tmp_path)
    assert (failure.error_class, failure.message) == (
        "Stalled",
        "nothing new for 3 s in phase window; the job was ended.",
    )

    slow = runner(*STUB, "--output", tmp_path, "--cycles", "1", "--stall-timeout", "3", "--set", "stub.window_s=6")
    assert slow.code == 0, slow.stderr
    assert len(results(tmp_path)) == 1


def test_the_first_sigterm_lets_the_running_job_finish(tmp_path: Path) -> None:
    process = _started(tmp_path, "s", "--cycles", "50", "--set", "stub.window_s=1.5")
    _wait_until(lambda: _jobs_of(tmp_path) != [])

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=20) == ExitCode.INTERRUPTED
    assert [one.cycle for one in results(tmp_path)] == [1]
    assert leftovers(tmp_path) == []


def test_the_second_sigterm_ends_the_job_and_keeps_finished_cycles(tmp_path: Path) -> None:
    assert runner(*STUB, "--output", tmp_path, "--study", "s", "--cycles", "1").code == 0
    process = _started(tmp_path, "s", "--cycles", "2", "--set", "stub.hang=interruptible")
    _wait_until(lambda: _jobs_of(tmp_path) != [])

    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=20) == ExitCode.INTERRUPTED
    assert len(results(tmp_path)) == 1
    assert failures(tmp_path) == []
    assert _jobs_of(tmp_path) == []
    assert leftovers(tmp_path) == []


def test_a_named_run_goes_on_where_it_was(tmp_path: Path) -> None:
    assert runner(*STUB, "--output", tmp_path, "--study", "s", "--cycles", "2").code == 0
    assert runner(*STUB, "--output", tmp_path, "--study", "other", "--cycles", "1").code == 0
    before = {one.experiment_id for one in results(tmp_path)}

    ran = runner(*STUB, "--output", tmp_path, "--study", "s", "--cycles", "3")

    assert ran.code == 0, ran.stderr
    assert "study s: 3 of 3 cycles" in ran.stdout
    (new,) = [one for one in results(tmp_path) if one.experiment_id not in before]
    assert (new.study, new.cycle) == ("s", 3)


def test_the_next_runner_ends_the_orphan_of_a_killed_one(tmp_path: Path) -> None:
    process = _started(tmp_path, "same", "--cycles", "1", "--set", "stub.hang=interruptible")
    _wait_until(lambda: _jobs_of(tmp_path) != [])
    process.kill()
    process.wait()
    assert _jobs_of(tmp_path) != [], "the orphan lives on"

    ran = runner(*STUB, "--output", tmp_path, "--cycles", "1", "--study", "another")

    assert ran.code == 0, ran.stderr
    assert _jobs_of(tmp_path) == []
    assert len(results(tmp_path)) == 1
    assert leftovers(tmp_path) == []


def test_a_runner_leaves_the_jobs_of_a_living_one_alone(tmp_path: Path) -> None:
    first = _started(tmp_path, "first", "--cycles", "1", "--set", "stub.window_s=4")
    _wait_until(lambda: _jobs_of(tmp_path) != [])

    assert runner(*STUB, "--output", tmp_path, "--cycles", "1", "--study", "second").code == 0

    assert first.wait(timeout=30) == 0
    assert {one.study for one in results(tmp_path)} == {"first", "second"}


def test_a_reader_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    command = [*RUNNER, *STUB, "--output", str(tmp_path), "--cycles", "2", "--set", "stub.window_s=0.5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()

    assert process.wait(timeout=30) == 0
    assert len(results(tmp_path)) == 2
    assert leftovers(tmp_path) == []


def test_an_output_is_the_same_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    process = _started(tmp_path / "link", "first", "--cycles", "1", "--set", "stub.hang=interruptible")
    _wait_until(lambda: _jobs_of(tmp_path / "real") != [])
    process.kill()
    process.wait()

    assert runner(*STUB, "--output", tmp_path / "real", "--cycles", "1").code == 0

    assert _jobs_of(tmp_path / "real") == []


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_children_of_a_job_do_not_outlive_it(tmp_path: Path) -> None:
    attempt = Layout(tmp_path).new_attempt("s", 1, 1)
    process = subprocess.Popen(["sh", "-c", "sleep 61 & echo $!"], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.wait()

    LocalJob(process.pid, attempt, process).remove()

    _wait_until(lambda: _has_ended(child))


def test_a_runner_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    command = ["nohup", *RUNNER, *STUB, "--output", str(tmp_path), "--cycles", "1", "--set", "stub.window_s=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_until(lambda: _jobs_of(tmp_path) != [])

    process.send_signal(signal.SIGHUP)

    assert process.wait(timeout=30) == 0
    assert len(results(tmp_path)) == 1


def test_a_failure_that_every_cycle_would_repeat_ends_the_study(tmp_path: Path) -> None:
    ran = runner(*STUB, "--output", tmp_path, "--cycles", "3", "--set", "stub.fail=out_of_memory")

    assert ran.code == ExitCode.OUT_OF_MEMORY
    assert len(failures(tmp_path)) == 1
    assert "would fail in the same way" in ran.stderr


def test_a_disk_that_fills_up_while_a_job_runs_costs_no_result(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    out = tmp_path / "out"
    try:
        assert runner(*STUB, "--output", out, "--study", "s", "--cycles", "1").code == 0
        process = _started(out, "s", "--cycles", "3", "--set", "stub.window_s=3", stderr=subprocess.PIPE)
        _wait_until(lambda: _jobs_of(out) != [])
        _fill(tmp_path / "filler")
        _, said = process.communicate(timeout=60)
        kept = results(out)
        (tmp_path / "filler").unlink()
        again = runner(*STUB, "--output", out, "--study", "s", "--cycles", "3", "--set", "stub.window_s=3")
        finished, left = results(out), leftovers(out)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert process.returncode == ExitCode.USAGE
    assert b"Traceback" not in said
    assert said.strip().splitlines()[-1].startswith(b"runner: ")
    assert b"Make room" in said.strip().splitlines()[-1]
    assert [one.cycle for one in kept] == [1]
    assert again.code == 0, again.stderr
    assert len(finished) == 1 + 3, "cycle 1 of the other configuration is the study's, too"
    assert left == []


def test_a_disk_that_is_full_from_the_start_starts_no_job(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        ran = runner(*STUB, "--output", tmp_path, "--cycles", "2")
        found = [*results(tmp_path), *failures(tmp_path)]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert ran.code == ExitCode.USAGE
    assert "16 MiB left, and no job starts below 64" in ran.last_line
    assert found == []


def test_two_runners_do_not_work_on_one_study(tmp_path: Path) -> None:
    first = _started(tmp_path, "same", "--cycles", "1", "--set", "stub.hang=interruptible")
    _wait_until(lambda: _jobs_of(tmp_path) != [])

    second = runner(*STUB, "--output", tmp_path, "--study", "same")

    first.terminate()
    time.sleep(0.5)
    first.terminate()
    first.wait(timeout=20)
    assert second.code == ExitCode.USAGE
    assert f"another runner (pid {first.pid}) works on study 'same'" in second.last_line


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--set", "batchsize=4"], 10, "unknown key 'batchsize' (did you mean 'batch_size'?)"),
        (["--set", "batch_size=many"], 10, "batch_size: input should be a valid integer, got 'many'"),
        (["--set", "vllm.max_num_seqs=4"], 10, "section 'vllm' belongs to another backend"),
        (["--set", "backend=pytorch"], 10, "contradicts --backend"),
        (["--memory", "1g"], 2, "it needs --launcher docker"),
        (["--memory", "much"], 2, "'much' is not a size such as 512m or 8g"),
        (["--set", "batch_size"], 10, "not of the form field.path=value"),
        (["--set", "batch_size=4", "--set", "batch_size.x=1"], 10, "'batch_size' is a value, not a section"),
        (["--model", "/nowhere/model"], 11, "the model folder /nowhere/model is not there"),
        (["--set", "workload.source=/nowhere/prompts.jsonl"], 10, "the prompt file /nowhere/prompts.jsonl"),
    ],
)
def test_a_wrong_configuration_is_one_line_before_anything_runs(
    tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    ran = runner(*STUB, "--output", tmp_path / "out", *arguments)

    assert ran.code == code
    assert expected in ran.stderr
    assert ran.is_one_clear_line(), ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["/proc/nowhere", "file"])
def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()

    ran = runner(*STUB, "--output", tmp_path / output)

    assert ran.code == ExitCode.USAGE
    assert "is not writable" in ran.stderr
    assert ran.is_one_clear_line(), ran.stderr


def test_the_next_runner_publishes_what_a_killed_one_had_finished(tmp_path: Path) -> None:
    assert runner(*STUB, "--output", tmp_path / "other", "--cycles", "1").code == 0
    (finished,) = [path for path in (tmp_path / "other").iterdir() if not path.name.startswith(".")]
    attempt = Layout(tmp_path / "out").new_attempt("same", 1, 1)
    finished.rename(attempt.folder / finished.name)

    assert runner(*STUB, "--output", tmp_path / "out", "--study", "same", "--cycles", "1").code == 0

    assert (tmp_path / "out" / finished.name / "result.json").is_file()
    assert leftovers(tmp_path / "out") == []


def _started(output: Path, study: str, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    command = [*RUNNER, *STUB, "--output", str(output), "--study", study, *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=os.environ)


def _fill(path: Path) -> None:
    """Until not a byte is left on its disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        for size in (2**20, 1):
            with contextlib.suppress(OSError):
                while stream.write(bytes(size)):
                    continue


def _jobs_of(output: Path) -> list[int]:
    """Processes that still work in an attempt folder of `output`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "images.stub" in command and any(part.startswith(f"{output}/.attempts") for part in command):
            found.append(process.pid)
    return found


def _wait_until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
