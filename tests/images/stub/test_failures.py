"""A job that fails: its exit code, its one failure.json, and one clear line."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from images.contract.files import DirectoryName, parse_directory_name
from images.contract.job import ExitCode
from tests.images.stub.jobs import run, start, stub


@pytest.mark.parametrize(
    ("fail", "code", "error_class"),
    [
        ("model_unavailable", ExitCode.MODEL_UNAVAILABLE, "ModelUnavailable"),
        ("out_of_memory", ExitCode.OUT_OF_MEMORY, "OutOfMemory"),
        ("gpu_unusable", ExitCode.GPU_UNUSABLE, "GpuUnusable"),
        ("measurement_failed", ExitCode.MEASUREMENT_FAILED, "MeasurementFailed"),
    ],
)
@pytest.mark.parametrize("when", ["load", "window"])
def test_each_failure_has_its_code_one_line_and_a_failure_json(
    tmp_path: Path, fail: str, code: int, error_class: str, when: str
) -> None:
    ended = run(tmp_path, stub(fail=fail, when=when))
    assert ended.code == code
    (line,) = ended.errors
    failure = ended.failure
    assert line.endswith(f" ERROR {failure.message} {failure.advice}")
    assert failure.message.startswith("the stub was told")
    assert failure.advice
    assert (failure.error_class, failure.exit_code) == (error_class, code)


def test_failure_json_holds_everything_that_is_known_of_the_job(tmp_path: Path) -> None:
    context = {"study": "s", "experiment": "b4", "cycle": 2, "attempt": 3, "measurement_config_hash": "ab" * 8}
    (tmp_path / "context.json").write_text(json.dumps(context))
    ended = run(tmp_path, stub(fail="out_of_memory"), "--context", str(tmp_path / "context.json"))
    failure = ended.failure
    assert re.fullmatch(r"exp_\d{8}_\d{6}_[0-9a-f]{8}", failure.experiment_id)
    assert (failure.study, failure.experiment, failure.cycle, failure.attempt) == ("s", "b4", 2, 3)
    assert parse_directory_name(ended.directory.name) == DirectoryName("abababab", 2, failed=True)
    assert failure.measurement_config_hash == "ab" * 8
    assert failure.backend == "stub"
    assert failure.config == stub(fail="out_of_memory")
    assert [line for line in failure.log_tail if "phase: window" in line]
    assert abs((datetime.now(UTC) - failure.time).total_seconds()) < 60


def test_a_bug_exits_with_1_and_is_the_only_failure_with_a_traceback(tmp_path: Path) -> None:
    ended = run(tmp_path, stub(fail="bug"))
    assert ended.code == ExitCode.BUG
    assert "Traceback (most recent call last)" in ended.stderr
    failure = ended.failure
    assert "RuntimeError: the stub was told to have a bug" in failure.message
    assert [line for line in failure.log_tail if "images/stub/backend.py" in line]


def test_a_killed_job_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    ended = run(tmp_path, stub(fail="killed"))
    assert ended.code == -9
    assert [path.name for path in ended.output.iterdir()] == ["progress.json"]


def test_a_backend_that_cannot_be_imported_is_a_failure_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    # In front of the real torch, if there is one.
    ended = run(tmp_path, {"backend": "pytorch"}, backend="pytorch", env={"PYTHONPATH": f"{tmp_path}:{_root()}"})
    assert ended.code == ExitCode.BUG
    assert "libcudart.so.12: cannot open" in ended.failure.message
    assert ended.failure.config == {"backend": "pytorch"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"backend": "stub", "batchsize": 3}, "unknown key 'batchsize' (did you mean 'batch_size'?)"),
        ({"backend": "stub", "workload": {"n_promts": 3}}, "unknown key 'workload.n_promts'"),
        ({"backend": "stub", "batch_size": "three"}, "batch_size: "),
        ({"backend": "stub", "batch_size": 0}, "batch_size: "),
        ({"backend": "stub", "vllm": {}}, "section 'vllm' belongs to another backend"),
        ({"backend": "pytorch"}, "is for backend 'pytorch', this image runs 'stub'"),
        ({"backend": "abacus"}, "backend: "),
        ("{not json", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"backend": "stub", "sampling": {"temperature": NaN}}', "NaN is not a JSON number"),
        ({"backend": "stub", "workload": {"source": "/nowhere/p.jsonl"}}, "prompt file /nowhere/p.jsonl cannot be"),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_the_field(tmp_path: Path, document: Any, says: str) -> None:
    ended = run(tmp_path, document)
    assert ended.code == ExitCode.CONFIG_INVALID
    (line,) = ended.errors
    assert says in line
    assert says in ended.failure.message
    assert ended.failure.advice


def test_a_missing_configuration_and_a_broken_context_are_told_apart(tmp_path: Path) -> None:
    absent = run(tmp_path, {}, "--config", str(tmp_path / "absent.json"))
    assert absent.code == ExitCode.CONFIG_INVALID
    assert "absent.json cannot be read" in absent.failure.message
    (tmp_path / "b").mkdir()
    (tmp_path / "context.json").write_text('{"cycle": 0}')
    broken = run(tmp_path / "b", stub(), "--context", str(tmp_path / "context.json"))
    assert broken.code == ExitCode.CONFIG_INVALID
    assert "is not a job context" in broken.failure.message


def test_a_configuration_nested_beyond_reason_still_leaves_a_failure_json(tmp_path: Path) -> None:
    extra = '{"a":' * 400 + "1" + "}" * 400
    ended = run(tmp_path, f'{{"backend": "stub", "stub": {{"extra": {extra}}}}}')
    assert ended.code == ExitCode.CONFIG_INVALID
    assert "config.json is nested too deeply" in ended.failure.message


@pytest.mark.parametrize("output", ["/proc", "/nowhere/at/all", "file"])
def test_an_output_directory_that_cannot_be_written_is_one_line_and_exit_2(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = run(tmp_path, stub(), "--output", str(tmp_path / output))  # an absolute second part wins
    assert ended.code == ExitCode.USAGE
    (line,) = ended.stderr.splitlines()
    assert f"output directory {tmp_path / output} is not there or not writable" in line


@pytest.mark.skipif("os.getuid() != 0", reason="needs root to become another user")
def test_an_output_directory_of_another_user_is_one_line_that_names_uid_and_gid(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(stub()))
    # After the imports, because Python itself may be in root's home.
    program = f"""
import os, images.harness.main as job
os.setgroups([]), os.setgid(54321), os.setuid(12345)
job.main("images.stub.backend", ["--config", "{tmp_path}/config.json", "--output", "{tmp_path}"])
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=_root(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == ExitCode.USAGE
    (line,) = ended.stderr.splitlines()
    assert f"{tmp_path} is not there or not writable by uid 12345, gid 54321" in line


def test_a_result_that_cannot_be_written_is_no_bug_and_leaves_no_half_of_itself(tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    ended = start(tmp_path, stub({"n_prompts": 500}), preexec_fn=no_large_files).end()
    assert ended.code == ExitCode.MEASUREMENT_FAILED
    assert "Traceback" not in ended.stderr
    assert "the result cannot be written to" in ended.failure.message


def test_an_unknown_log_level_does_not_stop_a_job(tmp_path: Path) -> None:
    ended = run(tmp_path, stub(), env={"JOULEHOUSE_LOG_LEVEL": "loud"})
    assert ended.code == 0
    assert "JOULEHOUSE_LOG_LEVEL" in ended.stderr


def _root() -> str:
    return str(Path(__file__).resolve().parents[3])
