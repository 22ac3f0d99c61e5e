"""Every number says what it counts: in its name, in its description, or both."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from images.contract import failure, job, parts, process, progress, result, study

RECORDS = sorted(
    {
        model
        for module in (result, parts, process, job, failure, progress, study)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model.model_fields
    },
    key=lambda model: model.__name__,
)
UNITS_IN_NAMES = {
    "j": "J", "joules": "J", "w": "W", "watts": "W", "ms": "ms", "s": "s", "sec": "s", "mb": "MB", "mhz": "MHz",
    "c": "degrees C", "tokens": "tokens", "flops": "FLOP",
}  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_number_is_described(record: type[BaseModel]) -> None:
    numbers = [name for name, info in record.model_fields.items() if _is_number(info.annotation)]
    assert [name for name in numbers if not record.model_fields[name].description] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_unit_in_a_name_is_the_unit_in_its_description(record: type[BaseModel]) -> None:
    for name, info in record.model_fields.items():
        unit = UNITS_IN_NAMES.get(name.rsplit("_", 1)[-1])
        if unit is not None and _is_number(info.annotation):
            assert re.search(rf"\b{unit}\b", info.description or ""), f"{name}: {info.description}"


def test_the_search_finds_the_records() -> None:
    assert {result.ExperimentResult, parts.RawProcessResult, failure.JobFailure} <= set(RECORDS)
    assert len(RECORDS) >= 15


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(_is_number(part) for part in get_args(annotation))
