"""`runner doctor`: what jobs need of this host, whether it is there, and what to do where it is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from images.contract.config import BACKENDS, ExperimentConfig
from images.contract.job import JobError
from runner.gpu.gpu_modes import GpuModes, read_modes
from runner.gpu.gpus import GpuState, allocated_gpus, driver_version, every_gpu, read_gpus
from runner.gpu.leases import LeaseFolderUnusable, lease_folder
from runner.gpu.settle import check_power_limits
from runner.gpu.slots import active_leases, dead_leases
from runner.hub.hub_cache import hub_cache, hub_models, is_whole
from runner.launchers import LaunchFailed, checkout_revision, require_backend
from runner.launchers.docker_checks import engine_check
from runner.launchers.local import LocalLauncher
from runner.studies.plan import check_gpus
from runner.studies.settings import LauncherName
from runner.studies.study import Study
from runner.view.checks import Check, State, check_space, nearest

_PYTHON = (3, 11)
_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "problem": "red"}


def run_checks(
    study: Study | None,
    output: Path,
    *,
    backend: str | None = None,
    launcher: LauncherName | None = None,
    environment: Mapping[str, str] = os.environ,
    models: Path | None = None,
) -> list[Check]:
    """
    Args:
        study: what it needs is required; without one only `backend` is, or any one that is ready.
        output: where results would go.
        launcher: None is the study's, or docker.
        models: the hub's cache folder; None is the user's.
    """
    name = launcher or (study.launcher.name if study is not None else "docker")
    wanted = (
        [backend] if backend is not None else sorted({one.config.backend for one in study.experiments} if study else ())
    )
    gpu_lines, gpu_uuids = gpu_checks(study, environment)
    launcher_lines = docker_checks(wanted, gpu_uuids) if name == "docker" else local_checks(wanted)
    return [
        python_check(sys.version_info[:3]),
        *launcher_lines,
        *gpu_lines,
        lease_check(lease_folder(environment)),
        output_check(output),
        *model_checks(study, models or hub_cache()),
        token_check(environment),
    ]


def show(checks: Sequence[Check], console: Console) -> bool:
    """Print them; True if none is a problem."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = Text(f"{check.state:<9}", style=_STYLES[check.state])
        console.print(line.append(f"{check.name:<{width}}  {check.found}", style="default"), soft_wrap=True)
        if check.next_step:
            console.print(Text(f"{'':9}{'':{width}}  -> {check.next_step}"), soft_wrap=True)
    return all(check.state != "problem" for check in checks)


def python_check(version: tuple[int, ...]) -> Check:
    found = ".".join(map(str, version))
    if version < _PYTHON:
        return Check("Python", "problem", found, f"Make .venv anew with Python {'.'.join(map(str, _PYTHON))} or newer.")
    return Check("Python", "ok", found)


def docker_checks(wanted: Sequence[str], gpu_uuids: Sequence[str]) -> list[Check]:
    """The engine, its images, whether containers get the GPUs, and its disk."""
    first, engine = engine_check()
    if engine is None:
        return [first]
    revision = checkout_revision()
    here = _backends_here()
    images = [engine.image_check(backend, revision) for backend in wanted or here if backend in here]
    usable = next((image_id for _, image_id in images if image_id is not None), None)
    absent = [line for backend in wanted if (line := _absent(backend)) is not None]
    lines = [first, *absent, *_any_is_enough([line for line, _ in images], wanted)]
    if gpu_uuids and usable is not None:
        lines.append(engine.gpu_check(usable, gpu_uuids))
    elif gpu_uuids:
        step = "Build an image, then ask again."
        lines.append(Check("GPUs in containers", "warning", "not tried: there is no image to try it with", step))
    space = engine.space_check()
    return lines if space is None else [*lines, space]


def local_checks(wanted: Sequence[str]) -> list[Check]:
    """Whether this Python can run the backends itself."""
    return _any_is_enough([_local_check(backend) for backend in wanted or _backends_here()], wanted)


def gpu_checks(study: Study | None, environment: Mapping[str, str]) -> tuple[list[Check], list[str]]:
    """Also the GPUs that jobs may use; none where they run on the CPU."""
    if study is not None and study.launcher.gpus == "none":
        return [Check("GPUs", "ok", "not used: the study says gpus: none")], []
    try:
        everything = every_gpu()
        uuids = allocated_gpus(environment)
        if not everything:
            step = "Install the driver, or go on: without GPUs energy is not measured."
            return [Check("NVIDIA driver", "warning", "none, or no GPU that answers: jobs run on the CPU", step)], []
        states, modes = read_gpus(uuids), read_modes(uuids)
    except JobError as error:
        return [Check("GPUs", "problem", error.message, error.advice)], []
    driver = Check("NVIDIA driver", "ok", driver_version() or "does not tell its version")
    return [driver, *_gpu_lines(study, len(everything), states, modes)], uuids


def lease_check(folder: Path) -> Check:
    """GPUs are leased in a folder that all runners of this host share."""
    try:
        active, dead = active_leases(folder), dead_leases(folder)
    except LeaseFolderUnusable as error:
        return Check("leases", "problem", error.message, error.advice)
    if not folder.exists() and not os.access(nearest(folder), os.W_OK | os.X_OK):
        return Check("leases", "problem", f"{folder} cannot be made", "Name another folder with JOULEHOUSE_LEASES.")
    found = f"{len(active)} GPUs are leased in {folder}"
    if dead:
        outputs = ", ".join(sorted({str(record.output) for record in dead}))
        found += f", and {len(dead)} leases are of runners that are gone, whose jobs may still run"
        return Check("leases", "warning", found, f"End them with `runner stop DIRECTORY`: {outputs}.")
    return Check("leases", "ok", found)


def output_check(output: Path) -> Check:
    place = nearest(output)
    if not place.is_dir():
        return Check("output", "problem", f"{place} is a file", "Choose another directory with --output.")
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("output", "problem", f"{place} is not writable", "Choose another directory with --output.")
    return check_space("output", output, 2.0, 0.05, "Make room, or choose another directory with --output.")


def model_checks(study: Study | None, cache: Path) -> Iterator[Check]:
    """The hub's cache, and room in it for what is still to be downloaded."""
    if study is None:
        n_there = len(list(cache.glob("models--*")))
        yield Check("models", "ok", f"{n_there} models in {cache}")
        missing = []
    else:
        models = hub_models(one.config for one in study.experiments)
        missing = [model.name for model in models if not is_whole(model, cache)]
        if not models:
            yield Check("models", "ok", "the study needs none from the hub")
        elif missing:
            yield Check("models", "ok", f"downloaded before the first job: {', '.join(missing)}")
        else:
            yield Check("models", "ok", f"all {len(models)} of the study are in {cache}")
    if study is None or missing:
        step = "Make room, or point HF_HOME to a larger disk."
        yield check_space("model cache", cache, 20.0, 0.5 if missing else 0.0, step)


def token_check(environment: Mapping[str, str]) -> Check:
    """Whether there is one. Its value is nobody's business."""
    token = environment.get("HF_TOKEN", "")
    if not token:
        return Check("HF_TOKEN", "ok", "not set; only models with restricted access need it")
    if token != token.strip():
        return Check("HF_TOKEN", "warning", "set, with white space around it", "Set it again without that.")
    return Check("HF_TOKEN", "ok", "set")


def _gpu_lines(
    study: Study | None, n_host: int, states: Sequence[GpuState], modes: Sequence[GpuModes]
) -> Iterator[Check]:
    names = ", ".join(sorted({str(state.name) for state in states}))
    found = f"{len(states)} of {n_host} may be used" + (f": {names}" if names else "")
    try:
        if study is not None:
            check_gpus(study, len(states))
            check_power_limits([state.uuid for state in states], study.launcher.power_limit_w)
    except JobError as error:
        yield Check("GPUs", "problem", error.message, error.advice)
    else:
        step = "" if states else "Widen CUDA_VISIBLE_DEVICES, or go on: without GPUs energy is not measured."
        yield Check("GPUs", "ok" if states else "warning", found, step)
    if with_mig := [mode.uuid for mode in modes if mode.mig]:
        step = "A part of a GPU has no energy of its own. Turn it off: `nvidia-smi -i UUID -mig 0`."
        yield Check("MIG", "problem", f"on: {_listed(with_mig)}", step)
    if without := [mode.uuid for mode in modes if mode.persistence is False]:
        step = "The driver may unload between jobs, and power varies. `sudo nvidia-smi -pm 1` keeps it."
        yield Check("persistence mode", "warning", f"off: {_listed(without)}", step)
    if others := [process for state in states for process in state.processes or ()]:
        step = "Results measured beside them are invalid. Wait for them, or narrow CUDA_VISIBLE_DEVICES."
        yield Check("processes on GPUs", "warning", _listed(others), step)


def _local_check(backend: str) -> Check:
    name = f"backend {backend}"
    try:
        LocalLauncher().check(ExperimentConfig.model_validate({"backend": backend}))
    except LaunchFailed as error:
        return Check(name, "problem", error.message, error.advice)
    return Check(name, "ok", "this Python has what it needs")


def _any_is_enough(lines: Sequence[Check], wanted: Sequence[str]) -> list[Check]:
    """Where nothing is asked for, what is missing is no problem as long as something is ready."""
    if wanted or all(line.state == "problem" for line in lines):
        return list(lines)
    return [replace(line, state="warning") if line.state == "problem" else line for line in lines]


def _backends_here() -> list[str]:
    """Those that this checkout has."""
    return [backend for backend in BACKENDS if _absent(backend) is None]


def _absent(backend: str) -> Check | None:
    try:
        require_backend(backend)
    except LaunchFailed as error:
        return Check(f"backend {backend}", "problem", error.message, error.advice)
    return None


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:3])
    return f"{shown} and {len(texts) - 3} more" if len(texts) > 3 else shown
