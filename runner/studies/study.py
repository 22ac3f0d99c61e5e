"""What a study is once everything about it has been checked: named experiments, cycles, and how they run."""

from __future__ import annotations

from dataclasses import dataclass, field

from images.contract.config import ExperimentConfig
from images.contract.scheduling import Order, Placement
from runner.studies.cluster_settings import KubernetesSettings
from runner.studies.settings import Adaptive, CoolDown, LauncherSettings, Retries, Timeouts


@dataclass(frozen=True, slots=True)
class Experiment:
    """One configuration with the study's name for it."""

    name: str
    config: ExperimentConfig = field(compare=False)  # the hash stands for it, and it cannot be hashed itself
    config_hash: str

    @property
    def n_gpus(self) -> int:
        return self.config.num_processes * self.config.gpus_per_process


@dataclass(frozen=True, slots=True)
class Study:
    """
    Attributes:
        experiments: names and hashes are unique.
        cycles: a number, or the rule that finds it.
        seed: of the order.
        from_file: whether a study file describes all of it, so that its results directory is its own.
    """

    name: str
    experiments: tuple[Experiment, ...]
    cycles: int | Adaptive
    seed: int = 42
    order: Order = "shuffled"
    placement: Placement = "block"
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: Retries = field(default_factory=Retries)
    cool_down: CoolDown = field(default_factory=CoolDown)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    from_file: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One cycle of one experiment.

    Attributes:
        position: place in the order of its block, or of the study where there are no blocks, from 1.
    """

    study: str
    experiment: Experiment
    cycle: int
    position: int = 1

    @property
    def config(self) -> ExperimentConfig:
        return self.experiment.config

    @property
    def config_hash(self) -> str:
        return self.experiment.config_hash

    @property
    def label(self) -> str:
        return f"{self.experiment.name} c{self.cycle:03d}"
