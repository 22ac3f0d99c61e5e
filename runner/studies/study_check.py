"""Validates parts of a study file against their models, and says what is wrong where it is written."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from runner.studies.yaml_source import Node, Place, mapping

M = TypeVar("M", bound=BaseModel)

_CROSS_FIELD = "value_error"
_MEANT = re.compile(r"did you mean '(\w+)'")
_WORD = re.compile(r"\w+")
_SWITCHES = {"on": "true", "yes": "true", "off": "false", "no": "false"}


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Attributes:
        place: where the key, value or section is written.
        field: path of the section below the model, for a rule that several of its fields break together.
    """

    place: Place
    message: str
    field: str | None = None


def check(model: type[M], node: Node, also: tuple[str, ...] = ()) -> tuple[M | None, list[Fault]]:
    """What the model makes of it, or everything that is wrong with it.

    A wrong field hides the rules about several fields, so those are looked at once more without it. What is
    found then about a field that was left out, or was meant by it, is no finding.

    Args:
        also: names that are known beside the model's, for suggestions.
    """
    value, errors = _validated(model, node.data)
    faults = [_fault(model, node, error, also) for error in errors]
    if errors:
        left_out = [path for error in errors if (path := _written(node, error["loc"]))]
        doubtful = {path[-1] for path in left_out}.union(*(_MEANT.findall(fault.message) for fault in faults))
        for error in _validated(model, _without(node, left_out).data)[1]:
            fault = _fault(model, node, error, also)
            if fault.field is not None and fault not in faults and not doubtful & set(_WORD.findall(fault.message)):
                faults.append(fault)
    return value, faults


def unknown_key(name: str, known: Iterable[str]) -> str:
    known = list(known)
    first, _, rest = name.partition(".")
    if rest and first in known:
        return f"unknown key (did you mean '{first}: {{{rest}: ...}}'?)"
    return f"unknown key ({suggestion(name, known) or 'known: ' + ', '.join(known)})"


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``; empty if nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else ""


def section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a section; None if it holds a value, or is not there."""
    field = model.model_fields.get(name)
    annotation = None if field is None else field.annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def shown(data: Any) -> str:
    """A value as it would be written, shortened."""
    if data is None:
        return "nothing"
    try:
        text = json.dumps(data, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(data)
    return text if len(text) <= 60 else reprlib.repr(data)


def _validated(model: type[M], data: Any) -> tuple[M | None, list[Any]]:
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _fault(model: type[BaseModel], node: Node, error: Any, also: tuple[str, ...]) -> Fault:
    path = _written(node, error["loc"])
    found = list(_walk(node, path))
    if error["type"] == "extra_forbidden":
        *sections, name = path
        parent = _section_at(model, sections)
        known = [*(also if not sections else ()), *(parent.model_fields if parent else ())]
        return Fault(found[-2].keys[name], unknown_key(name, known))
    if error["type"] == "missing":
        missing = ".".join(str(part) for part in error["loc"])
        return Fault(found[-1].place, f"'{missing}' is missing")
    message = _message(error)
    if error["type"] == _CROSS_FIELD and _section_at(model, path) is not None:
        return Fault(found[-1].place, message, ".".join(str(part) for part in path))
    return Fault(found[-1].place, message)


def _message(error: Any) -> str:
    got = error["input"]
    match error["type"]:
        case "literal_error":
            expected = error["ctx"]["expected"]
            close = suggestion(str(got), re.findall(r"'([^']*)'", expected))
            return f"should be {expected}, got {shown(got)}" + (f" ({close})" if close else "")
        case "model_type" | "dict_type":
            return f"should be a mapping, got {shown(got)}"
        case "value_error":
            return str(error["msg"]).removeprefix("Value error, ")
    text = error["msg"].replace("Input should", "should")
    return f"{text[0].lower()}{text[1:]}, got {shown(got)}{_hint(error['type'], got)}"


def _hint(kind: str, got: Any) -> str:
    if kind == "bool_type" and str(got) in _SWITCHES:
        return f" (write {_SWITCHES[str(got)]})"
    if kind == "string_type" and isinstance(got, int | float):
        return " (put it in quotes)"
    if kind in ("int_type", "float_type") and isinstance(got, str) and re.fullmatch(r"-?\d+(\.\d+)?", got):
        return " (without quotes)"
    return ""


def _written(node: Node, loc: Iterable[str | int]) -> list[str]:
    """The part of an error's path that leads over mappings of the file."""
    path = []
    for part in loc:
        name = str(part)
        if name not in node.fields:
            break
        path.append(name)
        node = node.fields[name]
    return path


def _walk(node: Node, path: Iterable[str]) -> Iterator[Node]:
    yield node
    for name in path:
        node = node.fields[name]
        yield node


def _section_at(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for name in path:
        current = section(current, name) if current is not None else None
    return current


def _without(node: Node, paths: list[list[str]]) -> Node:
    here = {path[0] for path in paths if len(path) == 1}
    below: dict[str, list[list[str]]] = {}
    for path in paths:
        if len(path) > 1:
            below.setdefault(path[0], []).append(path[1:])
    kept = node.without(*here)
    fields = {name: _without(child, below[name]) if name in below else child for name, child in kept.fields.items()}
    return mapping(kept.place, fields, kept.keys)
