"""From a configuration to the engine's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid
from images.contract.options.vllm import VllmOptions
from images.vllm.arguments import PASSED, engine_arguments

OTHERWISE = {"token_times", "extra", "speculative", "compilation_mode", "cudagraph_mode"}


def arguments(*, cpu: bool = False, **document: Any) -> dict[str, Any]:
    config = parse_config({"backend": "vllm", **document})
    return engine_arguments(config, "model", config.dtype, "log.json", cpu=cpu)


def test_every_option_reaches_the_engine() -> None:
    assert set(VllmOptions.model_fields) == {*PASSED, *OTHERWISE}


def test_requests_in_flight_are_batch_size_unless_the_engine_is_told_otherwise() -> None:
    assert arguments(batch_size=24)["max_num_seqs"] == 24
    assert arguments(batch_size=24, vllm={"max_num_seqs": 3})["max_num_seqs"] == 3


def test_what_is_not_set_is_left_to_the_engine() -> None:
    assert "enable_prefix_caching" not in arguments()
    assert "kv_cache_memory_bytes" not in arguments()
    assert "speculative_config" not in arguments()


def test_on_the_cpu_the_kv_cache_does_not_take_all_memory_unless_told_to() -> None:
    assert arguments(cpu=True)["kv_cache_memory_bytes"] == 2**30
    assert "kv_cache_memory_bytes" not in arguments(cpu=True, vllm={"gpu_memory_utilization": 0.2})


def test_on_the_cpu_prompts_are_not_split_where_tokens_are_drawn_from_a_seed() -> None:
    sampling = {"temperature": 1.0}
    assert arguments(cpu=True, sampling=sampling)["enable_chunked_prefill"] is False
    assert "enable_chunked_prefill" not in arguments(cpu=True)
    assert "enable_chunked_prefill" not in arguments(sampling=sampling)
    with pytest.raises(ConfigInvalid, match="split prompts"):
        arguments(cpu=True, sampling=sampling, vllm={"enable_chunked_prefill": True})


def test_compilation_and_speculation_are_put_together_as_the_engine_wants_them() -> None:
    made = arguments(
        vllm={
            "cudagraph_mode": "FULL",
            "extra": {"compilation_config": {"custom_ops": ["all"]}},
            "speculative": {"method": "ngram", "num_speculative_tokens": 3},
        }
    )
    assert made["compilation_config"] == {"custom_ops": ["all"], "cudagraph_mode": "FULL"}
    assert made["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 3}


def test_extra_reaches_the_engine_untouched() -> None:
    assert arguments(vllm={"extra": {"skip_tokenizer_init": True}})["skip_tokenizer_init"] is True


@pytest.mark.parametrize("name", ["max_num_seqs", "dtype", "tensor_parallel_size", "disable_log_stats"])
def test_extra_may_not_override_what_is_set_elsewhere(name: str) -> None:
    with pytest.raises(ConfigInvalid, match=name):
        arguments(vllm={"extra": {name: 1}})
