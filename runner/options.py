"""A study from command-line options: a study file, or one configuration put together on the spot."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from pydantic import TypeAdapter, ValidationError

from images.contract.config import BACKENDS, ExperimentConfig, parse_config
from images.contract.job import ConfigInvalid
from images.contract.scheduling import Placement
from runner.layout import slug
from runner.studies.settings import LAUNCHER_NAMES, LauncherName, LauncherSettings, Retries, Size, Timeouts
from runner.studies.study import Experiment, Study
from runner.studies.study_file import load_study

F = TypeVar("F", bound=Callable[..., object])

RESULTS = Path("results")
_DEFAULT_CYCLES = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What was said on the command line; None is not said."""

    study_file: Path | None = None
    backend: str | None = None
    model: str | None = None
    settings: tuple[str, ...] = ()
    study: str | None = None
    cycles: int | None = None
    launcher: LauncherName | None = None
    output: Path | None = None
    timeout: float | None = None
    stall_timeout: float | None = None
    retries: int | None = None
    memory: str | None = None
    gpus: str | None = None
    max_parallel: int | None = None
    placement: Placement | None = None
    exclusive: bool | None = None


def _checked_size(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else TypeAdapter(Size).validate_python(value)
    except ValidationError:
        raise click.BadParameter(f"'{value}' is not a size such as 512m or 8g.") from None


_SECONDS = click.FloatRange(min=0, min_open=True)
_OPTIONS = (
    click.argument("study_file", metavar="[STUDY.yaml]", required=False, type=click.Path(path_type=Path)),
    click.option("--backend", type=click.Choice(BACKENDS), help="Without a study file: the engine to measure."),
    click.option(
        "--model", help="Hub id, local folder (/..., ./...) or builtin:tiny-llama.  [default: builtin:tiny-llama]"
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="FIELD.PATH=VALUE", help="Any configuration field; repeatable."
    ),
    click.option("--study", help="Name that groups the cycles.  [default: run-<time>]"),
    click.option("--cycles", type=click.IntRange(min=1), help="Repetitions.  [default: the study's, or 3]"),
    click.option(
        "--launcher", type=click.Choice(LAUNCHER_NAMES), help="Where jobs run.  [default: the study's, or docker]"
    ),
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        help="Where results go.  [default: results, and a folder of its own below it for a study file]",
    ),
    click.option("--timeout", type=_SECONDS, help="Longest job (s).  [default: the study's, or 3600]"),
    click.option(
        "--stall-timeout",
        type=_SECONDS,
        help="Longest time without news of a job (s).  [default: the study's, or 1800]",
    ),
    click.option(
        "--retries", type=click.IntRange(min=0), help="Further tries at a failed cycle.  [default: the study's, or 2]"
    ),
    click.option(
        "--memory", metavar="SIZE", callback=_checked_size, help="Most memory of a container, as Docker writes it (8g)."
    ),
    click.option("--gpus", type=click.Choice(["auto", "none"]), help="auto: as many as each experiment needs."),
    click.option("--max-parallel", type=click.IntRange(min=1), help="Most jobs at the same time."),
    click.option("--placement", type=click.Choice(["block", "any"]), help="any: on whichever GPUs are free."),
    click.option("--exclusive", is_flag=True, default=None, help="One job at a time on this host."),
)


allow_tag_option = click.option(
    "--allow-tag",
    is_flag=True,
    help="kubernetes: allow images that are named by tag; results name no digest then.",
)


def study_options(command: F) -> F:
    """The options that say which study, and how it runs."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def asked_study(asked: Asked) -> Study:
    """The study that the command line means.

    Raises:
        click.UsageError: a study file and options that describe another study, or neither.
        StudyInvalid, ConfigInvalid, ModelUnavailable: with what is wrong.
    """
    if asked.study_file is None:
        if asked.backend is None:
            raise click.UsageError("name a study file, or an engine with --backend")
        name = asked.study or f"run-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        config = make_config(asked.backend, asked.model, asked.settings)
        study = study_of_one(name, config, asked.cycles or _DEFAULT_CYCLES)
    else:
        for option, value in (
            ("--backend", asked.backend),
            ("--model", asked.model),
            ("--set", asked.settings),
            ("--study", asked.study),
        ):
            if value:
                raise click.UsageError(f"{option} and a study file contradict each other; write it into the file")
        study = load_study(asked.study_file)
    return _overridden(study, asked)


def output_of(asked: Asked, study: Study) -> Path:
    """A study file's results are in a directory of their own."""
    return asked.output or (RESULTS / slug(study.name) if study.from_file else RESULTS)


def output_named(where: Path) -> Path:
    """The results directory of a study file, or the directory itself."""
    return RESULTS / slug(load_study(where).name) if where.is_file() else where


def _overridden(study: Study, asked: Asked) -> Study:
    given: dict[str, Any] = {
        "name": asked.launcher,
        "memory": asked.memory,
        "gpus": asked.gpus,
        "max_parallel": asked.max_parallel,
        "exclusive": asked.exclusive,
    }
    launcher = _with(study.launcher, given)
    if launcher.memory is not None and launcher.name != "docker":
        raise click.UsageError("a memory limit bounds a container; it needs --launcher docker")
    return replace(
        study,
        cycles=asked.cycles or study.cycles,
        placement=asked.placement or study.placement,
        launcher=launcher,
        timeouts=_with(study.timeouts, {"job_s": asked.timeout, "stall_s": asked.stall_timeout}),
        retries=_with(study.retries, {"limit": asked.retries}),
    )


S = TypeVar("S", LauncherSettings, Timeouts, Retries)


def _with(settings: S, given: dict[str, Any]) -> S:
    return settings.model_copy(update={name: value for name, value in given.items() if value is not None})


def study_of_one(name: str, config: ExperimentConfig, cycles: int) -> Study:
    """A study of one configuration, named after its model.

    Raises:
        ConfigInvalid, ModelUnavailable: a local file of the configuration is not there.
    """
    label = f"{config.backend} {Path(config.model).name}"
    return Study(name, (Experiment(label, config, config.measurement_config_hash()),), cycles)


def make_config(backend: str, model: str | None, settings: Iterable[str]) -> ExperimentConfig:
    """A configuration from command-line parts.

    Args:
        settings: ``field.path=value`` each; the value is JSON or YAML, and later ones win.

    Raises:
        ConfigInvalid: one line that names every error.
    """
    data: dict[str, Any] = {"backend": backend}
    if model is not None:
        data["model"] = model
    for setting in settings:
        _set(data, setting)
    if data["backend"] != backend:
        raise ConfigInvalid("--set backend=... contradicts --backend.", "Give --backend only.")
    # Jobs run elsewhere; containers see local files under the same absolute path.
    return parse_config(data).with_files_below(Path.cwd())


def _set(data: dict[str, Any], setting: str) -> None:
    path, separator, text = setting.partition("=")
    *parents, name = path.strip().split(".")
    if not separator or not name:
        raise ConfigInvalid(f"--set {setting}: not of the form field.path=value.", "Example: --set batch_size=4.")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigInvalid(f"--set {setting}: '{parent}' is a value, not a section.", "Correct the field path.")
    data[name] = _value(text, setting)


def _value(text: str, setting: str) -> Any:
    """JSON first: YAML 1.1 reads 1e-3 as text."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigInvalid(f"--set {setting}: the value is not YAML.", "Put it in quotes.") from None
