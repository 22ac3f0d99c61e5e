"""YAML that remembers where everything stands, so that an error can point at the line that has to change.

Plain scalars follow the core schema of YAML 1.2: `off`, `yes` and `on` are text, `1e-3` is a number.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 50
"""Levels of nesting; no study needs as many, and what reads them is recursive."""
_MOST_NODES = 1_000_000
_MOST_BYTES = 64 * 2**20
"""After aliases are followed: a few lines of them can stand for more than any memory holds."""


class _CoreLoader(yaml.CSafeLoader):
    pass


_CoreLoader.yaml_implicit_resolvers = {}  # else those of YAML 1.1 are inherited
for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written: line and column from 1, and the path of fields that leads there."""

    line: int
    column: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.path}" if self.path else f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value, its parts, and where it is written.

    Attributes:
        data: as plain Python.
        fields: of a mapping, in written order; empty for anything else.
        keys: where each field's name is written.
        items: of a list.
    """

    place: Place
    data: Any
    fields: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    items: tuple[Node, ...] = ()

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.data, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.data, list)

    def without(self, *names: str) -> Node:
        kept = {name: node for name, node in self.fields.items() if name not in names}
        return mapping(self.place, kept, {name: self.keys[name] for name in kept})


def mapping(place: Place, fields: dict[str, Node], keys: dict[str, Place]) -> Node:
    return Node(place, {name: node.data for name, node in fields.items()}, fields, keys)


class Problems:
    """Everything that is wrong with one file. The same thing at the same place counts once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[tuple[Place, str], None] = {}
        self._unread: set[Place] = set()

    def add(self, place: Place, message: str) -> None:
        if place not in self._unread:
            self._found[place, message] = None

    def unread(self, place: Place, message: str) -> None:
        """What stands here has no value, so nothing more can be said about it."""
        self.add(place, message)
        self._unread.add(place)

    def __bool__(self) -> bool:
        return bool(self._found)

    def lines(self) -> list[str]:
        """``file:line:column: field.path: message`` each, in the file's order."""
        found = sorted(self._found, key=lambda problem: (problem[0].line, problem[0].column))
        return [_printable(f"{self._path}:{place}: {' '.join(text.split())}") for place, text in found]


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def read_yaml(path: Path, problems: Problems) -> Node | None:
    """The file's one document; None if it cannot be read as YAML at all.

    Raises:
        OSError: the file cannot be read.
    """
    if not stat.S_ISDIR(path.stat().st_mode) and (not path.is_file() or path.stat().st_size > _MOST_BYTES):
        problems.add(Place(1, 1), f"not a file of at most {_MOST_BYTES >> 20} MiB")
        return None
    text = _decode(path.read_bytes(), problems)
    if text is None:
        return None
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.reader.ReaderError as error:
        problems.add(
            _place_of(text[: error.position]), f"a character that YAML does not allow (U+{error.character:04X})"
        )
        return None
    except yaml.MarkedYAMLError as error:
        problems.add(*_syntax_error(text, error))
        return None
    if root is None:
        problems.add(Place(1, 1), "the file is empty")
        return None
    return _Reader(problems).node(root, "", 0)


def _decode(content: bytes, problems: Problems) -> str | None:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        problems.add(_place_of(before), f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8")
        return None


def _place_of(before: str) -> Place:
    """The place that follows this text."""
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> tuple[Place, str]:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Place(1, 1), f"not YAML: {error.problem}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    problem = str(error.problem)
    if line[mark.column : mark.column + 1] == "\t" or "tab character" in problem:
        return Place(mark.line + 1, line.find("\t") + 1), "a tab; YAML is indented with spaces"
    if "another document" in problem:
        problem = "a second document begins here; a study file holds one"
    elif line[mark.column : mark.column + 1] in ("@", "`", "%"):
        problem = f"a value that begins with {line[mark.column]} has to be in quotes"
    elif error.context:
        problem = f"not YAML: {problem} ({error.context})"
    else:
        problem = f"not YAML: {problem}"
    return Place(mark.line + 1, mark.column + 1), problem


class _Reader:
    """Turns composed nodes into ours. What an anchor names is read once, where it is written."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._done: dict[int, Node] = {}
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def node(self, raw: yaml.Node, path: str, depth: int) -> Node:
        if id(raw) in self._done:
            return self._done[id(raw)]
        place = Place(raw.start_mark.line + 1, raw.start_mark.column + 1, path)
        if id(raw) in self._open:
            return self._refuse(place, "an alias of what it is inside of")
        if depth > _DEEPEST:
            return self._refuse(place, f"nested more than {_DEEPEST} levels deep")
        self._open.add(id(raw))
        self._sizes[id(raw)] = 1
        node = self._convert(raw, place, depth)
        self._open.remove(id(raw))
        self._done[id(raw)] = node
        return node

    def _refuse(self, place: Place, message: str) -> Node:
        self._problems.unread(place, message)
        return Node(place, None)

    def _convert(self, raw: yaml.Node, place: Place, depth: int) -> Node:
        kind = raw.tag.removeprefix(_TAG)
        if isinstance(raw, yaml.MappingNode) and kind == "map":
            return self._mapping(raw, place, depth)
        if isinstance(raw, yaml.SequenceNode) and kind == "seq":
            items = []
            for index, item in enumerate(raw.value):
                items.append(self.node(item, f"{place.path}[{index}]", depth + 1))
                if not self._fits(raw, item):
                    return self._refuse(place, "its aliases stand for more than can be read")
            return Node(place, [item.data for item in items], items=tuple(items))
        if isinstance(raw, yaml.ScalarNode):
            return self._scalar(raw, kind, place)
        return self._refuse(place, f"the tag {raw.tag} is not supported")

    def _fits(self, raw: yaml.Node, part: yaml.Node) -> bool:
        self._sizes[id(raw)] += self._sizes.get(id(part), 1)
        return self._sizes[id(raw)] <= _MOST_NODES

    def _scalar(self, raw: yaml.ScalarNode, kind: str, place: Place) -> Node:
        try:
            return Node(place, _scalar(kind, raw.value))
        except KeyError:
            return self._refuse(place, f"the tag {raw.tag} is not supported")
        except ValueError:
            return self._refuse(place, f"'{raw.value[:40]}' is no {kind}")

    def _mapping(self, raw: yaml.MappingNode, place: Place, depth: int) -> Node:
        fields: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Node] = []
        for raw_key, raw_value in raw.value:
            at = Place(raw_key.start_mark.line + 1, raw_key.start_mark.column + 1, place.path)
            name = self._key(raw_key, at)
            if name is None:
                continue
            at = Place(at.line, at.column, f"{place.path}.{name}".lstrip("."))
            value = self.node(raw_value, at.path, depth + 1)
            if not self._fits(raw, raw_value):
                return self._refuse(place, "its aliases stand for more than can be read")
            if name in keys:
                self._problems.add(at, f"the key '{name}' is already at line {keys[name].line}")
                continue
            keys[name] = at
            if raw_key.tag == _TAG + "merge":
                merged = list(self._merged(value))
            else:
                fields[name] = value
        for source in merged:  # what is written here wins, then what comes first in the list
            for name, value in source.fields.items():
                if fields.setdefault(name, value) is value:
                    keys.setdefault(name, source.keys[name])
        return mapping(place, fields, {name: keys[name] for name in fields})

    def _key(self, raw: yaml.Node, place: Place) -> str | None:
        if raw.tag in (_TAG + "str", _TAG + "merge"):
            return str(raw.value)
        shown = f"'{raw.value}'" if isinstance(raw, yaml.ScalarNode) else "this"
        self._problems.add(place, f"{shown} is not a name; a key that is not text has to be in quotes")
        return None

    def _merged(self, value: Node) -> Iterator[Node]:
        for source in value.items if value.is_list else (value,):
            if source.is_mapping:
                yield source
            else:
                self._problems.add(source.place, "<< takes a mapping, or a list of them, such as *name")


def _scalar(kind: str, text: str) -> str | int | float | bool | None:
    """
    Raises:
        ValueError: the text is none of that kind.
        KeyError: there is no such kind.
    """
    match kind:
        case "str" | "merge":
            return text
        case "null":
            return None
        case "bool":
            return bool(["false", "true"].index(text.lower()))
        case "int":
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise KeyError(kind)
