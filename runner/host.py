"""This host as a study needs it: a launcher that works, the code that would run, the GPUs it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.gpu.gpus import allocated_gpus
from runner.gpu.leases import lease_folder
from runner.launchers import Identity, Launcher
from runner.launchers.docker import DockerLauncher
from runner.launchers.local import LocalLauncher
from runner.studies.plan import check_gpus
from runner.studies.study import Study

LAUNCHERS: dict[str, Callable[[str | None], Launcher]] = {
    "docker": lambda memory: DockerLauncher(memory=memory),
    "local": lambda _memory: LocalLauncher(),
}


@dataclass(frozen=True, slots=True)
class Host:
    """Where a study runs.

    Attributes:
        identities: what code runs, by backend.
        gpu_uuids: the study may use; none is the CPU.
        leases: folder of all runners' leases.
        launchers: a launcher by its name, for what other runners left.
    """

    launcher: Launcher
    identities: Mapping[str, Identity]
    gpu_uuids: Sequence[str]
    leases: Path
    launchers: Callable[[str], Launcher]


def open_host(study: Study) -> Host:
    """
    Raises:
        LaunchFailed: the launcher does not work here, or cannot run one of the experiments.
        GpuUnusable: the GPUs do not answer, or an experiment needs more than there are.
    """
    gpu_uuids = study_gpus(study)
    launchers = Launchers(study.launcher.memory)
    launcher = launchers(study.launcher.name)
    identities: dict[str, Identity] = {}
    seen = set()
    for experiment in study.experiments:
        config = experiment.config
        kind = (config.backend, config.model, config.workload.source)
        if kind not in seen:
            seen.add(kind)
            identities[config.backend] = launcher.check(config)
    return Host(launcher, identities, gpu_uuids, lease_folder(), launchers)


def study_gpus(study: Study) -> list[str]:
    """The GPUs that the study may use, in the order in which they are leased.

    Raises:
        GpuUnusable: they do not answer, or an experiment needs more than there are.
    """
    gpu_uuids = allocated_gpus() if study.launcher.gpus == "auto" else []
    check_gpus(study, len(gpu_uuids))
    return gpu_uuids


class Launchers:
    """Each launcher made once, when it is first asked for."""

    def __init__(self, memory: str | None = None) -> None:
        self._memory = memory
        self._made: dict[str, Launcher] = {}

    def __call__(self, name: str) -> Launcher:
        """
        Raises:
            LaunchFailed: it does not work here.
        """
        if name not in self._made:
            self._made[name] = LAUNCHERS[name](self._memory)
        return self._made[name]
