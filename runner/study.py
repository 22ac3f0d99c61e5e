"""From what the user asks for to an ordered list of jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from images.contract.config import ExperimentConfig, parse_config
from images.contract.job import ConfigInvalid


@dataclass(frozen=True, slots=True)
class Job:
    """One cycle of one experiment."""

    study: str
    config: ExperimentConfig
    config_hash: str
    cycle: int

    @property
    def label(self) -> str:
        return f"{self.config.backend} {self.config_hash[:8]} c{self.cycle:03d}"


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
    return _with_absolute_paths(parse_config(data))


def plan_jobs(config: ExperimentConfig, study: str, cycles: int) -> list[Job]:
    """`cycles` repetitions, in order.

    Raises:
        ConfigInvalid, ModelUnavailable: a local file of the configuration is not there.
    """
    config_hash = config.measurement_config_hash()
    return [Job(study, config, config_hash, cycle) for cycle in range(1, cycles + 1)]


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


def _with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Jobs run elsewhere; containers see local files under the same absolute path."""
    changes: dict[str, Any] = {}
    if config.model_path is not None:
        changes["model"] = str(config.model_path.absolute())
    if config.prompt_file is not None:
        source = str(config.prompt_file.absolute())
        changes["workload"] = config.workload.model_copy(update={"source": source})
    return config.model_copy(update=changes)
