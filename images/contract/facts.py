"""What a job knows of its experiment beside its processes' work, kept with their raw results.

The coordinator writes it before the processes start, and again when they are done; so whoever aggregates makes the
result that the job itself would have made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from images.contract import files
from images.contract.parts import CoolDown, EnvironmentSnapshot, Record
from images.contract.result import SCHEMA_VERSION, check_version, misfit

FACTS_FILE = "facts.json"


@dataclass(frozen=True, slots=True)
class Baseline:
    """Idle power of all GPUs of a job.

    Attributes:
        power_w: sum of the devices' means (W).
        spread_w: standard deviation of the samples, of the devices together (W).
        held_context: whether every GPU held a context of the measuring process.
    """

    power_w: float
    spread_w: float
    held_context: bool


class Facts(Record):
    """What is known of the experiment beside its processes' work."""

    schema_version: str = SCHEMA_VERSION
    experiment_id: str
    config_hash: str
    environment: EnvironmentSnapshot
    cool_down: CoolDown | None = None
    baseline_before: Baseline | None = None
    baseline_after: Baseline | None = None
    no_meter: str | None = Field(None, description="why nothing was metered; None: something was, or nobody knew yet")
    no_baseline: str | None = Field(None, description="why idle power was not measured; None if it was")
    foreign: list[str] = Field(default_factory=list, description="processes of others on the job's GPUs at the start")


def write_facts(folder: Path, facts: Facts) -> None:
    """Leave them in a folder of raw results, in the place of what was known before.

    Raises:
        OSError: cannot be written; what was there stays.
    """
    files.write_atomic(folder / FACTS_FILE, facts.model_dump_json(indent=1))


def load_facts(folder: Path) -> Facts | None:
    """What a job left in a folder of raw results; None if it left none.

    Raises:
        UnreadableResult: damaged, or of another major schema version.
    """
    path = folder / FACTS_FILE
    if not path.exists():
        return None
    data = files.read_json(path)
    check_version(data, path)
    try:
        return Facts.model_validate(data)
    except ValidationError as error:
        raise misfit(path, error) from None
