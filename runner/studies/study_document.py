"""What a study file says once for all experiments, and the JSON Schema of the whole file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from pydantic.json_schema import models_json_schema

from images.contract.config import BACKENDS, ExperimentConfig
from images.contract.scheduling import Order, Placement
from runner.studies.cluster_settings import KubernetesSettings
from runner.studies.settings import Adaptive, CoolDown, LauncherSettings, Part, Retries, Timeouts
from runner.studies.study_check import section

LONGEST_NAME = 60
IGNORED = "x-"
"""What top-level keys begin with that only hold anchors."""
_REF = "#/$defs/{model}"


def _pattern(signs: str) -> str:
    """Fit for a folder's name: no leading dot or dash, no space at the end."""
    return rf"^(?=.{{1,{LONGEST_NAME}}}$)[A-Za-z0-9_]([A-Za-z0-9 {signs}]*[A-Za-z0-9{signs}])?$"


def _is_name(signs: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if not re.fullmatch(_pattern(signs).removesuffix("$"), name):
            raise ValueError(
                f"{name!r} is no name: letters, digits, spaces and {' '.join(signs)}, a letter, digit or _ first, no "
                f"space last, at most {LONGEST_NAME} characters"
            )
        return name

    return check


_STUDY_SIGNS = "._-"
_EXPERIMENT_SIGNS = "._=,+-"


class StudyHeader(Part):
    """Everything beside cycles and experiments."""

    name: Annotated[
        str,
        AfterValidator(_is_name(_STUDY_SIGNS)),
        WithJsonSchema({"type": "string", "pattern": _pattern(_STUDY_SIGNS)}),
    ] = Field(description="of the study; its results are in results/NAME")
    seed: int = Field(42, ge=0, description="of the order")
    order: Order = Field("shuffled", description="of the experiments inside a block")
    placement: Placement = Field("block", description="any fills every GPU, and confounds GPU and experiment")
    launcher: LauncherSettings = LauncherSettings()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    cool_down: CoolDown = CoolDown()
    kubernetes: KubernetesSettings = KubernetesSettings()


class FixedCycles(Part):
    cycles: int = Field(3, ge=1, le=100_000, description="repetitions of every experiment")


class ExperimentName(Part):
    name: (
        Annotated[
            str,
            AfterValidator(_is_name(_EXPERIMENT_SIGNS)),
            WithJsonSchema({"type": "string", "pattern": _pattern(_EXPERIMENT_SIGNS)}),
        ]
        | None
    ) = Field(None, description="in results and tables; made of the settings if left out")


def config_paths() -> list[str]:
    """Every field and section of a configuration, as ``field.path``."""
    return list(_paths(ExperimentConfig, ""))


def _paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name in model.model_fields:
        yield prefix + name
        part = section(model, name)
        if part is not None:
            yield from _paths(part, f"{prefix}{name}.")


def study_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, for editors. It knows every field, but no rule about several of them."""
    models: list[type[BaseModel]] = [StudyHeader, FixedCycles, Adaptive, ExperimentConfig, ExperimentName]
    defs = models_json_schema([(model, "validation") for model in models], ref_template=_REF)[1]["$defs"]
    header, fixed, named = (defs.pop(model.__name__) for model in (StudyHeader, FixedCycles, ExperimentName))
    config = defs["ExperimentConfig"]
    name = next(one for one in named["properties"]["name"]["anyOf"] if one["type"] == "string")
    name["description"] = named["properties"]["name"]["description"]
    defs["Experiment"] = config | {"properties": {"name": name} | config["properties"]}
    defs["Grid"], defs["Exclusion"] = _grid_and_exclusion(defs)
    defs["Sweep"] = {
        "type": "object",
        "description": "Every combination of the grid's values is an experiment.",
        "properties": {
            "name": name | {"description": "what the names of its experiments begin with"},
            "base": _ref("ExperimentConfig", "merged below every point of this sweep"),
            "grid": _ref("Grid"),
            "exclude": {"type": "array", "items": _ref("Exclusion"), "description": "points that are left out"},
        },
        "required": ["grid"],
        "additionalProperties": False,
    }
    properties = header["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "joulehouse study",
        "type": "object",
        "properties": {
            "name": properties.pop("name"),
            "cycles": {
                "anyOf": [fixed["properties"]["cycles"] | {"title": "Fixed"}, _ref("Adaptive")],
                "default": FixedCycles().cycles,
                "description": "repetitions of every experiment: a number, or the rule that finds it",
            },
            **properties,
            "defaults": _ref("ExperimentConfig", "merged below every experiment; sections of all backends may be here"),
            "experiments": {"type": "array", "items": _ref("Experiment")},
            "sweep": {"anyOf": [_ref("Sweep"), {"type": "array", "items": _ref("Sweep")}]},
        },
        "patternProperties": {f"^{IGNORED}": {"description": "ignored; a place for anchors"}},
        "required": ["name"],
        "anyOf": [{"required": ["experiments"]}, {"required": ["sweep"]}],
        "additionalProperties": False,
        "$defs": dict(sorted(defs.items())),
    }


def _ref(name: str, description: str | None = None) -> dict[str, Any]:
    return {"$ref": _REF.format(model=name)} | ({"description": description} if description else {})


def _grid_and_exclusion(defs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    values = {path: _schema_at(defs, path) for path in config_paths()}
    free = rf"^({'|'.join(BACKENDS)})\.extra\."
    grid = {
        "type": "object",
        "description": "Any field of an experiment by its path, with a list of values.",
        "properties": {
            path: {"type": "array", "minItems": 1, "items": value, "description": value.get("description", "")}
            for path, value in values.items()
        },
        "patternProperties": {free: {"type": "array", "minItems": 1}},
        "minProperties": 1,
        "additionalProperties": False,
    }
    exclusion = {
        "type": "object",
        "description": "A point that has all of these is left out. A list is: one of them.",
        "properties": {path: {"anyOf": [value, {"type": "array", "items": value}]} for path, value in values.items()},
        "patternProperties": {free: {}},
        "minProperties": 1,
        "additionalProperties": False,
    }
    return grid, exclusion


def _schema_at(defs: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of one field, without its default, which says nothing about a list of values."""
    *sections, name = path.split(".")
    model: type[BaseModel] | None = ExperimentConfig
    for part in sections:
        model = section(model, part) if model is not None else None
    if model is None:
        raise KeyError(path)
    found: dict[str, Any] = defs[model.__name__]["properties"][name]
    return {key: value for key, value in found.items() if key not in ("default", "title")}
