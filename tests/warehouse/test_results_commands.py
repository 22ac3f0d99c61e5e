"""``warehouse results`` and ``warehouse aggregate``: leftovers become results once, and nothing goes unasked."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from images.contract.files import UNFINISHED_RAW_PREFIX
from images.contract.result import ExperimentResult
from tests.warehouse.leftovers import leave_raw
from tests.warehouse.results import edit_json, make_result, requests_table, save, save_failure
from warehouse.cli import main
from warehouse.repository import FileSystemRepository

ID = make_result(1).experiment_id


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of one command."""
    code = main([str(one) for one in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def aggregated(root: Path) -> ExperimentResult:
    (file,) = root.glob("*/result.json")
    return ExperimentResult.from_json(file)


def test_leftover_results_become_one_result_beside_raw_and_the_raw_files_go(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = leave_raw(root / "study")
    code, out, _ = run(capsys, "aggregate", ID, "--results", root)
    result = aggregated(root / "study")
    assert code == 0
    assert result.experiment_id == ID
    assert (result.total_tokens, result.measurement_valid) == (180, True)
    assert [one.process_index for one in result.process_results] == [0, 1]
    assert result.aggregation is not None
    assert result.aggregation.warnings == []
    assert not folder.parent.exists()
    assert out.startswith(f"{ID} -> {root / 'study'}")


def test_again_it_says_that_it_has_been_done(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_raw(root)
    run(capsys, "aggregate", ID, "--results", root)
    code, out, _ = run(capsys, "results", "aggregate", ID, "--results", root)
    assert (code, len(list(root.iterdir()))) == (0, 1)
    assert "already" in out


def test_interrupted_after_the_result_was_published_it_removes_the_raw_files_and_makes_no_second_result(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = leave_raw(root)
    shutil.copytree(folder, tmp_path / "kept")
    run(capsys, "aggregate", ID, "--results", root)
    (published,) = root.iterdir()
    published.rename(root / "renamed by somebody")
    shutil.copytree(tmp_path / "kept", folder)
    assert run(capsys, "aggregate", "--all", "--results", root)[0] == 0
    assert [path.name for path in root.iterdir()] == ["renamed by somebody"]


def test_a_result_without_its_requests_is_no_reason_to_remove_the_raw_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = leave_raw(root)
    shutil.copytree(folder, tmp_path / "kept")
    run(capsys, "aggregate", ID, "--results", root)
    next(root.glob("*/requests.parquet")).unlink()
    shutil.copytree(tmp_path / "kept", folder)
    code, _, err = run(capsys, "aggregate", ID, "--results", root)
    assert (code, folder.exists()) == (1, True)
    assert "lacks its requests.parquet" in err


def test_an_incomplete_one_is_refused_in_one_line_and_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = leave_raw(root, processes=[0], expected=3)
    before = sorted(folder.iterdir())
    code, _, err = run(capsys, "aggregate", ID, "--results", root)
    assert code == 1
    assert "1 of 3 processes left a whole result; missing: 1, 2" in err
    assert "--force" in err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    assert list(root.iterdir()) == [folder.parent]


def test_forced_it_aggregates_what_there_is_as_an_invalid_result_that_says_so(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_raw(root, processes=[1])
    assert run(capsys, "aggregate", ID, "--force", "--results", root)[0] == 0
    result = aggregated(root)
    assert (result.measurement_valid, result.invalid_reasons) == (False, ["rank_missing"])
    assert any(
        warning.startswith("rank_missing: nothing is known of process 0") for warning in result.measurement_warnings
    )
    assert result.aggregation is not None
    assert result.aggregation.num_processes == 1
    assert result.aggregation.warnings == [
        "aggregated although incomplete: 1 of 2 processes left a whole result; missing: 0"
    ]


def test_a_process_whose_files_are_damaged_is_missing_and_the_reason_is_said(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = leave_raw(root) / "process_1.json"
    file.write_text(file.read_text()[:100])
    code, _, err = run(capsys, "aggregate", ID, "--results", root)
    assert code == 1
    assert f"process 1: {file} is not valid JSON" in err
    assert run(capsys, "aggregate", ID, "--force", "--results", root)[0] == 0
    assert aggregated(root).invalid_reasons == ["rank_missing"]


def test_a_copied_process_is_not_counted_twice_even_if_forced(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = leave_raw(root)
    shutil.copy(folder / "process_0.json", folder / "process_1.json")
    assert run(capsys, "aggregate", ID, "--results", root)[0] == 1
    assert run(capsys, "aggregate", ID, "--force", "--results", root)[0] == 0
    assert aggregated(root).total_tokens == 90


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("facts.json", {"schema_version": "3.0"}, "has schema version 3.0; this joulehouse reads 2.x"),
        ("facts.json", {"experiment_id": "exp_other"}, "holds results of another experiment (exp_other)"),
        ("config.json", {"num_processes": 10**12, "workload": {"n_prompts": 10**12}}, "which no job has"),
        ("config.json", {"num_processes": 1}, "has results of process 1"),
        ("config.json", {"backend": "unheard-of"}, "config.json does not fit the schema"),
        ("context.json", {"cycle": "first"}, "context.json does not fit the schema"),
    ],
)
def test_raw_results_that_do_not_fit_are_refused_and_kept_even_if_forced(
    root: Path, capsys: pytest.CaptureFixture[str], file: str, change: dict[str, object], said: str
) -> None:
    folder = leave_raw(root)
    edit_json(folder / file, **change)
    code, _, err = run(capsys, "aggregate", ID, "--force", "--results", root)
    assert code == 1
    assert said in err
    assert err.count("\n") == 1
    assert list(root.iterdir()) == [folder.parent]
    assert (folder / "process_0.json").is_file()


def test_without_any_whole_process_there_is_nothing_to_force(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = leave_raw(root, processes=[])
    (folder / ".completed_x").touch()
    code, _, err = run(capsys, "aggregate", ID, "--force", "--results", root)
    assert code == 1
    assert "has no whole result of any process" in err


def test_a_job_that_left_no_facts_can_be_aggregated_all_the_same(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = leave_raw(root) / "facts.json"
    config_hash = json.loads(facts.read_text())["config_hash"]
    facts.unlink()
    assert run(capsys, "aggregate", ID, "--results", root)[0] == 0
    assert aggregated(root).measurement_config_hash == config_hash


def test_all_goes_on_after_one_that_fails_and_ends_with_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_raw(root, 1)
    incomplete = leave_raw(root, 2, processes=[0])
    leave_raw(root, 3)
    code, out, err = run(capsys, "aggregate", "--all", "--results", root)
    assert code == 1
    assert out.count(" -> ") == 2
    assert err.count("\n") == 1
    assert incomplete.name in err
    assert list((root / "raw").iterdir()) == [incomplete]


def test_killed_at_any_moment_nothing_is_lost_or_doubled(root: Path) -> None:
    n_experiments = 60
    for number in range(1, n_experiments + 1):
        leave_raw(root, number)
    expected = sorted(path.name for path in (root / "raw").iterdir())
    command = [sys.executable, "-m", "warehouse.cli", "aggregate", "--all", "--results", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for n_done in (1, 7, 19, 33, 50):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(root.glob("*/result.json"))) < n_done:
            time.sleep(0.001)
        process.kill()
        process.wait()
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    found = [ExperimentResult.from_json(path) for path in root.glob("*/result.json")]
    assert sorted(one.experiment_id for one in found) == expected
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []
    assert not (root / "raw").exists()


def test_list_shows_finished_results_and_with_all_what_failed_and_what_is_missing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(root, make_result(1, energy_j=30.0))
    save(root / "study", make_result(2, measurement_valid=False, invalid_reasons=["gpu_lost"]))
    save_failure(root, 3)
    leave_raw(root, 4, processes=[0])
    broken = save(root, make_result(5))
    (broken / "result.json").write_text("{")
    code, out, err = run(capsys, "results", "list", root)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["experiment_id", ID, make_result(2).experiment_id]
    assert "invalid: gpu_lost" in out
    assert "not shown: 1 failed, 1 raw; --all shows them" in err
    assert f"{broken / 'result.json'} is not valid JSON" in err
    _, out, _ = run(capsys, "results", "list", "--all", "--results", root)
    assert "failed: OutOfMemory (12)" in out
    assert "raw: 1 of 2 processes left a whole result; missing: 1" in out


def test_list_passes_no_control_characters_to_the_terminal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = save(root, make_result(1))
    edit_json(directory / "result.json", experiment_id="exp\x1b[2J\nsecond line")
    directory.rename(root / "\udcff\x1b")
    _, out, _ = run(capsys, "results", "list", root)
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"effective_config": None},
        {"effective_config": "text"},
        {"total_energy_j": 1e308},
        {"total_tokens": -1},
        {"start_time": "yesterday"},
        {"measurement_config_hash": None},
        {"experiment_id": None},
    ],
    ids=str,
)
def test_list_tells_of_what_ingest_would_not_take_and_ends_with_1(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    save(root, make_result(1))
    broken = save(root, make_result(2))
    edit_json(broken / "result.json", **change)
    code, out, err = run(capsys, "results", "list", root)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["experiment_id", ID]
    assert err.count("\n") == 1
    assert str(broken) in err
    assert main(["ingest", str(root), "--db", str(tmp_path / "w.duckdb")]) == 0
    assert "1 new, 0 unchanged, 0 failures, 1 quarantined" in capsys.readouterr().out


def test_list_marks_ids_that_no_command_takes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(root, make_result(1))
    strange = save(root, make_result(2))
    edit_json(strange / "result.json", experiment_id="../../x")
    leave_raw(root, 3).rename(root / "raw" / "a b")
    _, out, _ = run(capsys, "results", "list", "--all", root)
    (usable,) = (line for line in out.splitlines() if line.startswith(ID))
    assert "not usable" not in usable
    assert f"(id is not usable; remove {strange} by hand)" in out
    assert f"(id is not usable; remove {root / 'raw' / 'a b'} by hand)" in out


def test_what_is_endless_reaches_the_terminal_cut_and_json_whole(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = "x" * 1_000_000
    directory = save(
        root, make_result(1, measurement_warnings=[endless] * 200, measurement_valid=False, invalid_reasons=[endless])
    )
    code, out, err = run(capsys, "results", "list", root)
    assert (code, len(out) < 2000) == (0, True)
    assert "cut in the middle: 1;" in err
    code, out, err = run(capsys, "results", "show", ID, "--results", root)
    assert (code, len(out) < 300_000) == (0, True)
    assert "warning     100 more; --json has all" in out
    assert "cut in the middle: 101 lines; --json has all" in err
    _, out, err = run(capsys, "results", "show", ID, "--json", "--results", root)
    assert (json.loads(out), err) == (json.loads((directory / "result.json").read_text()), "")


def test_show_gives_figures_or_the_file_as_json_or_the_processes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = save(root, make_result(1, energy_j=60.0))
    edit_json(directory / "result.json", from_a_newer_version=1)
    code, out, err = run(capsys, "results", "show", ID, "--results", root)
    assert code == 0
    assert "2 J/output token" in out
    assert "60 input + 30 output" in out
    assert "ignored keys of a newer version: from_a_newer_version" in err
    _, out, _ = run(capsys, "results", "show", ID, "--json", "--results", root)
    assert json.loads(out) == json.loads((directory / "result.json").read_text())
    _, out, _ = run(capsys, "results", "show", ID, "--raw", "--results", root)
    assert "process 0" in out
    _, out, _ = run(capsys, "results", "show", ID, "--raw", "--json", "--results", root)
    assert [one["process_index"] for one in json.loads(out)] == [0]


def test_show_gives_a_failure_and_what_waits_in_raw(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_failure(root, 1, experiment_id=ID, log_tail=["last words"])
    leave_raw(root, 1, processes=[0])
    code, out, _ = run(capsys, "results", "show", ID, "--results", root)
    assert code == 0
    assert "failed: OutOfMemory (exit code 12)" in out
    assert "last words" in out
    assert "missing: 1" in out


def test_delete_asks_nobody_without_a_terminal_and_says_that_the_database_still_has_it(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save(root, make_result(1))
    code, _, err = run(capsys, "results", "delete", ID, "--results", root)
    assert (code, directory.exists()) == (2, True)
    assert "--yes" in err
    code, out, _ = run(capsys, "results", "delete", ID, "--yes", "--results", root)
    assert (code, directory.exists()) == (0, False)
    assert f"warehouse ingest {root} --prune" in out
    code, _, err = run(capsys, "results", "delete", ID, "--yes", "--results", root)
    assert code == 2
    assert "nothing in" in err


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_delete_asks_on_a_terminal(root: Path, answer: str, code: int) -> None:
    directory = save(root, make_result(1))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "warehouse.cli", "results", "delete", ID, "--results", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=subprocess.PIPE, text=True)
    os.write(ours, answer.encode())
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code, out
    assert str(directory) in out
    assert directory.exists() is (code == 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aggregate"], "name one ID, or all with --all"),
        (["aggregate", ID, "--all"], "name one ID, or all with --all"),
        (["aggregate", "../../x"], "is no experiment id"),
        (["aggregate", "exp_unknown"], "nothing in"),
        (["results", "show", "a/b"], "is no experiment id"),
        (["results", "delete", "..", "--yes"], "is no experiment id"),
        (["results", "list", "--results", "/nowhere/at/all"], "is not there"),
    ],
)
def test_what_was_asked_for_wrongly_is_one_line_and_2(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    root.mkdir()
    where = [] if "--results" in arguments else ["--results", root]
    code, out, err = run(capsys, *arguments, *where)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_what_a_running_job_writes_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = leave_raw(root)
    running = folder.rename(root / f"{UNFINISHED_RAW_PREFIX}{ID}")
    code, out, _ = run(capsys, "aggregate", "--all", "--results", root)
    assert code == 0
    assert "no leftover raw results" in out
    assert (running / "process_0.json").is_file()


def test_saving_again_does_not_replace_a_result(root: Path) -> None:
    repository = FileSystemRepository(root)
    first, second = (repository.save_aggregated(make_result(1), requests=requests_table(3)) for _ in range(2))
    assert (first.name + "_1", first.is_dir()) == (second.name, True)
