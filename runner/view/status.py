"""`runner status`: how far a study is, from what is on disk alone, so that it needs no living runner."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from images.contract.failure import JobFailure
from images.contract.files import FAILURE_FILE, RESULT_FILE, UnreadableResult, parse_directory_name, read_json
from images.contract.job import ExitCode, JobError
from images.contract.progress import JobProgress
from images.contract.scheduling import AdaptiveCycles
from images.contract.study import STUDY_FILE, StudyRecord
from runner.layout import Attempt, Layout
from runner.view.table import JobRow, jobs_table

_PIPE_WIDTH = 250


class StatusUnknown(JobError):
    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """
    Attributes:
        done: cycles with a result.
        wanted: cycles; of an adaptive study, as far as its rule has said yet.
        failed_tries: failures, also of cycles that have a result by now.
        running: cycles of it that a runner works on now.
    """

    name: str
    measurement_config_hash: str
    done: int
    wanted: int
    failed_tries: int
    running: int


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One try that has not ended, or whose end nobody has written down yet.

    Attributes:
        abandoned: its runner is gone.
    """

    study: str
    experiment: str | None
    cycle: int
    attempt: int
    gpu_uuids: list[str]
    abandoned: bool
    phase: str | None
    phase_s: float | None
    output_tokens_per_second: float | None
    power_w: float | None

    @property
    def row(self) -> JobRow:
        label = f"{self.experiment or self.study} c{self.cycle:03d}"
        figures = (self.phase, self.phase_s, self.output_tokens_per_second, self.power_w)
        return JobRow(label, tuple(self.gpu_uuids), *figures)


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """Who works on a study, or was killed at it."""

    study: str
    pid: int
    host: str
    alive: bool


@dataclass(frozen=True, slots=True)
class FailureStatus:
    """The newest failure."""

    directory: str
    error_class: str
    exit_code: int
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """An output directory. `as_json` names the same keys.

    Attributes:
        study: its name; None where no study file was run.
        rule: how an adaptive study finds its cycles, and what it has found.
        experiments: empty without a study file.
        results: directories with a result, of everything that was run here.
        failures: directories with a failure.
        next_step: what to do, in one line.
    """

    output: Path
    study: str | None
    rule: AdaptiveCycles | None
    experiments: list[ExperimentStatus]
    results: int
    failures: int
    jobs: list[JobStatus]
    runners: list[RunnerStatus]
    last_failure: FailureStatus | None
    next_step: str = ""

    @property
    def is_complete(self) -> bool:
        return bool(self.experiments) and all(one.done >= one.wanted for one in self.experiments)


@dataclass(slots=True)
class _Found:
    """Finished directories by hash; `failed` are the names of all failures."""

    cycles: dict[str, set[int]] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    results: int = 0


def collect(
    output: Path, study_file: Path | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> StudyStatus:
    """
    Args:
        study_file: the file that was named on the command line; None if a directory was.

    Raises:
        StatusUnknown: there is no such directory, it cannot be read, or its study.json is damaged.
    """
    if not output.is_dir():
        raise StatusUnknown(
            f"there is no directory {output}.", "Name a study file that was run, or a directory with results."
        )
    layout = Layout(output)
    try:
        record = StudyRecord.load(layout.output)
        found = _find(layout.output, record)
        jobs, runners = _running(layout, record, now())
    except UnreadableResult as error:
        raise StatusUnknown(
            f"{error}.", f"Restore {STUDY_FILE} from a copy; results are not touched by its loss."
        ) from None
    except OSError as error:
        raise StatusUnknown(
            f"{error.filename} cannot be read ({error.strerror}).", "Correct its permissions."
        ) from None
    status = StudyStatus(
        output=layout.output,
        study=None if record is None else record.name,
        rule=record.cycles if record is not None and isinstance(record.cycles, AdaptiveCycles) else None,
        experiments=[] if record is None else _experiments(record, found, jobs),
        results=found.results,
        failures=len(found.failed),
        jobs=jobs,
        runners=runners,
        last_failure=_last_failure(layout.output, found.failed),
    )
    return _with_next_step(status, study_file)


def as_json(status: StudyStatus) -> str:
    """One JSON object. Keys are only ever added:

    output, study, complete, results, failures, next_step;
    adaptive: null, or study.json's rule (metric, half_width, confidence, min, max, pilot, n, outcome);
    experiments: [name, measurement_config_hash, done, wanted, failed_tries, running];
    jobs: [study, experiment, cycle, attempt, gpu_uuids, abandoned, phase, phase_s, output_tokens_per_second, power_w];
    runners: [study, pid, host, alive];
    last_failure: null, or directory, error_class, exit_code, message, advice.
    """
    document: dict[str, Any] = {
        "output": str(status.output),
        "study": status.study,
        "complete": status.is_complete if status.study is not None else None,
        "adaptive": None if status.rule is None else status.rule.model_dump(mode="json"),
        "experiments": [asdict(one) for one in status.experiments],
        "results": status.results,
        "failures": status.failures,
        "jobs": [asdict(one) for one in status.jobs],
        "runners": [asdict(one) for one in status.runners],
        "last_failure": None if status.last_failure is None else asdict(status.last_failure),
        "next_step": status.next_step,
    }
    return json.dumps(document, indent=1)


def show(status: StudyStatus, console: Console) -> None:
    """The same for people; whole lines for whoever does not read it on a terminal."""
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    for part in _parts(status):
        console.print(part, highlight=False, soft_wrap=isinstance(part, Text))


def _parts(status: StudyStatus) -> Iterator[RenderableType]:
    yield Text(_headline(status))
    if status.experiments:
        yield _experiments_table(status.experiments)
    running = [job.row for job in status.jobs if not job.abandoned]
    if running:
        yield jobs_table(running)
    if (failure := status.last_failure) is not None:
        yield Text(
            f"last failure: {failure.directory}: {failure.error_class}, exit code {failure.exit_code}: "
            f"{failure.message} {failure.advice}"
        )
    yield Text(status.next_step)


def _headline(status: StudyStatus) -> str:
    if status.study is None:
        return (
            f"{status.output} belongs to no study file: {status.results} results and {status.failures} failures of "
            "single runs, which `warehouse ingest` tells apart by study."
        )
    done = sum(min(one.done, one.wanted) for one in status.experiments)
    wanted = sum(one.wanted for one in status.experiments)
    rule = "" if status.rule is None else f" ({_rule_text(status.rule)})"
    return f"study {status.study} in {status.output}: {done} of {wanted} cycles done{rule}"


def _rule_text(rule: AdaptiveCycles) -> str:
    what = f"adaptive: {rule.metric} to {rule.half_width:.3g} of its mean"
    if rule.outcome == "running":
        stage = f"pilot of {rule.min}" if rule.n is None else f"{rule.n} cycles each"
        return f"{what}, {stage}, at most {rule.max}"
    outcomes = {
        "reached": "target reached",
        "not_reached": f"target not reached with {rule.n} cycles each",
        "not_measured": "that was not measured",
    }
    return f"{what}, {outcomes[rule.outcome]}"


def _experiments_table(experiments: Sequence[ExperimentStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("experiment", no_wrap=True)
    for heading in ("cycles done", "failed tries", "running"):
        table.add_column(heading, no_wrap=True, justify="right")
    for one in experiments:
        table.add_row(Text(one.name), f"{one.done}/{one.wanted}", str(one.failed_tries), str(one.running))
    return table


def _find(output: Path, record: StudyRecord | None) -> _Found:
    """By names alone: ten thousand files would take seconds to open."""
    hashes: dict[str, list[str]] = {}
    for one in [] if record is None else record.experiments:
        hashes.setdefault(one.measurement_config_hash[:8], []).append(one.measurement_config_hash)
    found = _Found()
    with os.scandir(output) as entries:
        for entry in entries:
            if (parsed := parse_directory_name(entry.name)) is None:
                continue
            if parsed.failed:
                found.failed.append(entry.name)
            else:
                found.results += 1
            candidates = hashes.get(parsed.hash8, [])
            digest = candidates[0] if len(candidates) == 1 else _hash_of(Path(entry.path), candidates)
            if digest is None:
                continue
            if parsed.failed:
                found.tries[digest] = found.tries.get(digest, 0) + 1
            else:
                found.cycles.setdefault(digest, set()).add(parsed.cycle)
    return found


def _hash_of(directory: Path, candidates: Sequence[str]) -> str | None:
    """Which one it is, of several whose names begin alike; None if nobody can say."""
    if not candidates:
        return None
    file = directory / RESULT_FILE
    try:
        digest = read_json(file if file.exists() else directory / FAILURE_FILE).get("measurement_config_hash")
    except UnreadableResult:
        return None
    return digest if digest in candidates else None


def _running(layout: Layout, record: StudyRecord | None, now: datetime) -> tuple[list[JobStatus], list[RunnerStatus]]:
    attempts = layout.attempts()
    studies = [] if record is None else [record.name]
    studies += [name for name in attempts if not any(layout.is_of(name, study) for study in studies)]
    jobs, runners = [], []
    for study in studies:
        runner = layout.runner(study)
        if runner is not None:
            runners.append(RunnerStatus(study, runner.pid, runner.host, runner.alive))
        gone = runner is None or not runner.alive
        tries = [attempt for name in attempts if layout.is_of(name, study) for attempt in attempts[name]]
        jobs += [job for attempt in tries if (job := _job(study, attempt, gone, now)) is not None]
    return jobs, runners


def _job(study: str, attempt: Attempt, abandoned: bool, now: datetime) -> JobStatus | None:
    """None of a try that was not started yet, or has just been cleared away."""
    context = attempt.load_context()
    if context is None:
        return None
    row = JobRow.of("", context.gpu_uuids or (), JobProgress.load(attempt.progress), now)
    return JobStatus(
        study=context.study or study,
        experiment=context.experiment,
        cycle=context.cycle,
        attempt=context.attempt,
        gpu_uuids=list(row.gpu_uuids),
        abandoned=abandoned,
        phase=row.phase,
        phase_s=row.phase_s,
        output_tokens_per_second=row.output_tokens_per_second,
        power_w=row.power_w,
    )


def _experiments(record: StudyRecord, found: _Found, jobs: Sequence[JobStatus]) -> list[ExperimentStatus]:
    cycles = record.cycles
    wanted = cycles if isinstance(cycles, int) else (cycles.n or cycles.min)
    running = [job.experiment for job in jobs if not job.abandoned]
    return [
        ExperimentStatus(
            name=one.name,
            measurement_config_hash=one.measurement_config_hash,
            done=len(found.cycles.get(one.measurement_config_hash, ())),
            wanted=wanted,
            failed_tries=found.tries.get(one.measurement_config_hash, 0),
            running=running.count(one.name),
        )
        for one in record.experiments
    ]


def _last_failure(output: Path, failed: Sequence[str]) -> FailureStatus | None:
    """None if there is none, or its file cannot be read."""
    if not failed:
        return None
    try:
        newest = max(failed, key=lambda name: (output / name).stat().st_mtime_ns)
        failure = JobFailure.from_json(output / newest)
    except (OSError, UnreadableResult):
        return None
    return FailureStatus(newest, failure.error_class, failure.exit_code, failure.message, failure.advice)


def _with_next_step(status: StudyStatus, study_file: Path | None) -> StudyStatus:
    named = study_file or "STUDY.yaml"
    if alive := [runner for runner in status.runners if runner.alive]:
        where = ", ".join(f"pid {runner.pid} on {runner.host}" for runner in alive)
        step = f"A runner works on it ({where}); `runner stop {study_file or status.output}` ends it."
    elif status.study is None:
        step = "No runner works here. `runner run --backend ...` adds to it."
    elif status.is_complete and (status.rule is None or status.rule.outcome != "running"):
        step = f"It is complete. `warehouse ingest {status.output}` is next."
    else:
        step = f"No runner works on it. `runner run {named}` goes on where it stopped."
    if abandoned := sum(job.abandoned for job in status.jobs):
        step += f" {abandoned} unfinished tries were left by a runner that is gone; the next one keeps their results."
    return replace(status, next_step=step)
