"""A study file's results directory is its own: study.json says whose it is, and what may still be added."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from images.contract.files import UnreadableResult
from images.contract.job import ExitCode, JobError
from images.contract.scheduling import AdaptiveCycles
from images.contract.study import STUDY_FILE, ExperimentRecord, StudyRecord
from runner.layout import Layout
from runner.studies.adaptive import begin
from runner.studies.scan import has_results, hashes_with_results
from runner.studies.settings import Adaptive
from runner.studies.study import Study

_ANOTHER_PLACE = "Choose another directory with --output, or another name."


class NotThisStudy(JobError):
    """The results directory belongs to something else, or to another version of the study."""

    exit_code = ExitCode.USAGE


def claim(layout: Layout, study: Study, extend: bool, on_gpus: bool) -> StudyRecord | None:
    """The study's record in its results directory, made or extended; None for a study without a file.

    Called with the study's lock held, and alone in the output directory.

    Args:
        extend: allow more experiments and more cycles than the directory's study had.
        on_gpus: where it would be measured now.

    Raises:
        NotThisStudy: nothing was changed.
        OSError: it cannot be written.
    """
    there, record = check(layout, study, extend, on_gpus)
    if record is not None and record != there:
        record.save(layout.output)
    return record


def check(layout: Layout, study: Study, extend: bool, on_gpus: bool) -> tuple[StudyRecord | None, StudyRecord | None]:
    """As `claim`, without writing.

    Returns:
        The record that is there, and the one that the study would have.

    Raises:
        NotThisStudy: the directory is not this study's.
    """
    output = layout.output
    there = _load(output)
    if not study.from_file:
        if there is not None:
            raise NotThisStudy(f"{output} belongs to study '{there.name}'.", "Choose another directory with --output.")
        return None, None
    record = _record(study, on_gpus)
    if there is None:
        if others := layout.others_at_work(study.name):
            raise NotThisStudy(f"study '{others[0]}' is at work in {output}.", "Choose another one with --output.")
        if output.is_dir() and (other := has_results(output)) is not None:
            raise NotThisStudy(
                f"{output} holds results that belong to no study file ({other}).", "Choose another one with --output."
            )
        return None, record
    if there.name != study.name:
        raise NotThisStudy(f"{output} belongs to study '{there.name}', not to '{study.name}'.", _ANOTHER_PLACE)
    measured = hashes_with_results(output)
    if not measured:
        return there, record  # nothing that it would have to belong to
    refused, added = _differences(there, record, measured)
    if refused:
        raise NotThisStudy(
            f"study '{study.name}' in {output} is another one: {'; '.join(refused)}.",
            "Undo that, or give the study another name.",
        )
    if added and not extend:
        raise NotThisStudy(
            f"study '{study.name}' has changed since it ran in {output}: {'; '.join(added)}.",
            "Run again with --extend if that is meant, or give the study another name.",
        )
    return there, record.model_copy(update={"created": there.created, "cycles": _kept_cycles(there, record)})


def known(output: Path) -> StudyRecord:
    """The record in a results directory.

    Raises:
        NotThisStudy: there is none.
    """
    if (record := _load(output)) is None:
        raise NotThisStudy(f"{output} holds no study.", f"Name a directory with a {STUDY_FILE}, or a study file.")
    return record


def _load(output: Path) -> StudyRecord | None:
    try:
        return StudyRecord.load(output)
    except UnreadableResult as error:
        raise NotThisStudy(f"{error}.", "Restore it, or choose another directory with --output.") from None


def _record(study: Study, on_gpus: bool) -> StudyRecord:
    return StudyRecord(
        name=study.name,
        created=datetime.now(UTC),
        seed=study.seed,
        order=study.order,
        placement=study.placement,
        on_gpus=on_gpus,
        cycles=begin(study.cycles) if isinstance(study.cycles, Adaptive) else study.cycles,
        experiments=[
            ExperimentRecord(
                name=one.name, measurement_config_hash=one.config_hash, config=one.config.model_dump(mode="json")
            )
            for one in study.experiments
        ],
    )


def _differences(there: StudyRecord, wanted: StudyRecord, measured: Collection[str]) -> tuple[list[str], list[str]]:
    """What can never be, because results would no longer belong together, and what may be on request.

    Args:
        measured: first 8 digits of the hashes that there are results of; what has none may be changed or left out.
    """
    refused, added = [], []
    for name in ("seed", "order", "placement"):
        before, now = getattr(there, name), getattr(wanted, name)
        if before != now:
            refused.append(f"{name} was {before} and is {now}")
    if there.on_gpus != wanted.on_gpus:
        refused.append("it was measured on GPUs, and here are none to use" if there.on_gpus else "it ran on the CPU")
    before_by_name = {one.name: one.measurement_config_hash for one in there.experiments}
    kept = {name for name, digest in before_by_name.items() if digest[:8] in measured}
    now_by_name = {one.name: one.measurement_config_hash for one in wanted.experiments}
    gone = [name for name in before_by_name if name not in now_by_name]
    other = [name for name, digest in before_by_name.items() if now_by_name.get(name, digest) != digest]
    for names, what in ((gone, "without"), (other, "another configuration under the name")):
        if lost := [name for name in names if name in kept]:
            refused.append(f"{what} {_names(lost)}, which has results")
        if free := [name for name in names if name not in kept]:
            added.append(f"{what} {_names(free)}")
    new = [name for name in now_by_name if name not in before_by_name]
    if isinstance(there.cycles, AdaptiveCycles) or isinstance(wanted.cycles, AdaptiveCycles):
        if _rule(there.cycles) != _rule(wanted.cycles):
            refused.append("another rule for its cycles")
        elif new and isinstance(there.cycles, AdaptiveCycles) and there.cycles.n is not None:
            refused.append(f"with {_names(new)}, though the number of cycles was computed without it")
            new = []
    elif wanted.cycles < there.cycles:
        refused.append(f"{wanted.cycles} cycles after {there.cycles}")
    elif wanted.cycles > there.cycles:
        added.append(f"{wanted.cycles} cycles instead of {there.cycles}")
    if new:
        added.append(f"also {_names(new)}")
    return refused, added


def _rule(cycles: int | AdaptiveCycles) -> object:
    return (cycles.metric, cycles.half_width, cycles.min, cycles.max) if isinstance(cycles, AdaptiveCycles) else "fixed"


def _kept_cycles(there: StudyRecord, wanted: StudyRecord) -> int | AdaptiveCycles:
    """What the pilot has found is never computed again."""
    return there.cycles if isinstance(there.cycles, AdaptiveCycles) else wanted.cycles


def _names(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
