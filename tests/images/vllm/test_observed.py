"""What the engine uses against what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from images.contract.config import parse_config
from images.contract.options.vllm import VllmOptions
from images.vllm.observed import not_in_effect, observed_settings

USED = {
    **observed_settings(None, {}),
    "dtype": "bfloat16",
    "max_num_seqs": "4",
    "tensor_parallel_size": "1",
    "enforce_eager": "True",
}


def flagged(*, dtype: str | None = None, **document: Any) -> list[str]:
    config = parse_config({"backend": "vllm", "batch_size": 4, **document})
    found = not_in_effect(config, dtype, USED, None)
    assert all(line.startswith("not_in_effect: ") for line in found)
    return [line.removeprefix("not_in_effect: ").partition(". ")[0] for line in found]


def test_what_is_used_as_it_was_asked_for_is_not_flagged() -> None:
    assert flagged(dtype="bfloat16", vllm={"enforce_eager": True}) == []
    assert flagged() == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"batch_size": 8}, "batch_size was 8, but the engine uses 4"),
        ({"vllm": {"max_num_seqs": 6}}, "vllm.max_num_seqs was 6, but the engine uses 4"),
        ({"gpus_per_process": 2}, "gpus_per_process was 2, but the engine uses 1"),
        ({"vllm": {"enforce_eager": False}}, "vllm.enforce_eager was False, but the engine uses True"),
    ],
)
def test_what_the_engine_did_not_take_is_flagged_with_both_values(document: dict[str, Any], says: str) -> None:
    assert flagged(**document) == [says]


def test_the_models_own_dtype_is_what_auto_asks_for() -> None:
    assert flagged(dtype="float16") == ["dtype auto was float16, but the engine uses bfloat16"]


def test_every_option_has_a_place_where_it_is_looked_for() -> None:
    otherwise = {"token_times", "extra", "speculative"}
    assert set(VllmOptions.model_fields) - otherwise <= set(USED)
