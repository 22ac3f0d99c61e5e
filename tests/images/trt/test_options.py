"""Options that cannot work, or not with the chosen one of two engines, are told before anything is started."""

from __future__ import annotations

from typing import Any

import pytest

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quant_algo": "FP8"}, "quant_algo needs engine: tensorrt; engine pytorch takes it from the checkpoint"),
        ({"kv_cache_quant_algo": "FP8"}, "for engine pytorch set kv_cache_dtype"),
        ({"build_config": {"max_beam_width": 1}}, "build_config needs engine: tensorrt"),
        ({"engine": "tensorrt", "kv_cache_dtype": "fp8"}, "for engine tensorrt set kv_cache_quant_algo"),
        ({"engine": "tensorrt", "cuda_graphs": False}, "cuda_graphs needs engine: pytorch"),
        ({"cuda_graphs": False, "cuda_graph_batch_sizes": [1]}, "cuda_graphs is false"),
        ({"speculative_config": {"speculative_model": "a/b"}}, "name the model that drafts in speculative_model_dir"),
        ({"speculative_config": {"speculative_model_dir": 1}}, "speculative_model_dir has to be a hub id or a folder"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_config({"backend": "trt", "trt": options})
    assert said in caught.value.message
