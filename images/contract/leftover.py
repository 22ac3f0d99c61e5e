"""Raw results of an experiment that its job did not complete, ``raw/{experiment_id}/``, and the result made of them.

It is the result that the job itself would have made of the same processes; where some are missing it is invalid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from images.contract import files
from images.contract.aggregation import validate_process_completeness
from images.contract.assembly import assemble
from images.contract.config import ExperimentConfig
from images.contract.facts import FACTS_FILE, Facts, load_facts
from images.contract.files import UnreadableResult
from images.contract.job import CONFIG_FILE, CONTEXT_FILE, JobContext, JobError
from images.contract.parts import EnvironmentSnapshot
from images.contract.process import ProcessData, completed, load_process
from images.contract.result import CompletenessReport, ExperimentResult, misfit

_MOST_PROCESSES = 10_000
_MOST_NAMED = 8

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a job left of one experiment.

    Attributes:
        data: of the processes that left a whole result, by index.
        damaged: why others of those that completed cannot be read, by index.
    """

    folder: Path
    config: ExperimentConfig
    context: JobContext
    facts: Facts
    data: Sequence[ProcessData]
    damaged: dict[int, str]

    @property
    def experiment_id(self) -> str:
        return self.folder.name

    def report(self) -> CompletenessReport:
        """Whether every process of the configuration left a whole result."""
        raw = [one.record.raw for one in self.data]
        return validate_process_completeness(self.experiment_id, raw, self.config.num_processes, self.folder)

    def aggregate(self) -> tuple[ExperimentResult, files.Table, files.Table | None]:
        """The result of what there is, with the rows of its sidecars; invalid (rank_missing) if a process is missing.

        Raises:
            UnreadableResult: no process left a whole result, or their figures do not go together.
        """
        if not self.data:
            raise UnreadableResult(f"{self.folder} has no whole result of any process")
        try:
            result, requests, samples = assemble(self.config, self.context, self.facts, self.data)
        except ValidationError as error:
            raise misfit(self.folder, error) from None
        except (ValueError, ArithmeticError) as error:
            raise UnreadableResult(f"the figures in {self.folder} do not go together ({error})") from None
        report = self.report()
        if result.aggregation is None or report.is_complete:
            return result, requests, samples
        warnings = [*result.aggregation.warnings, f"aggregated although incomplete: {describe(report, self.damaged)}"]
        metadata = result.aggregation.model_copy(update={"warnings": warnings})
        return result.model_copy(update={"aggregation": metadata}), requests, samples


def load_leftover(folder: Path) -> Leftover:
    """Everything that is whole in a folder of raw results, whose name is the experiment's id.

    Raises:
        UnreadableResult: its configuration, context or facts are missing, damaged, of another major schema
            version or of another experiment; or a file is a link, or cannot be opened, which says nothing of
            what is in it.
    """
    require_own_files(folder)
    config = _read(folder / CONFIG_FILE, ExperimentConfig)
    context = _read(folder / CONTEXT_FILE, JobContext)
    facts = load_facts(folder) or _facts_of(folder.name, config, context)
    if config.num_processes > _MOST_PROCESSES:
        raise UnreadableResult(f"{folder / CONFIG_FILE} asks for {config.num_processes} processes, which no job has")
    data, damaged = [], {}
    if more := [index for index in completed(folder) if index >= config.num_processes]:
        raise UnreadableResult(
            f"{folder} has results of process {more[0]} though its processes are {config.num_processes}"
        )
    for index in completed(folder):
        try:
            data.append(load_process(folder, index))
        except UnreadableResult as error:
            damaged[index] = str(error)
    ids = {facts.experiment_id, *(one.record.raw.experiment_id for one in data)} - {folder.name}
    if ids:
        raise UnreadableResult(f"{folder} holds results of another experiment ({', '.join(sorted(ids))})")
    return Leftover(folder, config, context, facts, data, damaged)


def describe(report: CompletenessReport, damaged: dict[int, str]) -> str:
    """What is missing, in one line."""
    parts = [f"{report.found} of {report.expected} processes left a whole result"]
    if unknown := [index for index in report.missing if index not in damaged]:
        parts.append(f"missing: {_numbers(unknown)}")
    if report.duplicates:
        parts.append(f"more than once: {_numbers(report.duplicates)}")
    if unmarked := [index for index in report.missing_markers if index not in report.missing]:
        parts.append(f"without their marker: {_numbers(unmarked)}")
    parts += [f"process {index}: {reason}" for index, reason in damaged.items()]
    return "; ".join(parts)


def _numbers(indices: Sequence[int]) -> str:
    more = f" and {len(indices) - _MOST_NAMED} more" if len(indices) > _MOST_NAMED else ""
    return ", ".join(map(str, indices[:_MOST_NAMED])) + more


def require_own_files(folder: Path) -> None:
    """
    Raises:
        UnreadableResult: a file is a link, which could lead anywhere, or cannot be opened now, for lack of rights
            say, and may well be whole.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise UnreadableResult(f"{path} is no file of the job's")
        try:
            path.open("rb").close()
        except OSError as error:
            raise UnreadableResult(f"{path} cannot be read ({error.strerror})") from None


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate(files.read_json(path))
    except ValidationError as error:
        raise misfit(path, error) from None


def _facts_of(experiment_id: str, config: ExperimentConfig, context: JobContext) -> Facts:
    """What is left to say of a job that wrote no facts down."""
    known = context.model_dump(include=set(EnvironmentSnapshot.model_fields))
    try:
        config_hash = context.measurement_config_hash or config.measurement_config_hash()
    except JobError as error:
        raise UnreadableResult(f"the configuration of {experiment_id} cannot be hashed: {error}") from None
    return Facts(
        experiment_id=experiment_id,
        config_hash=config_hash,
        environment=EnvironmentSnapshot(**known),
        no_baseline=f"the job left no {FACTS_FILE}",
        foreign=context.foreign_processes,
    )
