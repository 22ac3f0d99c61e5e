"""Hypothesis strategies made from the models themselves, so that a new field is tested without being listed."""

from __future__ import annotations

import types
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types as at
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, ValidationError

from images.contract import config, files
from images.contract.config import BACKENDS, TINY_LLAMA
from images.contract.result import ExperimentResult
from images.contract.work import ArrivalProcess, Lengths, Workload

M = TypeVar("M", bound=BaseModel)
Strategy = SearchStrategy[Any]

SHORT_TEXT = st.text(max_size=6)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | SHORT_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT_TEXT, inner, max_size=3),
    max_leaves=6,
)
JSON_OBJECTS = st.dictionaries(SHORT_TEXT, JSON_VALUES, max_size=3)
TIMES = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([None, timezone.utc, timezone(timedelta(hours=-9, minutes=-30))]),  # noqa: UP017
)


def results() -> SearchStrategy[ExperimentResult]:
    """Any result whose sidecar fields are the ones that save accepts."""
    sidecars: dict[str, Strategy] = {
        "timeseries": st.sampled_from([None, files.TIMESERIES_FILE]),
        "requests": st.sampled_from([None, files.REQUESTS_FILE]),
    }
    return records(ExperimentResult, schema_version=st.just("2.0"), **sidecars)


def records(model: type[M], **fixed: Strategy) -> SearchStrategy[M]:
    """Instances with every field drawn from its type."""
    fields = {
        name: fixed[name] if name in fixed else _of(info.annotation, info.metadata)
        for name, info in model.model_fields.items()
    }
    return st.fixed_dictionaries(fields).map(lambda values: model(**values))


def config_data() -> SearchStrategy[dict[str, Any]]:
    """What a person may write: any part of the fields, defaults or not; no local files."""
    return st.sampled_from(BACKENDS).flatmap(_config_data_for).map(_what_goes_together)


def _what_goes_together(data: dict[str, Any]) -> dict[str, Any]:
    """`data` without what the models refuse beside the rest: taken whole where it can be, else part by part."""
    kept = {"backend": data["backend"]}
    _take(kept, kept, data)
    return kept


def _take(whole: dict[str, Any], part: dict[str, Any], items: dict[str, Any]) -> None:
    for key, value in items.items():
        part[key] = value
        if _is_valid(whole):
            continue
        part[key] = {}
        if isinstance(value, dict) and _is_valid(whole):
            _take(whole, part[key], value)
        else:
            del part[key]


def _is_valid(data: dict[str, Any]) -> bool:
    try:
        config.ExperimentConfig.model_validate(data)
    except ValidationError:
        return False
    return True


def _config_data_for(backend: str) -> SearchStrategy[dict[str, Any]]:
    optional = _optional(config.ExperimentConfig)
    optional |= {name: st.just(None) for name in BACKENDS}
    optional[backend] = _data(config.ExperimentConfig.model_fields[backend].annotation)
    return st.fixed_dictionaries({"backend": st.just(backend)}, optional=optional)


def _optional(part: type[BaseModel]) -> dict[str, Strategy]:
    fixed: dict[str, Strategy] = {
        "source": st.sampled_from(["builtin", "synthetic"]),
        "model": st.sampled_from([TINY_LLAMA, "org/a", "org/b"]),
    }
    if part is Workload:  # fields that only go together, which hardly ever happens by chance
        lengths = {"distribution": st.just("lognormal"), "median": st.integers(1, 9)}
        arrivals = {"process": st.sampled_from(["fixed", "poisson", "gamma"]), "rate_per_s": st.floats(0.001, 1e5)}
        fixed["input_lengths"] = fixed["output_lengths"] = _data(Lengths) | st.fixed_dictionaries(lengths)
        fixed["arrivals"] = _data(ArrivalProcess) | st.fixed_dictionaries(arrivals)
    return {
        name: fixed[name] if name in fixed else _data(info.annotation, info.metadata)
        for name, info in part.model_fields.items()
        if name not in ("backend", *BACKENDS)
    }


def _data(annotation: Any, metadata: list[Any] | None = None) -> Strategy:
    parts = [part for part in (annotation, *get_args(annotation)) if _is_model(part)]
    if parts:
        return st.fixed_dictionaries({}, optional=_optional(parts[0]))
    return _of(annotation, metadata or [])


def _of(annotation: Any, metadata: list[Any]) -> Strategy:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        constraints = [part for item in arguments[1:] for part in getattr(item, "metadata", [item])]
        return _of(arguments[0], constraints)
    if origin in (Union, types.UnionType):
        return st.one_of([_of(argument, metadata) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(_of(arguments[0], []), min_size=_least(metadata), max_size=2)
    if origin is tuple:
        return st.tuples(*(_of(argument, []) for argument in arguments))
    if origin is dict:
        return JSON_OBJECTS if arguments[1] is Any else st.dictionaries(SHORT_TEXT, _of(arguments[1], []), max_size=2)
    if _is_model(annotation):
        return records(annotation)
    return _of_atom(annotation, metadata)


def _of_atom(annotation: Any, metadata: list[Any]) -> Strategy:
    low: Any = next((item.ge for item in metadata if isinstance(item, at.Ge)), None)
    above: Any = next((item.gt for item in metadata if isinstance(item, at.Gt)), None)
    high: Any = next((item.le for item in metadata if isinstance(item, at.Le)), None)
    atoms: dict[Any, Strategy] = {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(low, high),
        float: st.floats(
            low if above is None else above,
            high,
            exclude_min=above is not None,
            allow_nan=False,
            allow_infinity=False,
        ),
        # A model that begins like a path is looked for on this machine.
        str: st.text(min_size=_least(metadata), max_size=6).filter(lambda text: not text.startswith(("/", ".", "~"))),
        datetime: TIMES,
    }
    return atoms[annotation]


def _least(metadata: list[Any]) -> int:
    return next((item.min_length for item in metadata if isinstance(item, at.MinLen)), 0)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
