"""The page and the schema of study files say what the code does."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from images.contract.config import ExperimentConfig
from runner.studies.settings import Adaptive
from runner.studies.study_document import FixedCycles, StudyHeader, config_paths, study_schema
from runner.studies.study_file import load_study

DOCS = Path(__file__).resolve().parents[3] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))
PAGE = DOCS / "studies.md"
HOW = "run `UPDATE_DOCS=1 .venv/bin/pytest tests/runner/studies/test_study_document.py`"
BETWEEN = re.compile(r"(?<=<!-- fields -->\n).*(?=<!-- end of fields -->)", re.DOTALL)


def test_the_schema_for_editors_is_that_of_the_code() -> None:
    path = DOCS / "study.schema.json"
    text = json.dumps(study_schema(), indent=1) + "\n"
    if os.environ.get("UPDATE_DOCS") == "1":
        path.write_text(text)
    assert path.read_text() == text, HOW


def test_the_page_lists_every_field_of_a_study() -> None:
    if os.environ.get("UPDATE_DOCS") == "1":
        PAGE.write_text(BETWEEN.sub(lambda _: table(), PAGE.read_text()))
    page = PAGE.read_text()
    assert BETWEEN.findall(page) == [table()], HOW


def table() -> str:
    rows = [
        *rows_of(StudyHeader, ""),
        *rows_of(FixedCycles, ""),
        *rows_of(Adaptive, "cycles."),
    ]
    return "\n".join(["", "| field | default | meaning |", "| --- | --- | --- |", *rows, "", ""])


def rows_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    schema = model.model_json_schema()
    for own_name, field in model.model_fields.items():
        name = field.alias or own_name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from rows_of(field.annotation, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        assert field.description, f"{prefix}{name} has no meaning; its choices alone are none"
        told = schema["properties"][name]
        choices = [choice for one in (told, *told.get("anyOf", ())) for choice in one.get("enum", ())]
        meaning = "; ".join([*([", ".join(f"`{one}`" for one in choices)] if choices else []), field.description])
        yield f"| `{prefix}{name}` | {default} | {meaning} |"
        for part in getattr(field.annotation, "__args__", ()):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from rows_of(part, f"{prefix}{name}.")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_study_with_its_own_name_and_points_at_the_schema(path: Path) -> None:
    assert load_study(path).name == path.stem
    schema = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    assert schema is not None
    assert (path.parent / schema[1]).is_file()


def test_there_are_examples_and_the_example_of_the_page_is_right(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 2
    text = next(
        block for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if "name: att" in block
    )
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(tmp_path / "study.yaml")
    assert f"{len(study.experiments)} experiments, {len(study.experiments) * 5} jobs" in PAGE.read_text()


def test_the_schema_knows_every_key_of_the_examples_and_every_field_of_a_configuration() -> None:
    schema = study_schema()
    assert set(schema["$defs"]["Grid"]["properties"]) == set(config_paths()) > set(ExperimentConfig.model_fields)
    for path in EXAMPLES:
        unknown = list(unknown_keys(yaml.safe_load(path.read_text()), schema, schema["$defs"]))
        assert unknown == []
    assert list(unknown_keys({"name": "a", "sweep": {"grid": {"seeds": [1]}}}, schema, schema["$defs"])) == ["seeds"]
    assert list(unknown_keys({"experiments": [{"pytorch": {"atn": 1}}]}, schema, schema["$defs"])) == ["atn"]


def unknown_keys(data: Any, schema: dict[str, Any], defs: dict[str, Any]) -> Iterator[str]:
    """A small reader of schemas: enough to see a key that no alternative has."""
    schema = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    wanted = "object" if isinstance(data, dict) else "array" if isinstance(data, list) else None
    alternatives = [one for one in schema.get("anyOf", ()) if "required" not in one]
    for one in alternatives:
        one = defs[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
        if one.get("type") == wanted:
            yield from unknown_keys(data, one, defs)
    if isinstance(data, list) and "items" in schema:
        for item in data:
            yield from unknown_keys(item, schema["items"], defs)
    if isinstance(data, dict) and "properties" in schema:
        for key, value in data.items():
            if key in schema["properties"]:
                yield from unknown_keys(value, schema["properties"][key], defs)
            elif not any(re.search(pattern, key) for pattern in schema.get("patternProperties", ())):
                yield key
