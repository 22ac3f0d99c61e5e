"""docs/result-reference.md and docs/warehouse-reference.md: every field, column and view, from contract and schema."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import duckdb
import pyarrow as pa
from pydantic import BaseModel

from images.contract import files
from images.contract.failure import JobFailure
from images.contract.result import ExperimentResult
from images.contract.study import StudyRecord
from tests.docs.generated import joined, row, table
from warehouse.catalogue import Relation, catalogue
from warehouse.schema import SCHEMA_VERSION, create_all

_RESULT_HEAD = """# Result reference

Every field of what a cycle leaves, written from the code (`images/contract/`). How the figures are defined is in
[results.md](results.md). Units stand in brackets; `null` is not measured, never 0. Readers pass over keys that they do
not know, and refuse another major schema version.
"""
_TABLE_HEAD = """# Table reference

Every table, view and column of the warehouse, version {version}, written from the schema; `warehouse schema` prints the
same of a database. Units stand in brackets; NULL is not measured, never 0. What to ask of which is in the
[cookbook](cookbook.md), what an interval is over in [warehouse.md](warehouse.md).
"""
_DOCUMENTS: dict[str, type[BaseModel]] = {
    "result.json": ExperimentResult,
    "failure.json": JobFailure,
    "study.json": StudyRecord,
}
_TABLES_OF_SIDECARS = {files.REQUESTS_FILE: "requests", files.TIMESERIES_FILE: "samples"}
_OF_MACROS = {
    "gpu_hours": "GPU time, from output tokens/s (h)",
    "kwh": "electricity of the GPUs, times pue (kWh)",
    "gpu_cost": "price_per_gpu_hour x GPU time (currency)",
    "energy_cost": "price_per_kwh x electricity (currency)",
    "cost": "GPU time and electricity together (currency)",
    "gco2": "gco2_per_kwh x electricity (g)",
}
"""Columns that only macros have; DuckDB keeps no comments on those."""
_MILLION = re.compile(r"(\w+)_per_million_output_tokens(?:_t)?(?:_(lower|upper))?")
_ROW_OF_SIDECARS = {files.REQUESTS_FILE: "request", files.TIMESERIES_FILE: "power sample of a GPU"}


def result_page() -> str:
    lines = [_RESULT_HEAD]
    shown: set[type[BaseModel]] = set()
    for file, model in _DOCUMENTS.items():
        for part in (model, *_parts_of(model)):
            if part not in shown:
                shown.add(part)
                lines += [f"## {file}" if part is model else f"### {part.__name__}", "", *_prose(part.__doc__)]
                lines += table(("field", "type", "meaning"), list(_fields(part)))
    for file, schema in files.SIDECAR_SCHEMAS.items():
        lines += [f"## {file}", "", f"A row per {_ROW_OF_SIDECARS[file]}."]
        lines += table(("column", "type", "meaning"), list(_columns(file, schema)))
    return joined(lines)


def _parts_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        part = model_in(field.annotation)
        if part is not None:
            yield part
            yield from _parts_of(part)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, in a list, or where it is measured at all."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)


def _prose(docstring: str | None) -> Iterator[str]:
    for paragraph in (docstring or "").replace("``", "`").split("\n\n"):
        yield from (" ".join(paragraph.split()), "")


def _fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        part = model_in(field.annotation)
        see = f"[{part.__name__}](#{part.__name__.lower()})" if part else ""
        yield row(f"`{name}`", _type(field.annotation), "; ".join(filter(None, (field.description, see))))


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return " and ".join(_type(one) for one in arguments)
    if origin is dict or model_in(annotation):
        return "object"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(annotation, "time (UTC)")


def _columns(file: str, schema: pa.Schema) -> Iterator[str]:
    """Meanings are those of the warehouse's columns, which hold the same."""
    meanings = {column.name: column.comment or "" for column in relation(_TABLES_OF_SIDECARS[file]).columns}
    for field in schema:
        yield row(f"`{field.name}`", f"{field.type}{' or null' if field.nullable else ''}", meanings[field.name])


def warehouse_page() -> str:
    lines = [_TABLE_HEAD.format(version=SCHEMA_VERSION)]
    for one in relations():
        called = f"{one.name}({', '.join(one.parameters)})" if one.kind == "macro" else one.name
        lines += [f"## {called}", "", f"{one.kind.capitalize()}. {_plain(one.comment)}"]
        rows = [
            row(f"`{column.name}`", column.type, _plain(column.comment or _of_macro(column.name)))
            for column in one.columns
        ]
        lines += table(("column", "type", "meaning"), rows) if rows else [""]
    return joined(lines)


def relations() -> list[Relation]:
    with duckdb.connect() as connection:
        create_all(connection)
        return catalogue(connection)


def relation(name: str) -> Relation:
    return next(one for one in relations() if one.name == name)


def _plain(text: str | None) -> str:
    """Not read as Markdown: names have stars and underscores in them."""
    return re.sub(r"([*<])", r"\\\1", text or "")


def _of_macro(column: str) -> str:
    match = _MILLION.fullmatch(column)
    if match is None:
        return ""
    return f"{_OF_MACROS[match[1]]}{f'; {match[2]} bound' if match[2] else ''}"
