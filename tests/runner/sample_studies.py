"""Studies for tests, made without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from images.contract.config import ExperimentConfig
from runner.studies.study import Experiment, Study


def experiment(name: str, gpus: int = 1, **settings: Any) -> Experiment:
    """A stub experiment; its name makes its configuration another one."""
    quick = {"baseline": {"enabled": False}, "warmup": {"enabled": False}}
    document = {"backend": "stub", "gpus_per_process": gpus, "measurement": quick, "stub": {"extra": {"name": name}}}
    config = ExperimentConfig.model_validate(document | settings)
    return Experiment(name, config, config.measurement_config_hash())


def study(*names: str, cycles: Any = 3, **settings: Any) -> Study:
    return Study("study", tuple(experiment(name) for name in names), cycles, **settings)


def written(folder: Path, *names: str, **parts: Any) -> Path:
    """A study file of quick stub experiments in local processes.

    Args:
        names: of the experiments; each has a batch size of its own.
        parts: of the file; `stub`, `measurement` and `workload` go into every experiment.
    """
    defaults = {
        "backend": "stub",
        "workload": {"n_prompts": 4, "max_output_tokens": 4} | parts.pop("workload", {}),
        "measurement": {"baseline": {"enabled": False}, "warmup": {"enabled": False}} | parts.pop("measurement", {}),
        "stub": parts.pop("stub", {}),
    }
    document = {
        "name": "study",
        "cycles": 1,
        "launcher": {"name": "local"} | parts.pop("launcher", {}),
        "retries": {"backoff_s": 0.0},
        "defaults": defaults,
        "experiments": [{"name": name, "batch_size": at} for at, name in enumerate(names or ("a",), start=1)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(document | parts, sort_keys=False))
    return file
