"""How a cycle was scheduled among the others of its study, and who ran beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from images.contract.parts import Record, UtcDatetime

Order = Literal["shuffled", "interleaved", "sequential"]
Placement = Literal["block", "any"]


def block_name(cycle: int, gpu_uuids: Iterable[str]) -> str:
    """The block's name: its cycle and a short name of its GPU set, whatever the order of the GPUs."""
    uuids = sorted(gpu_uuids)
    return f"c{cycle:03d}-{hashlib.sha256(','.join(uuids).encode()).hexdigest()[:8] if uuids else 'cpu'}"


class Neighbour(Record):
    """A job of any runner that was on this host's other GPUs while this one ran."""

    gpu_uuids: list[str] = Field(description="the GPUs that it was on")
    study: str | None = Field(None, description="its study")
    experiment: str | None = Field(None, description="its name in the study")
    cycle: int | None = Field(None, description="number of its repetition, from 1")
    pid: int | None = Field(None, description="of its runner, on the host")
    seen: UtcDatetime = Field(description="when it was first seen beside this job")


class AdaptiveCycles(Record):
    """Stein's two stages: how many cycles a study needs, computed once from its pilot.

    C. Stein, A two-sample test for a linear hypothesis whose power is independent of the variance, Annals of
    Mathematical Statistics 16 (1945).
    """

    metric: str = Field(description="field of the result that the rule looks at")
    half_width: float = Field(description="wanted half-width of the interval, as a part of the mean (1)")
    confidence: float = Field(description="of the interval (1)")
    min: int = Field(description="pilot blocks")
    max: int = Field(description="most blocks")
    pilot: list[PilotEstimate] = Field(default_factory=list)
    n: int | None = Field(None, description="blocks of the whole study; None: it could not be computed")
    outcome: Literal["running", "reached", "not_reached", "not_measured"] = Field(
        "running",
        description="reached: every experiment has n complete blocks, and n was not cut at max; not_measured: the "
        "metric is missing in pilot results",
    )


class PilotEstimate(Record):
    """One experiment's pilot."""

    experiment: str = Field(description="its name in the study")
    measurement_config_hash: str = Field(description="of its configuration")
    mean: float = Field(description="of the metric over the pilot blocks, in its unit")
    s: float = Field(description="standard deviation of the metric, ddof 1, in its unit")
    n_required: int = Field(description="blocks that this experiment alone would need, not cut at max")


class Scheduling(Record):
    """What the runner decided about one cycle."""

    placement: Placement | None = Field(None, description="any: on whichever GPUs were free, so GPU confounded")
    order: Order | None = Field(None, description="of the experiments inside a block")
    seed: int | None = Field(None, description="of the order")
    position: int | None = Field(
        None, description="place in its block's order (in the study's, without blocks), from 1"
    )
    neighbours: list[Neighbour] | None = Field(None, description="None: nobody looked")
    adaptive: AdaptiveCycles | None = Field(
        None, description="the rule that asked for this cycle, as it stood, with this experiment's pilot"
    )


AdaptiveCycles.model_rebuild()
