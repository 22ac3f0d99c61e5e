"""study.json: what a results directory's study is, so that running it again resumes it and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from images.contract import files
from images.contract.parts import Record, UtcDatetime
from images.contract.result import misfit
from images.contract.scheduling import AdaptiveCycles, Order, Placement

STUDY_FILE = "study.json"


class ExperimentRecord(Record):
    name: str = Field(description="in the study")
    measurement_config_hash: str = Field(description="of its configuration")
    config: dict[str, Any] = Field(description="the whole ExperimentConfig")


class StudyRecord(Record):
    """One study, as its first run saw it and later ones extended it."""

    schema_version: Literal["1"] = Field("1", description="of this document")
    name: str = Field(description="of the study")
    created: UtcDatetime = Field(description="when it first ran")
    seed: int = Field(description="of the order")
    order: Order = Field(description="of the experiments inside a block")
    placement: Placement = Field(description="block, or any: on whichever GPUs are free")
    on_gpus: bool = Field(description="whether it is measured on GPUs; the CPU's figures do not belong to theirs")
    cycles: int | AdaptiveCycles = Field(description="a number, or the rule with what it found")
    experiments: list[ExperimentRecord]

    @classmethod
    def load(cls, output: Path) -> Self | None:
        """The record in a results directory; None where no study file was run.

        Raises:
            UnreadableResult: it is damaged.
        """
        path = output / STUDY_FILE
        if not path.exists():
            return None
        try:
            return cls.model_validate(files.read_json(path))
        except ValidationError as error:
            raise misfit(path, error) from None

    def save(self, output: Path) -> None:
        """Replace the record, atomically.

        Raises:
            OSError: cannot be written; the old one stays.
        """
        files.write_atomic(output / STUDY_FILE, self.model_dump_json(indent=1), synced=True)
