"""The hash names a configuration: the same for the same measurement, however it was written down."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from images.contract.config import BACKENDS, ExperimentConfig, parse_config
from images.contract.job import ConfigInvalid, ModelUnavailable
from tests.images.contract import strategies

quick = settings(max_examples=80, deadline=None)

_LOGNORMAL = {"distribution": "lognormal", "median": 50}
_SYNTHETIC = {"source": "synthetic", "ignore_eos": True}
# What fields need that cannot be changed alone.
BESIDE: list[dict[str, Any]] = [
    {},
    {"workload": _SYNTHETIC},
    {"workload": {**_SYNTHETIC, "input_lengths": _LOGNORMAL}},
    {"workload": {**_SYNTHETIC, "output_lengths": _LOGNORMAL}},
    {"workload": {"arrivals": {"process": "gamma", "rate_per_s": 2.0}}},
    {"pytorch": {"torch_compile": True}},
    {"pytorch": {"quantization": "bnb_4bit"}},
    {"pytorch": {"assistant_model": "org/small"}, "batch_size": 1},
    {"vllm": {"token_times": True}},
    {"vllm": {"speculative": {"method": "ngram"}}},
    {"trt": {"token_times": True}},
    {"trt": {"engine": "tensorrt"}},
]


def digest(data: dict[str, Any]) -> str:
    return parse_config(data).measurement_config_hash()


def with_extra(extra: dict[str, Any]) -> dict[str, Any]:
    return {"backend": "vllm", "vllm": {"extra": extra}}


def test_it_is_sixteen_hex_digits() -> None:
    assert len(digest({})) == 16
    int(digest({}), 16)


@quick
@given(strategies.config_data())
def test_key_order_changes_nothing(data: dict[str, Any]) -> None:
    assert digest(_reversed_keys(data)) == digest(data)


@quick
@given(strategies.config_data())
def test_written_out_defaults_change_nothing(data: dict[str, Any]) -> None:
    config = parse_config(data)
    in_full = parse_config(config.model_dump(mode="json"))
    assert in_full == config
    assert in_full.measurement_config_hash() == config.measurement_config_hash()


@quick
@given(strategies.JSON_OBJECTS)
def test_an_integral_float_is_the_integer_at_any_depth(extra: dict[str, Any]) -> None:
    assert digest(with_extra(_as_floats(extra))) == digest(with_extra(extra))


def test_an_integer_in_a_float_field_is_the_float() -> None:
    assert digest({"sampling": {"temperature": 1}}) == digest({"sampling": {"temperature": 1.0}}) != digest({})


@quick
@given(strategies.JSON_OBJECTS)
def test_empty_mappings_are_dropped_at_any_depth(extra: dict[str, Any]) -> None:
    assert digest(with_extra(_with_empties(extra))) == digest(with_extra(extra))


@quick
@given(strategies.JSON_OBJECTS.flatmap(lambda a: st.tuples(st.just(a), _neighbours(a))))
def test_extras_have_one_hash_exactly_when_they_mean_the_same(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = pair
    assert (digest(with_extra(first)) == digest(with_extra(second))) == (_meaning(first) == _meaning(second))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_own_section_may_be_absent_null_or_empty(backend: str) -> None:
    written: list[dict[str, Any]] = [{}, {backend: None}, {backend: {}}, {backend: {"extra": {}}}]
    assert len({digest({"backend": backend, **section}) for section in written}) == 1


def test_every_field_enters_the_hash() -> None:
    """Each field of each backend is changed alone, or beside what it needs; all hashes must differ."""
    hashes = [digest({"backend": backend}) for backend in BACKENDS]
    hashes += [digest(data) for backend in BACKENDS for data in _single_changes(backend)]
    assert len(hashes) > 100
    assert len(set(hashes)) == len(hashes)


def test_a_prompt_file_enters_by_content_not_by_path(tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "elsewhere" / "b.jsonl"
    other.parent.mkdir()
    one.write_text('{"prompt": "x"}\n')
    other.write_text('{"prompt": "x"}\n')
    first = digest({"workload": {"source": str(one)}})
    assert digest({"workload": {"source": str(other)}}) == first != digest({})
    other.write_text('{"prompt": "y"}\n')
    os.utime(other, ns=(1, 1))  # a later edit of the same length
    assert digest({"workload": {"source": str(other)}}) != first


def test_a_model_folder_enters_by_names_and_content_not_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights").write_text("12")
    first = digest({"model": str(folder)})
    moved = folder.rename(tmp_path / "moved")
    assert digest({"model": str(moved)}) == first
    (moved / "sub" / "weights").rename(moved / "weights")
    renamed = digest({"model": str(moved)})
    (moved / "weights").write_text("123")
    assert len({first, renamed, digest({"model": str(moved)}), digest({})}) == 4


def test_the_hash_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    relative = {"workload": {"source": "prompts.jsonl"}}
    assert digest(relative) == digest({"workload": {"source": str(tmp_path / "prompts.jsonl")}})


@pytest.mark.parametrize("source", ["/nowhere/p.jsonl", "~no-such-user/p.jsonl", "nul\0.jsonl", "/", "/dev/zero"])
def test_an_unreadable_prompt_file_is_an_invalid_configuration(source: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"prompt file .* cannot be read \(.+\).*workload\.source"):
        digest({"workload": {"source": source}})


@pytest.mark.parametrize("model", ["/nowhere/model", "~no-such-user/model", "./nul\0"])
def test_a_model_folder_that_is_not_there_is_an_unavailable_model(model: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"model folder .* is not there"):
        digest({"model": model})


def test_an_unreadable_file_in_a_model_folder_is_not_blamed_on_the_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_text("1")

    def refuse(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root reads everything, so permissions cannot say it
    with pytest.raises(ModelUnavailable, match=r"cannot be read \(Permission denied: .*weights\)"):
        digest({"model": str(tmp_path)})


def _single_changes(backend: str) -> list[dict[str, Any]]:
    """For every leaf of the configuration, one that differs in just this leaf from one of BESIDE."""
    paths = _leaves(ExperimentConfig.model_validate({"backend": backend}), backend)
    return [_change(backend, path) for path in paths]


def _leaves(part: BaseModel, backend: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in type(part).model_fields:
        value = getattr(part, name)
        if name == "backend" or (name in BACKENDS and name != backend):
            continue
        found += [(name, *path) for path in _leaves(value, backend)] if isinstance(value, BaseModel) else [(name,)]
    return found


def _change(backend: str, path: tuple[str, ...]) -> dict[str, Any]:
    for base in [{"backend": backend, **beside} for beside in BESIDE]:
        if not _is_valid(base):
            continue  # of another backend
        part: Any = ExperimentConfig.model_validate(base)
        for name in path[:-1]:
            part = getattr(part, name)
        value = getattr(part, path[-1])
        for candidate in _candidates(value, type(part).model_fields[path[-1]].annotation):
            changed = _with(base, path, candidate)
            if candidate != value and _is_valid(changed):
                assert digest(changed) != digest(base), path
                return changed
    raise AssertionError(f"{'.'.join(path)} of {backend} never changes alone: say in BESIDE what it needs")


def _candidates(value: Any, annotation: Any) -> list[Any]:
    literals = [choice for part in (annotation, *get_args(annotation)) for choice in get_args(part)]
    return ["synthetic", {"a": 1}, [1], not value, 7, 0.5, 1.5, *literals]


def _with(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = value if len(path) == 1 else _with(data.get(path[0], {}), path[1:], value)
    return {**data, path[0]: inner}


def _is_valid(data: dict[str, Any]) -> bool:
    try:
        ExperimentConfig.model_validate(data)
    except ValidationError:
        return False
    return True


def _reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed_keys(item) for key, item in reversed(value.items())}
    return [_reversed_keys(item) for item in value] if isinstance(value, list) else value


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_floats(item) for item in value]
    return float(value) if type(value) is int else value


def _with_empties(value: Any) -> Any:
    if isinstance(value, dict):
        return {**{key: _with_empties(item) for key, item in value.items()}, "__empty": {"nested": {}}}
    return value


def _neighbours(value: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Another object: one that differs by a single value, by a type only, or in everything."""
    swaps: list[tuple[Any, Any]] = [(True, 1), (False, 0), (1, "1"), (None, "null"), ([], None), ({}, [])]
    same_key = [({**value, "k": a}, {**value, "k": b}) for a, b in swaps]
    return st.one_of(
        strategies.JSON_OBJECTS,
        strategies.JSON_VALUES.map(lambda item: {**value, "k": item}),
        st.just(_as_floats(value)),
        st.sampled_from([item for pair in same_key for item in pair]),
    )


def _meaning(value: Any) -> Any:
    """A second, independent definition of what the hash tells apart."""
    if isinstance(value, dict):
        items = {key: _meaning(item) for key, item in value.items()}
        return ("object", frozenset((key, item) for key, item in items.items() if item != ("object", frozenset())))
    if isinstance(value, list):
        return ("array", tuple(_meaning(item) for item in value))
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return (type(value).__name__, value)
    return ("number", Fraction(value))


def test_values_that_look_alike_are_told_apart() -> None:
    alike = [True, 1, "1", "True", [1], [[1]], [True], None, "null", [], [{}], 0, False, "", 0.5, "0.5", {"1": 1}]
    for (i, first), (j, second) in product(enumerate(alike), repeat=2):
        assert (digest(with_extra({"a": first})) == digest(with_extra({"a": second}))) == (i == j)


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "pytorch", "batch_size": 1, "pytorch": {"assistant_model": "FOLDER"}},
        {"backend": "vllm", "vllm": {"speculative": {"model": "FOLDER", "num_speculative_tokens": 3}}},
        {"backend": "trt", "trt": {"speculative_config": {"speculative_model_dir": "FOLDER", "max_draft_len": 3}}},
    ],
    ids=["pytorch", "vllm", "trt"],
)
def test_a_drafting_models_folder_enters_by_its_content(tmp_path: Path, options: dict[str, Any]) -> None:
    found = []
    for name, content in (("a", "1"), ("moved", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        document = json.loads(json.dumps(options).replace("FOLDER", str(tmp_path / name)))
        found.append(parse_config(document).measurement_config_hash())
    assert found[0] == found[1] != found[2]
