"""The stand-in has the names of TensorRT-LLM's public sources, so that the backend is not tried against fewer."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tensorrt_llm import llmapi

from images.trt.device import _NEEDED

pytestmark = pytest.mark.torch

ALGORITHMS = """
    W8A16 W4A16 W4A16_AWQ W4A8_AWQ W8A16_GPTQ W4A16_GPTQ W8A8_SQ_PER_CHANNEL W8A8_SQ_PER_TENSOR_PLUGIN
    W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN
    W4A8_QSERVE_PER_GROUP W4A8_QSERVE_PER_CHANNEL FP8 FP8_PER_CHANNEL_PER_TOKEN FP8_BLOCK_SCALES INT8 MIXED_PRECISION
    NVFP4 W4A8_NVFP4_FP8 W4A8_MXFP4_FP8 W4A8_MXFP4_MXFP8 W4A16_MXFP4 NO_QUANT
"""
OF_ALL_KINDS = {
    "max_draft_len",
    "max_total_draft_tokens",
    "speculative_model_dir",
    "max_concurrency",
    "load_format",
    "acceptance_window",
    "acceptance_length_threshold",
}
# By its class what a kind has beyond that, and the engines that take it.
KINDS: dict[str, tuple[str, str]] = {
    "Auto": ("", "pytorch"),
    "DraftTarget": ("", "pytorch"),
    "Eagle": (
        "eagle_choices greedy_sampling posterior_threshold use_dynamic_tree dynamic_tree_max_topK num_eagle_layers "
        "max_non_leaves_per_layer eagle3_one_model eagle3_layers_to_capture",
        "pytorch tensorrt",
    ),
    "Lookahead": ("max_window_size max_ngram_size max_verification_set_size", "tensorrt"),
    "MTP": (
        "num_nextn_predict_layers use_relaxed_acceptance_for_thinking relaxed_topk relaxed_delta use_mtp_vanilla "
        "mtp_eagle_one_model num_nextn_predict_layers_from_model_config BEGIN_THINKING_PHASE_TOKEN "
        "END_THINKING_PHASE_TOKEN",
        "pytorch",
    ),
    "Medusa": ("medusa_choices num_medusa_heads", "tensorrt"),
    "NGram": ("max_matching_ngram_size is_keep_all is_use_oldest is_public_pool", "pytorch"),
    "SaveHiddenStates": (
        "output_directory write_interval file_prefix eagle3_layers_to_capture eagle_choices",
        "pytorch",
    ),
    "UserProvided": ("drafter resource_manager", "pytorch"),
}


def test_every_quantization_algorithm_is_there_and_no_other() -> None:
    assert {one.value for one in llmapi.QuantAlgo} == set(ALGORITHMS.split())
    assert _NEEDED.keys() <= set(ALGORITHMS.split())


def test_every_kind_of_speculation_is_there_and_no_other() -> None:
    assert {name for name in dir(llmapi) if name.endswith("DecodingConfig")} == {
        f"{kind}DecodingConfig" for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_speculation_has_its_fields_and_engines(kind: str) -> None:
    own, engines = KINDS[kind]
    config = getattr(llmapi, f"{kind}DecodingConfig")
    assert set(config.model_fields) == OF_ALL_KINDS | set(own.split())
    made = config.model_construct()
    backends = {"pytorch": "pytorch", "tensorrt": None}
    assert [name for name, backend in backends.items() if made.supports_backend(backend)] == engines.split()
