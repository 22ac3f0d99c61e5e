"""Points of a sweep: every combination of the grid's values, less the excluded ones, with readable names."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from images.contract.config import BACKENDS, ExperimentConfig
from runner.studies.study_check import check, shown, suggestion
from runner.studies.study_document import LONGEST_NAME, config_paths
from runner.studies.yaml_source import Node, Place, Problems, mapping

SWEEP_KEYS = ("name", "base", "grid", "exclude")
_MOST_POINTS = 100_000
_FIELDS = config_paths()
_UNSAFE = re.compile(r"[^A-Za-z0-9._+]+")


@dataclass(frozen=True, slots=True)
class Point:
    """One combination.

    Attributes:
        node: its configuration, with where each part of it is written.
        config: None if it is invalid.
    """

    label: str
    node: Node
    config: ExperimentConfig | None


@dataclass(frozen=True, slots=True)
class _Grid:
    """
    Attributes:
        values: those of each key that are valid.
        sound: whether these are all that is written.
    """

    node: Node
    values: dict[str, list[Node]]
    sound: bool


_Settings = dict[str, Node]


def points_of(sweep: Node, prefix: str | None, defaults: Node, problems: Problems) -> list[Point]:
    """All points that are not excluded.

    Args:
        prefix: what names begin with.
        defaults: merged below every point, only with what its backend can take.
    """
    base = mapping_in(sweep, "base", problems)
    check_shared(base, problems)
    written = sweep.fields.get("grid")
    if written is None or not written.data:
        place = sweep.place if written is None else written.place
        problems.add(place, "an empty grid; it takes fields with lists of values, such as batch_size: [1, 4]")
        return []
    grid = _read_grid(mapping_in(sweep, "grid", problems), problems)
    exclusions = _read_exclusions(sweep, grid, problems)
    if not all(grid.values.values()) or not grid.values:
        return []  # without one of its keys no combination is what was meant
    settings = list(_combinations(grid, backend_of(defaults, base), problems))
    settings = _without_excluded(settings, exclusions, sweep, grid, problems)
    varying = [key for key, listed in grid.node.fields.items() if len(listed.items) > 1] or list(grid.node.fields)
    named = [{key: values[key].data for key in varying if key in values} for values in settings]
    nodes = _configurations(sweep, grid, settings, defaults, base)
    return list(_checked(sweep, labels_of(named, prefix), nodes, problems))


def mapping_in(parent: Node, name: str, problems: Problems) -> Node:
    """The mapping under that name; an empty one if it is not there, or is none."""
    node = parent.fields.get(name)
    if node is not None and node.is_mapping:
        return node
    if node is not None:
        problems.add(node.place, f"should be a mapping, got {shown(node.data)}")
    return mapping(parent.place, {}, {})


def list_in(parent: Node, name: str, problems: Problems) -> tuple[Node, ...]:
    """The list under that name; an empty one if it is not there, or is none."""
    node = parent.fields.get(name)
    if node is not None and not node.is_list:
        problems.add(node.place, f"should be a list, got {shown(node.data)}")
    return () if node is None else node.items


def check_shared(node: Node, problems: Problems) -> None:
    """What stands below several experiments: sections of all backends may be there, and none is complete."""
    parts = [node.without(*BACKENDS)]
    for name in BACKENDS:
        if name in node.fields:
            backend = Node(node.place, name)
            fields, keys = {"backend": backend, name: node.fields[name]}, {"backend": node.place, name: node.keys[name]}
            parts.append(mapping(node.place, fields, keys))
    for part in parts:
        for fault in check(ExperimentConfig, part)[1]:
            if fault.field is None:
                problems.add(fault.place, fault.message)


def merge(below: Node, above: Node) -> Node:
    """Sections are merged field by field; anything else is replaced."""
    if not (below.is_mapping and above.is_mapping) or not below.fields:
        return above
    fields, keys = dict(below.fields), below.keys | above.keys
    for name, node in above.fields.items():
        fields[name] = merge(fields[name], node) if name in fields else node
    return mapping(above.place, fields, keys)


def applicable(node: Node, backend: str) -> Node:
    """`node` without the sections of other backends."""
    foreign = [name for name in BACKENDS if name != backend and name in node.fields]
    return node.without(*foreign) if foreign else node


def backend_of(*nodes: Node) -> str:
    """The backend that is written last, or the default; it may be none that exists."""
    default = ExperimentConfig.model_fields["backend"].default
    return str(next((node.fields["backend"].data for node in reversed(nodes) if "backend" in node.fields), default))


def labels_of(points: list[dict[str, Any]], prefix: str | None = None) -> list[str]:
    """``batch_size=4,attn_implementation=eager`` each, or ``batch_size=4,eager`` if any would be too long else.

    They are fit for file names, but may still be too long, or not unique.
    """
    front = f"{prefix}-" if prefix else ""
    labels: list[str] = []
    for is_short in (False, True):
        labels = [front + ",".join(_parts(settings, is_short)) for settings in points]
        if max(map(len, labels), default=0) <= LONGEST_NAME:
            break
    return labels


def _parts(settings: dict[str, Any], is_short: bool) -> Iterator[str]:
    names = _short_names(list(settings))
    for key, value in settings.items():
        yield _text(value) if is_short and isinstance(value, str) else f"{names[key]}={_text(value)}"


def _short_names(keys: list[str]) -> dict[str, str]:
    """The shortest end of each path that no other one has."""
    endings = {key: [".".join(key.split(".")[-length:]) for length in range(1, key.count(".") + 2)] for key in keys}
    uses = [ending for of_one in endings.values() for ending in of_one]
    return {key: next((end for end in ends if uses.count(end) == 1), key) for key, ends in endings.items()}


def _text(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else json.dumps(value)
    return _UNSAFE.sub("-", text).strip("-") or "none"


def _read_grid(node: Node, problems: Problems) -> _Grid:
    values: dict[str, list[Node]] = {}
    for key, listed in node.fields.items():
        values[key] = []
        if unknown := _unknown_path(key):
            problems.add(node.keys[key], unknown)
        elif not listed.is_list:
            problems.add(listed.place, f"should be a list of values, got {shown(listed.data)}")
        elif not listed.items:
            problems.add(listed.place, "the list of values is empty")
        else:
            values[key] = [item for item in listed.items if _valid_alone(key, node.keys[key], item, problems)]
    return _Grid(node, values, all(len(values[key]) == len(node.fields[key].items) > 0 for key in values))


def _valid_alone(key: str, key_place: Place, value: Node, problems: Problems) -> bool:
    """Says what is wrong with a value once, however many points have it."""
    backend = Node(value.place, _scope(key) or backend_of())
    below = mapping(value.place, {"backend": backend}, {"backend": value.place})
    faults = check(ExperimentConfig, merge(below, _nested(key, key_place, value, value.place)))[1]
    own = [fault for fault in faults if fault.field is None]
    for fault in own:
        problems.add(fault.place, fault.message)
    return not own


def _nested(key: str, key_place: Place, value: Node, place: Place) -> Node:
    for name in reversed(key.split(".")):
        value = mapping(place, {name: value}, {name: key_place})
    return value


def _scope(key: str) -> str | None:
    first = key.partition(".")[0]
    return first if first in BACKENDS else None


def _unknown_path(key: str) -> str | None:
    """What is wrong with the path of a configuration field; None if there is such a field."""
    if key in _FIELDS or re.fullmatch(rf"({'|'.join(BACKENDS)})\.extra(\.[^.]+)+", key):
        return None
    same_end = [path for path in _FIELDS if path.endswith(f".{key}")]
    if same_end:
        return f"unknown key (did you mean {' or '.join(map(repr, same_end))}?)"
    return f"unknown key ({suggestion(key, _FIELDS) or 'docs/configuration.md lists all fields'})"


def _combinations(grid: _Grid, default_backend: str, problems: Problems) -> Iterator[_Settings]:
    """A backend's own keys multiply only the combinations that have this backend."""
    common = {key: values for key, values in grid.values.items() if _scope(key) is None}
    backends = [node.data for node in common.get("backend", [])] or [default_backend]
    own = {name: {key: grid.values[key] for key in grid.values if _scope(key) == name} for name in backends}
    for key in grid.values:
        if grid.sound and _scope(key) not in (None, *backends):
            problems.add(grid.node.keys[key], f"no point of this sweep has backend '{_scope(key)}'")
    rest = math.prod(len(values) for key, values in common.items() if key != "backend")
    count = rest * sum(math.prod(map(len, own[name].values())) for name in backends)
    if count > _MOST_POINTS:
        problems.add(grid.node.place, f"{count:,} combinations are more than the {_MOST_POINTS:,} a sweep can have")
        return
    for chosen in itertools.product(*common.values()):
        settings = dict(zip(common, chosen, strict=True))
        scoped = own[settings["backend"].data if "backend" in settings else default_backend]
        for more in itertools.product(*scoped.values()):
            unordered = settings | dict(zip(scoped, more, strict=True))
            yield {key: unordered[key] for key in grid.values if key in unordered}


def _read_exclusions(sweep: Node, grid: _Grid, problems: Problems) -> list[Node]:
    """Those whose keys and values are all in the grid."""
    good = []
    for exclusion in list_in(sweep, "exclude", problems):
        if not exclusion.is_mapping or not exclusion.fields:
            problems.add(exclusion.place, f"should be a mapping of keys of the grid, got {shown(exclusion.data)}")
            continue
        strange = [key for key in exclusion.fields if not _is_in_grid(exclusion, key, grid, problems)]
        if not strange:
            good.append(exclusion)
    return good


def _is_in_grid(exclusion: Node, key: str, grid: _Grid, problems: Problems) -> bool:
    if key not in grid.node.fields:
        hint = suggestion(key, grid.node.fields) or f"its keys: {', '.join(grid.node.fields)}"
        problems.add(exclusion.keys[key], f"the grid has no key '{key}' ({hint})")
        return False
    known = [item.data for item in grid.node.fields[key].items]
    value = exclusion.fields[key]
    strange = [one for one in _alternatives(value, known) if not _among(one.data, known)]
    for one in strange:
        hint = suggestion(str(one.data), map(str, known)) or f"its values: {', '.join(map(shown, known))}"
        problems.add(one.place, f"the grid has no value {shown(one.data)} of '{key}' ({hint})")
    return not strange


def _alternatives(value: Node, known: list[Any]) -> tuple[Node, ...]:
    """A list is a list of values, unless the grid's values are lists themselves."""
    return value.items if value.is_list and not _among(value.data, known) else (value,)


def _among(value: Any, known: Iterable[Any]) -> bool:
    return any(one == value and isinstance(one, bool) == isinstance(value, bool) for one in known)


def _without_excluded(
    points: list[_Settings], exclusions: list[Node], sweep: Node, grid: _Grid, problems: Problems
) -> list[_Settings]:
    kept = points
    for exclusion in exclusions:
        wanted = {
            key: [one.data for one in _alternatives(value, [item.data for item in grid.node.fields[key].items])]
            for key, value in exclusion.fields.items()
        }
        matched = [point for point in points if _matches(point, wanted)]
        if not matched and grid.sound:
            problems.add(exclusion.place, "no point of the sweep matches this exclusion")
        gone = {id(point) for point in matched}
        kept = [point for point in kept if id(point) not in gone]
    if points and not kept:
        problems.add(sweep.fields["exclude"].place, f"the exclusions leave none of the sweep's {len(points)} points")
    return kept


def _matches(point: _Settings, wanted: dict[str, list[Any]]) -> bool:
    return all(key in point and _among(point[key].data, values) for key, values in wanted.items())


def _configurations(sweep: Node, grid: _Grid, settings: list[_Settings], defaults: Node, base: Node) -> Iterator[Node]:
    shared: dict[str, Node] = {}
    for values in settings:
        backend = values["backend"].data if "backend" in values else backend_of(defaults, base)
        if backend not in shared:
            shared[backend] = merge(applicable(defaults, backend), applicable(base, backend))
        node = shared[backend]
        for key, value in values.items():
            node = merge(node, _nested(key, grid.node.keys[key], value, sweep.place))
        yield node


def _checked(sweep: Node, labels: list[str], nodes: Iterable[Node], problems: Problems) -> Iterator[Point]:
    """A rule that several fields break together is said once, with the number of points that break it."""
    broken: dict[tuple[str, str], list[str]] = {}
    for label, node in zip(labels, nodes, strict=True):
        config, faults = check(ExperimentConfig, node)
        yield Point(label, node, config)
        for fault in faults:
            if fault.field is not None and fault.place == sweep.place:
                broken.setdefault((fault.field, fault.message), []).append(label)
            else:
                problems.add(fault.place, fault.message)
    for (field, message), among in broken.items():
        others = f" and {len(among) - 1} more" if len(among) > 1 else ""
        problems.add(sweep.place, f"{field}{': ' if field else ''}{message} (point {among[0]}{others})")
