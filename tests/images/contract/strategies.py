"""Hypothesis strategies made from the models themselves, so that a new field is tested without being listed."""

from __future__ import annotations

import types
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types as at
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

from images.contract import config, files
from images.contract.config import BACKENDS, TINY_LLAMA
from images.contract.result import ExperimentResult

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
    return (
        st.sampled_from(BACKENDS).flatmap(_config_data_for).filter(_can_converge).filter(_has_stamps).filter(_has_work)
    )


def _has_stamps(data: dict[str, Any]) -> bool:
    methodology = (data.get("measurement") or {}).get("methodology", "total")
    return methodology == "total" or data.get("backend", "pytorch") in config.STAMPING_BACKENDS


def _has_work(data: dict[str, Any]) -> bool:
    processes = data.get("num_processes", config.ExperimentConfig.model_fields["num_processes"].default)
    prompts = (data.get("workload") or {}).get("n_prompts", config.Workload.model_fields["n_prompts"].default)
    return bool(processes <= prompts)


def _can_converge(data: dict[str, Any]) -> bool:
    warmup = config.Warmup.model_fields
    given = (data.get("measurement") or {}).get("warmup") or {}
    rounds, window = (given.get(name, warmup[name].default) for name in ("max_rounds", "window"))
    return bool(rounds >= window)


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
    if origin in (Union, types.UnionType):
        return st.one_of([_of(argument, metadata) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(_of(arguments[0], []), max_size=2)
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
        str: st.text(min_size=1 if any(isinstance(item, at.MinLen) for item in metadata) else 0, max_size=6),
        datetime: TIMES,
    }
    return atoms[annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
