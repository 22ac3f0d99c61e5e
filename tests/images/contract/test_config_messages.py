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


SYNTHETIC = {"source": "synthetic", "ignore_eos": True}
UNIFORM, LOGNORMAL = {"distribution": "uniform"}, {"distribution": "lognormal", "median": 20}
POISSON = {"process": "poisson", "rate_per_s": 5.0}


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        ({"input_lengths": UNIFORM}, "workload: input_lengths needs source synthetic; the prompts of 'builtin' have"),
        ({"source": "synthetic", "output_lengths": UNIFORM}, "output_lengths needs ignore_eos: true"),
        (
            {**SYNTHETIC, "max_input_tokens": 8, "input_lengths": UNIFORM | {"minimum": 9}},
            "input_lengths.minimum (9) is above the workload's maximum (8)",
        ),
        (
            {**SYNTHETIC, "max_output_tokens": 19, "output_lengths": LOGNORMAL},
            "output_lengths.median (20) is above the workload's maximum (19)",
        ),
        ({"input_lengths": LOGNORMAL | {"minimum": 21}}, "workload.input_lengths: median (20) is below minimum (21)"),
        ({"input_lengths": {"distribution": "lognormal"}}, "distribution lognormal needs median, in tokens"),
        (
            {"input_lengths": UNIFORM | {"median": 5}},
            "median belongs to distribution lognormal; set that, or remove it",
        ),
        ({"input_lengths": UNIFORM | {"sigma": 0.5}}, "sigma belongs to distribution lognormal"),
        ({"input_lengths": {"minimum": 5}}, "minimum belongs to distributions uniform and lognormal"),
        ({"input_lengths": {"distribution": "normal"}}, "should be 'fixed', 'uniform' or 'lognormal', got 'normal'"),
        ({"arrivals": {"process": "poisson"}}, "workload.arrivals: process poisson needs rate_per_s"),
        ({"arrivals": {"rate_per_s": 5.0}}, "workload.arrivals: rate_per_s belongs to an open loop; set process to"),
        ({"source": "synthetic", "chat_template": "model"}, "synthetic prompts are token ids, with no text for a"),
        ({"arrivals": POISSON | {"shape": 0.5}}, "workload.arrivals: shape belongs to process gamma"),
        ({"arrivals": POISSON | {"rate_per_s": 0}}, "workload.arrivals.rate_per_s: input should be greater than"),
    ],
)
def test_lengths_and_arrivals_that_could_not_be_had_say_what_they_need(workload: dict[str, Any], says: str) -> None:
    assert says in refusal({"workload": workload})


def test_an_open_loop_goes_neither_with_a_repeated_pass_nor_with_a_steady_state() -> None:
    workload = {"arrivals": POISSON}
    assert "so raise workload.n_prompts" in refusal({"workload": workload, "measurement": {"min_window_s": 60.0}})
    steady = {"workload": workload, "measurement": {"methodology": "steady_state"}}
    assert "steady_state is of a closed batch; set methodology: total or windowed" in refusal(steady)
    parse_config({"workload": workload, "measurement": {"methodology": "windowed"}})


@pytest.mark.parametrize("backend", ["vllm", "trt"])
def test_parts_of_a_window_need_token_stamps_and_the_message_says_how_to_get_them(backend: str) -> None:
    data = {"backend": backend, "measurement": {"methodology": "windowed"}}
    assert f"which backend '{backend}' gives with {backend}.token_times: true" in refusal(data)
    assert parse_config({**data, backend: {"token_times": True}}).stamps_tokens


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
