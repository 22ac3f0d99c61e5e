"""What a job costs beyond the time it was told to take, alone, in a crowd, and in a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.contract.options.stub import StubOptions
from runner.host import open_host
from runner.interrupt import Stop
from runner.launchers.docker import image_name
from runner.layout import Layout
from runner.schedule import run_study
from runner.studies.study import Experiment, Study
from runner.view.progress import Progress
from tests.bench.figures import REPEATS, Figure
from tests.docker_engine import ROOT, build_image, engine_problem

_TOLD_S = 1.0
_CROWD = 8


def job_figures(scratch: Path) -> Iterator[Figure]:
    yield stub_alone(scratch)
    yield stub_crowd(scratch)
    if (problem := engine_problem()) is None:
        yield docker_overhead(scratch)
    else:
        print(f"docker overhead: not measured, no engine answers ({problem})", file=sys.stderr)


def stub_alone(scratch: Path) -> Figure:
    """Wall time of one stub process beyond its window."""
    return Figure("stub job beyond its told time, alone", "s", [_beyond(scratch) for _ in range(REPEATS)], 1.0)


def stub_crowd(scratch: Path) -> Figure:
    """The same with 8 started at once: the slowest of the 8, repeated."""
    values = []
    for _ in range(REPEATS):
        with ThreadPoolExecutor(_CROWD) as pool:
            beyond = list(pool.map(lambda _: _beyond(scratch), range(_CROWD)))
        values.append(max(beyond))
    return Figure("stub job beyond its told time, slowest of 8 at once", "s", values, 2.5)


def docker_overhead(scratch: Path) -> Figure:
    """Our launcher, from job to published directory, against `docker run` of the same image and flags."""
    build_image("stub")
    values = []
    for number in range(REPEATS):
        bare = _bare_docker_run(scratch / f"bare-{number}")
        values.append(_launched(scratch / f"ours-{number}") - bare)
    return Figure("docker launcher over a bare `docker run`, same flags", "s", values, 0.3)


def _config() -> ExperimentConfig:
    return ExperimentConfig(backend="stub", stub=StubOptions(window_s=_TOLD_S))


def _beyond(scratch: Path) -> float:
    config = scratch / "stub.json"
    if not config.exists():
        config.write_text(_config().model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "images.stub", "--config", str(config), "--output", str(scratch)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - started - _TOLD_S


def _bare_docker_run(folder: Path) -> float:
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    (folder / "config.json").write_text(_config().model_dump_json())
    (folder / "context.json").write_text(json.dumps(JobContext().model_dump(mode="json")))
    flags = "--network none --read-only --tmpfs /tmp:rw,exec --cap-drop ALL --init --shm-size 1g --user 12345:0"
    command = ["docker", "run", *flags.split(), "--security-opt", "no-new-privileges", "-v", f"{folder}:/results"]
    job = ["--config", "/results/config.json", "--context", "/results/context.json", "--output", "/results"]
    started = time.perf_counter()
    subprocess.run([*command, "--rm", image_name("stub"), *job], check=True, capture_output=True)
    return time.perf_counter() - started


def _launched(folder: Path) -> float:
    config = _config()
    study = Study(f"bench-{os.getpid()}", (Experiment("stub", config, config.measurement_config_hash()),), 1)
    with Path(os.devnull).open("w") as nowhere:
        progress = Progress(Console(file=nowhere))
        started = time.perf_counter()
        summary = run_study(study, Layout(folder), open_host(study), progress, Stop())
    assert [outcome.exit_code for outcome in summary.outcomes] == [0]
    return time.perf_counter() - started
