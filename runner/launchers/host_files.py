"""What a container sees of its host: the attempt's folder, what the configuration names, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from images.contract.config import ExperimentConfig
from images.contract.job import (
    ENGINES_MOUNT,
    ENV_ENGINE_CACHE,
    ENV_HF_HUB_CACHE,
    ENV_HF_HUB_OFFLINE,
    ENV_LOG_LEVEL,
    MODELS_MOUNT,
    RESULTS_MOUNT,
)
from runner.hub import hub_cache
from runner.launchers import LaunchImpossible


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file or folder of the host, at `target` in the container."""

    target: str
    source: Path
    read_only: bool = True


def seen_of_the_host(config: ExperimentConfig, attempt: Path, models: Path, uid: int) -> list[HostFile]:
    """
    Args:
        attempt: folder that the job writes to.
        models: the host's hub cache.
        uid: the container's user, whose group is 0.

    Raises:
        LaunchImpossible: that user cannot use something of it.
    """
    local = local_files(config)
    for folder in (config.model_path, config.drafter_path):
        local += [] if folder is None else _link_targets(folder)
    return [
        HostFile(RESULTS_MOUNT, attempt, read_only=False),
        *(HostFile(str(path), path) for path in local),
        *_hub_models(config, models, uid),
        *_engines(config, uid),
    ]


def local_files(config: ExperimentConfig) -> list[Path]:
    """Files and folders of this host that the configuration names."""
    named = (config.model_path, config.drafter_path, config.prompt_file)
    return [path for path in named if path is not None]


def environment(config: ExperimentConfig) -> dict[str, str]:
    """Images have HF_HOME, and with it whatever else engines write, below /tmp; only what lasts is elsewhere."""
    variables = {ENV_LOG_LEVEL: os.environ.get(ENV_LOG_LEVEL, "INFO"), ENV_HF_HUB_OFFLINE: "1"}
    if hub_cache.hub_models([config]):
        variables[ENV_HF_HUB_CACHE] = MODELS_MOUNT
    if _engine_cache(config) is not None:
        variables[ENV_ENGINE_CACHE] = ENGINES_MOUNT
    return variables


def _hub_models(config: ExperimentConfig, models: Path, uid: int) -> list[HostFile]:
    """What of the hub cache this job reads, and nothing else of it."""
    seen: dict[str, Path] = {}
    for model in hub_cache.hub_models([config]):
        seen |= hub_cache.mounts(model.name, models, MODELS_MOUNT)
    if os.getuid() == 0:
        hub_cache.share_with_group(seen.values())
    require_readable(seen.values(), uid)
    return [HostFile(target, source) for target, source in seen.items()]


def _engines(config: ExperimentConfig, uid: int) -> list[HostFile]:
    folder = _engine_cache(config)
    if folder is None:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if uid != os.getuid():
            os.chown(folder, uid, 0)
    except OSError as error:
        raise LaunchImpossible(
            f"the folder for engines {folder} cannot be made ({error.strerror}).",
            f"Correct {ENV_ENGINE_CACHE}, or unset it.",
        ) from None
    return [HostFile(ENGINES_MOUNT, folder, read_only=False)]


def _engine_cache(config: ExperimentConfig) -> Path | None:
    """The folder for built engines, if one was named and this job builds one."""
    folder = os.environ.get(ENV_ENGINE_CACHE)
    builds = config.trt is not None and config.trt.engine == "tensorrt"
    return Path(folder).absolute() if folder and builds else None


def require_readable(paths: Iterable[Path], uid: int) -> None:
    """
    Raises:
        LaunchImpossible: the container's user cannot read one of them.
    """
    closed = hub_cache.unreadable(paths, uid)
    if closed is not None:
        raise LaunchImpossible(
            f"{closed} is not readable by the container's user (uid {uid}, gid 0).",
            "Run `chmod -R a+rX` on it, or use --launcher local.",
        )


def _link_targets(folder: Path) -> list[Path]:
    """Files outside `folder` that its links lead to, as those of a hub's cache do."""
    targets = {path.resolve() for path in folder.rglob("*") if path.is_symlink()}
    return sorted(target for target in targets if not target.is_relative_to(folder) and target.is_file())
