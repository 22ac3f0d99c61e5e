"""`runner status` reads what is on disk, whoever wrote it, and whether or not a runner lives."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from images.contract.config import ExperimentConfig
from images.contract.failure import JobFailure
from images.contract.files import FAILURE_FILE, RESULT_FILE, directory_name
from images.contract.job import ExitCode, JobContext
from images.contract.progress import JobProgress
from images.contract.scheduling import AdaptiveCycles
from images.contract.study import STUDY_FILE, ExperimentRecord, StudyRecord
from runner.layout import Layout
from runner.view.status import StatusUnknown, StudyStatus, as_json, collect, show

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONFIGS = {name: ExperimentConfig(backend="stub", batch_size=size) for name, size in (("small", 1), ("large", 64))}
UUID = "GPU-1234abcd-0000-4000-8000-000000000001"
HOLD = """
import sys, time
from pathlib import Path
from runner.layout import Layout
with Layout(Path(sys.argv[1])).lock(sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def save_study(output: Path, cycles: int | AdaptiveCycles) -> None:
    experiments = [
        ExperimentRecord(name=name, measurement_config_hash=config.measurement_config_hash(), config={})
        for name, config in CONFIGS.items()
    ]
    output.mkdir(parents=True, exist_ok=True)
    StudyRecord(
        name="A study",
        created=START,
        seed=1,
        order="shuffled",
        on_gpus=True,
        placement="block",
        cycles=cycles,
        experiments=experiments,
    ).save(output)


def publish_result(output: Path, name: str, cycle: int, digest: str | None = None) -> None:
    """Only the name counts, so a small file will do."""
    digest = digest or CONFIGS[name].measurement_config_hash()
    directory = output / directory_name([name, "stub", digest[:8], f"c{cycle:03d}"], START + timedelta(seconds=cycle))
    directory.mkdir(parents=True)
    (directory / RESULT_FILE).write_text(json.dumps({"measurement_config_hash": digest}))


def publish_failure(output: Path, name: str, cycle: int, message: str = "it broke.") -> None:
    JobFailure(
        experiment_id=f"exp_20260102_030405_{cycle:08x}",
        backend="stub",
        measurement_config_hash=CONFIGS[name].measurement_config_hash(),
        experiment=name,
        cycle=cycle,
        error_class="Stalled",
        exit_code=14,
        message=message,
        advice="Look.",
        time=START,
    ).save(output)


def begin_try(layout: Layout, name: str, cycle: int, *, study: str = "A study", reported: bool = True) -> None:
    attempt = layout.new_attempt(study, cycle, 2)
    context = JobContext(study=study, experiment=name, cycle=cycle, attempt=2, gpu_uuids=[UUID])
    attempt.prepare(CONFIGS[name], context)
    if reported:
        report = JobProgress(phase="window", time=START, output_tokens_per_second=99.5, power_w=401.0)
        attempt.progress.write_text(report.model_dump_json())


@contextmanager
def runner_at_work(output: Path, study: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study's lock, as a runner does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(output), study], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def shown(status: StudyStatus) -> list[str]:
    written = io.StringIO()
    show(status, Console(file=written, width=40))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_a_study_at_work_and_after_its_runner_was_killed(tmp_path: Path) -> None:
    save_study(tmp_path, 3)
    for cycle in (1, 2):
        publish_result(tmp_path, "small", cycle)
    publish_failure(tmp_path, "small", 3)
    publish_result(tmp_path, "large", 1)
    layout = Layout(tmp_path)
    begin_try(layout, "small", 3)
    begin_try(layout, "large", 2, reported=False)

    with runner_at_work(tmp_path, "A study") as process:
        status = collect(tmp_path, Path("mine.yaml"), now=lambda: START + timedelta(seconds=90))
    (failure,) = tmp_path.glob(f"*/{FAILURE_FILE}")
    assert [re_spaced(line) for line in shown(status)] == [
        f"study A study in {tmp_path}: 3 of 6 cycles done",
        "experiment cycles done failed tries running",
        "small 2/3 1 1",
        "large 1/3 0 1",
        "job slot phase tokens/s W",
        "large c002 GPU-1234abcd starting - -",
        "small c003 GPU-1234abcd window 1:30 99.5 401",
        f"last failure: {failure.parent.name}: Stalled, exit code 14: it broke. Look.",
        f"A runner works on it (pid {process.pid} on {status.runners[0].host}); `runner stop mine.yaml` ends it.",
    ]

    killed = collect(tmp_path, Path("mine.yaml"))
    assert [one.running for one in killed.experiments] == [0, 0]
    assert [job.abandoned for job in killed.jobs] == [True, True]
    assert [(one.pid, one.alive) for one in killed.runners] == [(process.pid, False)]
    assert "`runner run mine.yaml` goes on where it stopped" in killed.next_step
    assert "2 unfinished tries" in killed.next_step
    assert not any("window" in line for line in shown(killed)), "nothing runs any more"


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    save_study(
        tmp_path, AdaptiveCycles(metric="energy_per_output_token_j", half_width=0.02, confidence=0.95, min=5, max=30)
    )
    publish_failure(tmp_path, "small", 1)
    layout = Layout(tmp_path)
    begin_try(layout, "small", 1)
    with runner_at_work(tmp_path, "A study"):
        document: dict[str, Any] = json.loads(as_json(collect(tmp_path)))

    promised = " ".join((as_json.__doc__ or "").split())
    assert document.keys() == {"output", "study", "complete", "results", "failures", "next_step", *PARTS}
    for part, value in ((part, document[part]) for part in PARTS):
        keys = (value[0] if isinstance(value, list) else value).keys()
        assert f"{part}: " in promised
        assert all(key in promised for key in keys), keys
    assert document["experiments"][0]["wanted"] == 5, "the pilot, before it has said more"
    assert document["complete"] is False


PARTS = ("adaptive", "experiments", "jobs", "runners", "last_failure")


def test_an_adaptive_study_is_complete_when_its_rule_is(tmp_path: Path) -> None:
    rule = AdaptiveCycles(metric="energy_per_output_token_j", half_width=0.02, confidence=0.95, min=5, max=30)
    for cycle in range(1, 6):
        for name in CONFIGS:
            publish_result(tmp_path, name, cycle)

    save_study(tmp_path, rule)
    assert "goes on" in collect(tmp_path).next_step, "the pilot is done, and nobody has computed what it asks for"
    assert "pilot of 5, at most 30" in shown(collect(tmp_path))[0]
    save_study(tmp_path, rule.model_copy(update={"n": 6}))
    assert [one.wanted for one in collect(tmp_path).experiments] == [6, 6]
    save_study(tmp_path, rule.model_copy(update={"n": 5, "outcome": "reached"}))
    assert collect(tmp_path).next_step.startswith("It is complete. `warehouse ingest")


def test_two_experiments_whose_hashes_begin_alike_are_told_apart(tmp_path: Path) -> None:
    digests = {"small": "aaaaaaaa00000001", "large": "aaaaaaaa00000002"}
    save_study(tmp_path, 2)
    record = json.loads((tmp_path / STUDY_FILE).read_text())
    for one in record["experiments"]:
        one["measurement_config_hash"] = digests[one["name"]]
    (tmp_path / STUDY_FILE).write_text(json.dumps(record))
    publish_result(tmp_path, "small", 1, digests["small"])
    publish_result(tmp_path, "large", 1, digests["large"])
    publish_result(tmp_path, "large", 2, digests["large"])

    assert [one.done for one in collect(tmp_path).experiments] == [1, 2]


def test_single_runs_are_counted_in_one_line(tmp_path: Path) -> None:
    publish_result(tmp_path, "small", 1)
    publish_failure(tmp_path, "small", 2)
    layout = Layout(tmp_path)
    begin_try(layout, "large", 7, study="run-1")

    with runner_at_work(tmp_path, "run-1") as process:
        status = collect(tmp_path)
    assert "1 results and 1 failures of single runs" in shown(status)[0]
    assert [(one.study, one.pid, one.alive) for one in status.runners] == [("run-1", process.pid, True)]
    assert (status.study, status.experiments, status.is_complete) == (None, [], False)


def test_what_is_not_there_or_damaged_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StatusUnknown, match="there is no directory") as missing:
        collect(tmp_path / "nothing")
    assert missing.value.exit_code == ExitCode.USAGE
    assert not (tmp_path / "nothing").exists(), "asking makes nothing"

    save_study(tmp_path, 3)
    (tmp_path / STUDY_FILE).write_text((tmp_path / STUDY_FILE).read_text()[:100])
    with pytest.raises(StatusUnknown, match=rf"{STUDY_FILE} is not valid JSON .*damaged") as damaged:
        collect(tmp_path)
    assert "\n" not in str(damaged.value)


def test_ten_thousand_directories_take_less_than_a_second(tmp_path: Path) -> None:
    save_study(tmp_path, 5000)
    for cycle in range(1, 5001):
        for name, config in CONFIGS.items():
            digest = config.measurement_config_hash()[:8]
            (tmp_path / directory_name([name, "stub", digest, f"c{cycle:03d}"], START)).mkdir()

    started_s = time.perf_counter()
    status = collect(tmp_path)
    show(status, Console(file=io.StringIO()))
    assert time.perf_counter() - started_s < 1.0
    assert [one.done for one in status.experiments] == [5000, 5000]


def re_spaced(line: str) -> str:
    return " ".join(line.split())
