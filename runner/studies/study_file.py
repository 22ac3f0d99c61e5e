"""A study file becomes a Study, or everything that is wrong with it is said at once, with positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.contract.config import BACKENDS, ExperimentConfig
from images.contract.job import ConfigInvalid, ExitCode, JobError, ModelUnavailable
from images.contract.work import Workload
from runner.studies.settings import Adaptive
from runner.studies.study import Experiment, Study
from runner.studies.study_check import M, check, shown, suggestion, unknown_key
from runner.studies.study_document import IGNORED, LONGEST_NAME, ExperimentName, FixedCycles, StudyHeader
from runner.studies.sweep import (
    SWEEP_KEYS,
    applicable,
    backend_of,
    check_shared,
    labels_of,
    list_in,
    mapping_in,
    merge,
    points_of,
)
from runner.studies.yaml_source import Node, Place, Problems, read_yaml

_TOP_LEVEL = (*StudyHeader.model_fields, "cycles", "defaults", "experiments", "sweep")


class StudyInvalid(JobError):
    """
    Attributes:
        problems: one line per error, ``file:line:column: field.path: message``, in the file's order.
    """

    exit_code = ExitCode.CONFIG_INVALID

    def __init__(self, path: Path, problems: list[str]) -> None:
        message = problems[0] if len(problems) == 1 else f"{path} has {len(problems)} errors"
        super().__init__(f"{message.rstrip('.')}.", "Correct the study file and run again.")
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A configuration on its way into the study.

    Attributes:
        config: None if it is invalid.
        place: where the experiment, or its sweep, is written.
        label: the name that the file gives it, or one made of its settings.
    """

    place: Place
    node: Node
    config: ExperimentConfig | None
    label: str
    is_named: bool = False
    is_point: bool = False


def load_study(path: Path) -> Study:
    """
    Raises:
        StudyInvalid: with all errors of the file.
    """
    problems = Problems(path)
    try:
        root = read_yaml(path, problems)
    except FileNotFoundError:
        raise StudyInvalid(path, [f"{path}: there is no such file"]) from None
    except IsADirectoryError:
        raise StudyInvalid(path, [f"{path}: a folder, not a study file"]) from None
    except OSError as error:
        raise StudyInvalid(path, [f"{path}: cannot be read ({error.strerror})"]) from None
    study = None if root is None else _study(root, path.parent.absolute(), problems)
    if study is None or problems:
        raise StudyInvalid(path, problems.lines())
    return study


def _study(root: Node, folder: Path, problems: Problems) -> Study | None:
    if not root.is_mapping:
        problems.add(root.place, f"should be a mapping with name, cycles and experiments, got {shown(root.data)}")
        return None
    for name, place in root.keys.items():
        if name not in _TOP_LEVEL and not name.startswith(IGNORED):
            problems.add(place, unknown_key(name, _TOP_LEVEL))
    header = _checked(StudyHeader, _only(root, StudyHeader.model_fields), problems)
    cycles = _cycles(root, problems)
    defaults = mapping_in(root, "defaults", problems)
    check_shared(defaults, problems)
    candidates = [*_written(root, defaults, problems), *_swept(root, defaults, problems)]
    if not candidates and not problems:
        place = root.fields.get("experiments", root.fields.get("sweep", root)).place
        problems.add(place, "no experiments at all; write them under 'experiments' or 'sweep'")
    experiments = tuple(_unique(candidates, _LocalFiles(folder, problems), problems))
    if header is None or cycles is None:
        return None
    return Study(
        name=header.name,
        experiments=experiments,
        cycles=cycles,
        seed=header.seed,
        order=header.order,
        placement=header.placement,
        launcher=header.launcher,
        timeouts=header.timeouts,
        retries=header.retries,
        cool_down=header.cool_down,
        kubernetes=header.kubernetes,
        from_file=True,
    )


def _checked(model: type[M], node: Node, problems: Problems, also: tuple[str, ...] = ()) -> M | None:
    value, faults = check(model, node, also)
    for fault in faults:
        problems.add(fault.place, fault.message)
    return value


def _only(node: Node, names: Iterable[str]) -> Node:
    return node.without(*(node.fields.keys() - set(names)))


def _cycles(root: Node, problems: Problems) -> int | Adaptive | None:
    node = root.fields.get("cycles")
    if node is not None and node.is_mapping:
        return _checked(Adaptive, node, problems)
    if node is not None and (not isinstance(node.data, int) or isinstance(node.data, bool)):
        problems.add(node.place, f"should be a whole number or {{min: 5, max: 30, ...}}, got {shown(node.data)}")
        return None
    fixed = _checked(FixedCycles, _only(root, FixedCycles.model_fields), problems)
    return None if fixed is None else fixed.cycles


def _written(root: Node, defaults: Node, problems: Problems) -> Iterator[_Candidate]:
    """The explicit experiments."""
    for item in list_in(root, "experiments", problems):
        if not item.is_mapping:
            problems.add(item.place, f"should be a mapping of configuration fields, got {shown(item.data)}")
            continue
        named = _checked(ExperimentName, _only(item, ExperimentName.model_fields), problems)
        own = item.without("name")
        backend = backend_of(defaults, own)
        if backend in BACKENDS:
            own = _without_foreign(own, backend, problems)
        node = merge(applicable(defaults, backend), own)
        config = _checked(ExperimentConfig, node, problems, also=("name",))
        name = named.name if named is not None else None
        yield _Candidate(item.place, node, config, name or labels_of([_leaves(own)])[0] or backend, bool(name))


def _without_foreign(own: Node, backend: str, problems: Problems) -> Node:
    for name in BACKENDS:
        if name != backend and name in own.fields and own.fields[name].data is not None:
            problems.add(
                own.keys[name],
                f"belongs to another backend; this experiment's backend is '{backend}'. Remove it, or set "
                f"backend: {name}",
            )
            check_shared(_only(own, [name]), problems)
    return applicable(own, backend)


def _leaves(node: Node, prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, part in node.fields.items():
        leaves |= _leaves(part, f"{prefix}{name}.") if part.fields else {prefix + name: part.data}
    return leaves


def _swept(root: Node, defaults: Node, problems: Problems) -> Iterator[_Candidate]:
    node = root.fields.get("sweep")
    for sweep in () if node is None else node.items if node.is_list else (node,):
        if not sweep.is_mapping:
            problems.add(sweep.place, f"should be a mapping with a grid, got {shown(sweep.data)}")
            continue
        for name, place in sweep.keys.items():
            if name not in SWEEP_KEYS:
                problems.add(place, unknown_key(name, SWEEP_KEYS))
        named = _checked(ExperimentName, _only(sweep, ExperimentName.model_fields), problems)
        for point in points_of(sweep, named.name if named else None, defaults, problems):
            yield _Candidate(sweep.place, point.node, point.config, point.label, is_point=True)


def _unique(candidates: list[_Candidate], files: _LocalFiles, problems: Problems) -> Iterator[Experiment]:
    """Experiments with unique names and configurations; points of sweeps that come out equal are kept once."""
    named: dict[str, _Candidate] = {}
    for candidate in candidates:
        if candidate.is_named and (owner := named.setdefault(candidate.label, candidate)) is not candidate:
            first = owner.place
            problems.add(candidate.place, f"the name '{candidate.label}' is that of {first.path} (line {first.line})")
    used = set(named)
    by_hash: dict[str, _Candidate] = {}
    for candidate in candidates:
        located = files.located(candidate)
        if located is None:
            continue
        config, config_hash = located
        twin = by_hash.setdefault(config_hash, candidate)
        if twin is not candidate:
            _say_twins(twin, candidate, problems)
            continue
        name = candidate.label if candidate.is_named else _free_name(candidate.label, config_hash, used)
        used.add(name)
        yield Experiment(name, config, config_hash)


def _say_twins(first: _Candidate, second: _Candidate, problems: Problems) -> None:
    if first.is_point or (first.is_named and second.is_named and first.label == second.label):
        return
    if second.is_point:
        twin = f"point {second.label} of the sweep at line {second.place.line}"
        problems.add(first.place, f"the same configuration as {twin}; leave one out")
    else:
        twin = f"{first.place.path} (line {first.place.line})"
        problems.add(second.place, f"the same configuration as {twin}; leave one out, repetitions are cycles")


def _free_name(label: str, config_hash: str, used: set[str]) -> str:
    if len(label) <= LONGEST_NAME and label not in used:
        return label
    endings = (f"-{config_hash[:digits]}" for digits in (8, len(config_hash)))
    names = (label[: LONGEST_NAME - len(ending)].rstrip("-=,. ") + ending for ending in endings)
    return next(name for name in names if name not in used)


class _LocalFiles:
    """Model folders and prompt files, from the study file's folder on; what is missing is said once."""

    def __init__(self, folder: Path, problems: Problems) -> None:
        self._folder = folder
        self._problems = problems
        self._readable: dict[str, bool] = {}

    def located(self, candidate: _Candidate) -> tuple[ExperimentConfig, str] | None:
        """The configuration with absolute paths, and its hash; None if it is invalid or a file cannot be read."""
        node = candidate.node
        workload = node.fields.get("workload", node)
        # Each on its own, because a hash stops at the first that is missing; of invalid configurations, too.
        looks = [
            self._look(node.fields.get("model"), lambda model: ExperimentConfig(model=model)),
            self._look(
                workload.fields.get("source"), lambda source: ExperimentConfig(workload=Workload(source=source))
            ),
        ]
        if candidate.config is None or not all(looks):
            return None
        config = candidate.config.with_files_below(self._folder)
        return config, config.measurement_config_hash()

    def _look(self, written: Node | None, config_of: Callable[[str], ExperimentConfig]) -> bool:
        if written is None or not isinstance(written.data, str) or not written.data:
            return True
        if written.data not in self._readable:
            try:
                config_of(written.data).with_files_below(self._folder).measurement_config_hash()
            except (ConfigInvalid, ModelUnavailable) as error:
                hint = suggestion(written.data, ("builtin", "synthetic"))
                self._problems.add(written.place, error.message.rstrip(".") + (f" ({hint})" if hint else ""))
                self._readable[written.data] = False
            else:
                self._readable[written.data] = True
        return self._readable[written.data]
