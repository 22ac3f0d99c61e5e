"""A study against a plain pool of as many workers that runs the same commands; and planning a large study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from images.contract import files
from images.contract.job import JobContext
from runner.launchers.docker import image_name
from runner.studies.settings import Adaptive
from runner.studies.study import Study
from runner.studies.study_file import load_study
from tests.bench.figures import Figure
from tests.docker_engine import ROOT, build_image, engine_problem
from tests.gpu_node.fixtures import hook_problem
from tests.gpu_node.node import HOST_FOLDER, Node
from tests.runner.command import results, runner
from tests.runner.studies.drawn import simulate

GPUS, EXPERIMENTS, CYCLES, JOB_S = 8, 4, 8, 20.0
REPEATS = 3
JOBS_OF_A_LARGE_STUDY = 10_000
N_STUDIES = 2000


def fan_out_figures(scratch: Path) -> Iterator[Figure]:
    yield from planning_figures(scratch)
    ideal_s = EXPERIMENTS * CYCLES / GPUS * JOB_S
    for launcher, pool in (("local", _local_job), ("docker", _docker_job)):
        if launcher == "docker":
            if problem := engine_problem() or hook_problem():
                print(f"makespan in containers: not measured ({problem})", file=sys.stderr)
                return
            build_image("stub")
        ours, plain = [], []
        with Node.install(GPUS) as node:
            for number in range(REPEATS):
                folder = scratch / f"{launcher}-{number}"
                plain.append(_plain_pool(folder, pool, [gpu.uuid for gpu in node.gpus]))
                ours.append(_study(folder, launcher))
        what = f"{EXPERIMENTS * CYCLES} jobs of {JOB_S:g} s on {GPUS} GPUs, {launcher}"
        yield Figure(f"{what}: plain pool of {GPUS} (ideal {ideal_s:g} s)", "s", plain)
        yield Figure(f"{what}: joulehouse", "s", ours)
        ratios = [mine / its for mine, its in zip(ours, plain, strict=True)]
        yield Figure(f"{what}: joulehouse over the pool", "x", ratios, 1.10)


def adaptive_figures(_scratch: Path) -> Iterator[Figure]:
    """Stein's two stages: what the intervals cover, and whether all experiments of a study have as many blocks."""
    for cv in (0.01, 0.02, 0.03):
        found = simulate(Adaptive(min=5, max=60, half_width=0.02), cv, N_STUDIES)
        what = f"{N_STUDIES:,} adaptive studies at CV {cv:.0%}, 2 % wanted"
        yield Figure(f"{what}: |coverage - 95|", "points", [abs(found.coverage * 100 - 95)], 2.0)
        yield Figure(f"{what}: coverage", "%", [found.coverage * 100])
        yield Figure(f"{what}: studies with unequal blocks", "", [found.n_unequal], 0.0)
        yield Figure(f"{what}: mean number of blocks", "", [found.mean_n])


def planning_figures(scratch: Path) -> Iterator[Figure]:
    """Whole commands: reading the study file, planning, and looking at what is on disk."""
    times = {}
    for n_jobs in (JOBS_OF_A_LARGE_STUDY // 10, JOBS_OF_A_LARGE_STUDY):
        folder = scratch / f"plan-{n_jobs}"
        study = load_study(_study_file(folder, "local", n_experiments=n_jobs // 10, cycles=10))
        fresh = [_planned(folder, study) for _ in range(REPEATS)]
        _make_results(folder / "out", study, n_jobs * 9 // 10)
        times[n_jobs] = [_planned(folder, study) for _ in range(REPEATS)]
        yield Figure(f"planning {n_jobs:,} jobs", "s", fresh, 2.0)
        yield Figure(f"resume scan and planning, {n_jobs:,} jobs, 9 in 10 done", "s", times[n_jobs], 2.0)
    small, large = (sorted(times[n])[REPEATS // 2] for n in sorted(times))
    yield Figure("time for 10 times the jobs (linear is at most 10)", "x", [large / small], 10.0)


def _planned(folder: Path, study: Study) -> float:
    started = time.perf_counter()
    ran = runner("plan", folder / "study.yaml", "--output", folder / "out", timeout=120)
    assert ran.code == 0, ran.stderr
    assert f"{len(study.experiments)} experiments" in ran.stdout
    return time.perf_counter() - started


def _make_results(output: Path, study: Study, count: int) -> None:
    """Directories as finished cycles leave them; a plan reads their names."""
    ran = runner("run", output.parent / "study.yaml", "--output", output, "--dry-run")
    assert ran.code == 0, ran.stderr
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    cells = [(one, cycle) for cycle in range(1, 11) for one in study.experiments]
    for number, (one, cycle) in enumerate(cells[:count]):
        parts = [one.name, one.config.backend, one.config_hash[:8], f"c{cycle:03d}"]
        folder = output / files.directory_name(parts, moment + timedelta(seconds=number))
        folder.mkdir(parents=True)
        (folder / files.RESULT_FILE).write_text(json.dumps({"study": study.name}))


def _study(folder: Path, launcher: str) -> float:
    study = _study_file(folder / "study", launcher)
    environment = {
        "LD_LIBRARY_PATH": str(HOST_FOLDER / "lib"),
        "JOULEHOUSE_LEASES": str(folder / "leases"),
    }
    started = time.perf_counter()
    ran = runner("run", study, "--output", folder / "out", env=environment, timeout=600)
    took_s = time.perf_counter() - started
    assert ran.code == 0, ran.stderr
    assert len(results(folder / "out")) == EXPERIMENTS * CYCLES
    return took_s


def _study_file(folder: Path, launcher: str, n_experiments: int = EXPERIMENTS, cycles: int = CYCLES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    document = {
        "name": "bench",
        "cycles": cycles,
        "launcher": {"name": launcher},
        "defaults": _config(0) | {"batch_size": 1},
        "sweep": {"grid": {"batch_size": list(range(1, n_experiments + 1))}},
    }
    file.write_text(yaml.safe_dump(document))
    return file


def _config(number: int) -> dict[str, object]:
    return {
        "backend": "stub",
        "batch_size": number % EXPERIMENTS + 1,
        "workload": {"n_prompts": 4, "max_output_tokens": 8},
        "measurement": {"baseline": {"enabled": False}, "warmup": {"enabled": False}},
        "stub": {"window_s": JOB_S},
    }


def _plain_pool(folder: Path, job: Callable[[Path, str], list[str]], uuids: list[str]) -> float:
    """What one would write without joulehouse: eight workers, each with its GPU, until nothing is left."""
    free = list(uuids)

    def work(number: int) -> None:
        uuid = free.pop()
        place = folder / "pool" / str(number)
        place.mkdir(parents=True, mode=0o777)
        place.chmod(0o777)
        (place / "config.json").write_text(json.dumps(_config(number)))
        (place / "context.json").write_text(JobContext(gpu_uuids=[uuid]).model_dump_json())
        subprocess.run(job(place, uuid), check=True, capture_output=True, env=_environment(uuid))
        free.append(uuid)

    started = time.perf_counter()
    with ThreadPoolExecutor(GPUS) as pool:
        list(pool.map(work, range(EXPERIMENTS * CYCLES)))
    return time.perf_counter() - started


def _environment(uuid: str) -> Mapping[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
        "LD_LIBRARY_PATH": str(HOST_FOLDER / "lib"),
        "CUDA_VISIBLE_DEVICES": uuid,
    }


def _local_job(folder: Path, _uuid: str) -> list[str]:
    return [sys.executable, "-m", "images.stub", *_arguments(str(folder))]


def _docker_job(folder: Path, uuid: str) -> list[str]:
    flags = "--rm --network none --read-only --tmpfs /tmp:rw,exec --cap-drop ALL --init --shm-size 1g --user 12345:0"
    mount = ["-v", f"{folder}:/results", "--gpus", f"device={uuid}", "--security-opt", "no-new-privileges"]
    return ["docker", "run", *flags.split(), *mount, image_name("stub"), *_arguments("/results")]


def _arguments(folder: str) -> list[str]:
    return ["--config", f"{folder}/config.json", "--context", f"{folder}/context.json", "--output", folder]
