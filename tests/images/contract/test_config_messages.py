"""parse_config: every mistake is one line that names the field and says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from images.contract.config import BACKENDS, ExperimentConfig, parse_config
from images.contract.job import ConfigInvalid, ExitCode


def refusal(data: Any) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(data)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.CONFIG_INVALID
    assert message.startswith("invalid configuration: ")
    assert message.endswith("Correct the field and run again.")
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"batch_sise": 4}, "unknown key 'batch_sise' (did you mean 'batch_size'?)"),
        ({"workload": {"n_promts": 3}}, "unknown key 'workload.n_promts' (did you mean 'n_prompts'?)"),
        (
            {"measurement": {"warmup": {"cv_treshold": 0.1}}},
            "unknown key 'measurement.warmup.cv_treshold' (did you mean 'cv_threshold'?)",
        ),
        (
            {"backend": "vllm", "vllm": {"max_num_seq": 4}},
            "unknown key 'vllm.max_num_seq' (did you mean 'max_num_seqs'?)",
        ),
        ({"sampling": {"qqq": 1}}, "unknown key 'sampling.qqq' (known: temperature, top_k, top_p)"),
    ],
)
def test_a_misspelt_key_gets_a_suggestion(data: dict[str, Any], says: str) -> None:
    assert says in refusal(data)


@pytest.mark.parametrize("own", BACKENDS)
@pytest.mark.parametrize("other", BACKENDS)
@pytest.mark.parametrize("section", [{}, {"extra": {"a": 1}}])
def test_another_backends_section_is_named(own: str, other: str, section: dict[str, Any]) -> None:
    data = {"backend": own, other: section}
    if own == other:
        assert parse_config(data).backend == own
    else:
        message = refusal(data)
        assert f"section '{other}' belongs to another backend; this experiment's backend is '{own}'" in message
        assert f"set backend: {other}" in message


def test_the_section_of_another_backend_is_refused_when_the_backend_is_left_to_its_default() -> None:
    assert "section 'vllm' belongs to another backend" in refusal({"vllm": {"max_num_seqs": 8}})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"batch_size": "8"}, "batch_size: input should be a valid integer, got '8'"),
        ({"batch_size": True}, "batch_size: input should be a valid integer, got True"),
        ({"batch_size": 8.0}, "batch_size: input should be a valid integer, got 8.0"),
        ({"batch_size": None}, "batch_size: input should be a valid integer, got None"),
        ({"trust_remote_code": "yes"}, "trust_remote_code: input should be a valid boolean, got 'yes'"),
        ({"workload": {"n_prompts": 0}}, "workload.n_prompts: input should be greater than or equal to 1, got 0"),
        ({"workload": [1]}, "workload: input should be a valid dictionary"),
        ({"dtype": "fp16"}, "dtype: input should be 'auto', 'float32', 'float16' or 'bfloat16', got 'fp16'"),
        ({"backend": "tensorrt"}, "backend: input should be 'pytorch', 'vllm', 'trt' or 'stub', got 'tensorrt'"),
        ({"backend": ["vllm"]}, "backend: input should be 'pytorch'"),
        ({"model": ""}, "model: string should have at least 1 character"),
        ({1: 2}, "keys should be strings, got 1"),
    ],
)
def test_a_wrong_type_or_value_is_named_and_shown(data: Any, says: str) -> None:
    assert says in refusal(data)


@pytest.mark.parametrize("data", [None, [], "pytorch", 3])
def test_something_other_than_a_mapping_is_refused(data: Any) -> None:
    assert "should be a valid dictionary" in refusal(data)


def test_every_mistake_is_reported_at_once() -> None:
    message = refusal({"batch_sise": 4, "seed": -1, "sampling": {"top_p": 2.0}})
    assert all(field in message for field in ("'batch_sise'", "seed: ", "sampling.top_p: "))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("path", "wrap"),
    [
        ("sampling.temperature", lambda number: {"sampling": {"temperature": number}}),
        ("measurement.min_window_s", lambda number: {"measurement": {"min_window_s": number}}),
        ("stub.window_s", lambda number: {"backend": "stub", "stub": {"window_s": number}}),
        ("pytorch.extra", lambda number: {"pytorch": {"extra": {"a": [{"b": number}]}}}),
    ],
)
def test_nan_and_infinity_are_refused(number: float, path: str, wrap: Any) -> None:
    assert f"{path}: " in refusal(wrap(number))


def test_extra_takes_only_what_json_can_hold() -> None:
    for value in (object(), {1, 2}, b"bytes", "\ud800"):
        assert "pytorch.extra: only JSON values are allowed" in refusal({"pytorch": {"extra": {"a": value}}})


@pytest.mark.parametrize("depth", [300, 5000])
def test_an_extra_nested_too_deeply_to_be_saved_is_refused_up_front(depth: int) -> None:
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"a": deep}
    assert "no deep nesting" in refusal({"pytorch": {"extra": deep}})


def test_a_huge_wrong_value_does_not_flood_the_message() -> None:
    assert "batch_size" in refusal({"batch_size": "x" * 100_000})
    assert "batch_size" in refusal({"batch_size": {str(number): "y" * 1000 for number in range(1000)}})


@pytest.mark.parametrize("backend", BACKENDS)
def test_exactly_the_own_section_is_filled(backend: Any) -> None:
    config = ExperimentConfig(backend=backend)
    assert [name for name in BACKENDS if getattr(config, name) is not None] == [backend]


def test_extra_is_passed_through_verbatim() -> None:
    extra = {"max_num_seqs": 4.0, "nested": {"empty": {}, "list": [1, 1.0, None, True, "1"]}}
    config = parse_config({"backend": "vllm", "vllm": {"extra": extra}})
    assert config.vllm is not None
    assert repr(config.vllm.extra) == repr(extra)


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    error = ConfigInvalid("first\nsecond\r\n\tthird", "Do this.\n")
    assert str(error) == "first second third Do this."
