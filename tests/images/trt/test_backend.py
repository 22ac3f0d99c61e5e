"""The trt backend against TensorRT-LLM's stand-in: tokens, times, settings, and what it makes of refusals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from transformers import GenerationConfig

from images.contract.job import ENV_ENGINE_CACHE, ConfigInvalid, GpuUnusable, JobError, ModelUnavailable, OutOfMemory
from images.harness.backend import Generation
from images.models.tiny_llama import make_model, make_tokenizer
from tests.images.trt.jobs import MOST, PROMPTS, Load, requests

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("gpu")]


@pytest.fixture(scope="module")
def two_ends(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder whose generation_config.json names two end tokens, 2 and 7."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model(1, None)
    model.generation_config = GenerationConfig(eos_token_id=[2, 7], pad_token_id=0)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def outputs(generations: list[Generation]) -> list[tuple[int, ...]]:
    return [one.output_ids for one in sorted(generations, key=lambda one: one.request_index)]


def test_every_output_ends_with_its_end_token_whichever_backend_and_way_of_delivery(load: Load, two_ends: str) -> None:
    """The TensorRT backend leaves the end token out of what it shows, unless it is a stop token."""
    ways = [{"engine": engine, "token_times": stamped} for engine in ("pytorch", "tensorrt") for stamped in (0, 1)]
    everything = [
        load(model=two_ends, trt={**way, "token_times": bool(way["token_times"])})[0].run(requests()) for way in ways
    ]
    first = outputs(everything[0])
    assert all(outputs(generations) == first for generations in everything)
    for generation in everything[0]:
        assert (generation.output_ids[-1] in (2, 7)) == (generation.finish_reason == "stop")
    assert {one.finish_reason for one in everything[0]} == {"stop", "length"}
    assert {ids[-1] for ids in first} > {2, 7}  # of both kinds, and some that ran to their full length


@pytest.mark.parametrize("engine", ["pytorch", "tensorrt"])
def test_deliveries_add_up_to_the_output_and_come_one_after_the_other(load: Load, engine: str, two_ends: str) -> None:
    backend, _ = load(model=two_ends, trt={"engine": engine, "token_times": True})
    for generation in backend.run(requests()):
        assert generation.delivery_s is not None
        assert generation.delivery_tokens is not None
        assert sum(generation.delivery_tokens) == len(generation.output_ids)
        assert list(generation.delivery_s) == sorted(generation.delivery_s)
        assert len(generation.delivery_s) == len(generation.delivery_tokens)


def test_ignoring_the_end_token_gives_exactly_the_asked_number_of_tokens(load: Load) -> None:
    generations = load()[0].run(requests(ignore_eos=True))
    assert {len(one.output_ids) for one in generations} == {MOST}
    assert {one.finish_reason for one in generations} == {"length"}


def test_the_engines_times_are_on_the_harness_clock(load: Load) -> None:
    backend, _ = load()
    before_s = time.perf_counter()
    generations = backend.run(requests(ignore_eos=True))
    after_s = time.perf_counter()
    assert backend.delivered() == MOST * len(PROMPTS)
    for one in generations:
        assert one.started_s is not None
        assert one.ends_s is not None
        assert before_s - 1e-6 <= one.started_s <= one.ends_s[0] <= one.ends_s[1] <= after_s
    later = max(one.started_s or 0.0 for one in generations)
    assert later > min(one.ends_s[1] for one in generations if one.ends_s)  # only batch_size at once


def test_blocks_are_reused_only_where_that_was_asked_for_and_then_the_cache_counts_as_warm(load: Load) -> None:
    forgetful, _ = load()
    remembering, _ = load(trt={"enable_block_reuse": True})
    for backend in (forgetful, remembering):
        backend.run(requests())
    assert {one.cached_input_tokens for one in forgetful.run(requests())} == {0}
    assert forgetful.reset_caches()
    assert sum(one.cached_input_tokens or 0 for one in remembering.run(requests())) > 0
    assert not remembering.reset_caches()
    unknown, _ = load(trt={"enable_block_reuse": True, "engine": "tensorrt"})
    assert {one.cached_input_tokens for one in unknown.run(requests())} == {None}


def test_settings_are_those_that_the_engine_resolved(load: Load) -> None:
    _, model = load(
        workload={"max_input_tokens": 77},
        trt={
            "max_num_tokens": 512,
            "max_seq_len": 256,
            "kv_cache_free_gpu_memory_fraction": 0.5,
            "kv_cache_max_tokens": 4096,
            "scheduler_policy": "max_utilization",
            "context_chunking_policy": "equal_progress",
            "enable_chunked_prefill": True,
            "cuda_graph_batch_sizes": [4, 1],
            "attn_backend": "FLASHINFER",
            "speculative_config": {"decoding_type": "NGram", "max_draft_len": 3, "max_matching_ngram_size": 2},
            "extra": {"kv_cache_config": {"tokens_per_block": 64}, "stream_interval": 2},
        },
    )
    expected = {
        "engine": "pytorch",
        "max_batch_size": "4",
        "max_input_len": "77",
        "max_num_tokens": "512",
        "max_seq_len": "256",
        "kv_cache_config.free_gpu_memory_fraction": "0.5",
        "kv_cache_config.max_tokens": "4096",
        "kv_cache_config.enable_block_reuse": "False",
        "scheduler_config.capacity_scheduler_policy": "MAX_UTILIZATION",
        "scheduler_config.context_chunking_policy": "EQUAL_PROGRESS",
        "enable_chunked_prefill": "True",
        "cuda_graph_config.batch_sizes": "[1, 4]",
        "attn_backend": "FLASHINFER",
        "speculative_config.decoding_type": "NGram",
    }
    assert {name: model.observed_settings.get(name) for name in expected} == expected
    assert model.findings == ()
    assert model.slots == 4
    assert model.context_length == 256


def test_the_tensorrt_backend_is_built_for_the_sizes_that_were_asked_for(load: Load) -> None:
    backend, model = load(
        trt={
            "engine": "tensorrt",
            "max_num_tokens": 512,
            "quant_algo": "W4A16_AWQ",
            "build_config": {"gather_context_logits": True},
        }
    )
    built = backend._llm.args.build_config
    assert (built.max_batch_size, built.max_num_tokens, built.gather_context_logits) == (4, 512, True)
    assert model.observed_settings["quant_config.quant_algo"] == "W4A16_AWQ"


def test_a_setting_that_the_engine_changed_is_a_finding(load: Load, tmp_path: Path) -> None:
    _, model = load(
        trt={
            "cuda_graph_batch_sizes": [4],
            "speculative_config": {"decoding_type": "SaveHiddenStates", "output_directory": str(tmp_path)},
        }
    )
    found = [finding.split(" and ")[0].split(",")[0] for finding in model.findings]
    assert found == [
        "not_in_effect: cuda_graph_config.batch_sizes was to be [4]",
        "not_in_effect: max_batch_size was to be 4",
    ]
    assert model.slots == 1


def test_an_engine_is_built_once_for_one_model_and_again_for_another(
    load: Load, two_ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_ENGINE_CACHE, str(tmp_path / "engines"))
    (tmp_path / "engines").mkdir()
    same_path = tmp_path / "model"
    same_path.symlink_to(two_ends)

    def builds() -> tuple[str, bool]:
        _, model = load(model=str(same_path), trt={"engine": "tensorrt"})
        settings = model.observed_settings
        return settings["engine_from_cache"], float(settings["engine_build_s"]) > 0

    assert builds() == ("False", True)
    assert builds() == ("True", False)
    other = tmp_path / "other"
    make_model(2, None).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    same_path.unlink()
    same_path.symlink_to(other)
    assert builds() == ("False", True)


def test_an_engine_that_nobody_builds_has_no_time_of_building_and_no_cache(
    load: Load, two_ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_ENGINE_CACHE, str(tmp_path))  # inherited by every local job
    settings = load(model=two_ends)[1].observed_settings
    assert {"engine_build_s", "engine_from_cache"} & settings.keys() == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["FP8_PER_CHANNEL_PER_TOKEN", "W8A16_GPTQ", "MIXED_PRECISION", "W4A8_MXFP4_FP8"])
def test_an_engine_is_quantized_by_whichever_algorithm_there_is(
    load: Load, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (10, 0))
    _, model = load(trt={"engine": "tensorrt", "quant_algo": name})
    assert model.observed_settings["quant_config.quant_algo"] == name


@pytest.mark.parametrize(
    ("engine", "speculation"),
    [
        ("pytorch", {"decoding_type": "Lookahead"}),
        ("pytorch", {"decoding_type": "Medusa", "max_draft_len": 2}),
        ("tensorrt", {"decoding_type": "NGram", "max_draft_len": 3, "max_matching_ngram_size": 2}),
        ("tensorrt", {"decoding_type": "MTP"}),
    ],
)
def test_speculation_of_the_other_engine_is_refused(load: Load, engine: str, speculation: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match=f"speculation {speculation['decoding_type']} is not for backend"):
        load(trt={"engine": engine, "speculative_config": speculation})
    other = "tensorrt" if engine == "pytorch" else "pytorch"
    _, model = load(trt={"engine": other, "speculative_config": speculation})
    assert model.observed_settings["speculative_config.decoding_type"] == speculation["decoding_type"]


def test_memory_is_what_the_devices_say(load: Load) -> None:
    assert load()[0].memory().peak_mb == pytest.approx(70_000)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"trt": {"extra": {"nonsense": 1}}}, ConfigInvalid, "LLM got invalid argument: nonsense"),
        (
            {"trt": {"extra": {"stream_interval": "often"}}},
            ConfigInvalid,
            "stream_interval: Input should be",
        ),
        ({"trt": {"extra": {"kv_cache_config": {"dtipe": "fp8"}}}}, ConfigInvalid, "dtipe: Extra inputs"),
        ({"trt": {"extra": {"workspace": "/tmp"}}}, ConfigInvalid, "trt.extra.workspace is set by joulehouse"),
        ({"trt": {"extra": {"max_batch_size": 4}}}, ConfigInvalid, "trt.extra.max_batch_size has a field of its own"),
        ({"trt": {"extra": {"kv_cache_config": {"dtype": "fp8"}}}}, ConfigInvalid, "Set trt.kv_cache_dtype instead"),
        ({"trt": {"engine": "tensorrt", "quant_algo": "W3"}}, ConfigInvalid, "'W3' is not a valid QuantAlgo"),
        ({"trt": {"engine": "tensorrt", "build_config": {"max_bat": 1}}}, ConfigInvalid, "max_bat: Extra inputs"),
        (
            {"trt": {"engine": "tensorrt", "build_config": {"max_batch_size": 1}}},
            ConfigInvalid,
            "Set trt.max_batch",
        ),
        ({"trt": {"engine": "tensorrt", "extra": {"attn_backend": "TRTLLM"}}}, ConfigInvalid, "Set trt.attn_backend"),
        ({"trt": {"engine": "tensorrt", "extra": {"moe_config": {}}}}, ConfigInvalid, "invalid argument: moe_config"),
        ({"trt": {"extra": {"fast_build": True}}}, ConfigInvalid, "specific to TensorRT backend"),
        (
            {"trt": {"speculative_config": {"decoding_type": "Guess"}}},
            ConfigInvalid,
            "It has: Auto, DraftTarget, Eagle",
        ),
        ({"trt": {"engine": "tensorrt", "quant_algo": "FP8"}}, ConfigInvalid, "FP8 needs compute capability 8.9"),
        ({"trt": {"kv_cache_dtype": "fp8"}}, ConfigInvalid, "needs compute capability 8.9, and STAND-IN GPU has 8.0"),
        ({"trt": {"kv_cache_max_tokens": 10**9}}, OutOfMemory, "CUDA out of memory"),
        ({"gpus_per_process": 2}, GpuUnusable, "gpus_per_process is 2, and the job sees 1 GPU"),
        ({"model": "/nowhere/at/all"}, ModelUnavailable, "holds no model"),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    load: Load, changes: dict[str, Any], kind: type[JobError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        load(**changes)
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert caught.value.advice


def test_a_prompt_that_the_engine_refuses_is_told_in_its_own_words(load: Load) -> None:
    backend, _ = load(trt={"max_num_tokens": 8})
    with pytest.raises(ConfigInvalid, match=r"should not exceed max_num_tokens \(8\)"):
        backend.run(requests())


def test_sampled_requests_draw_from_numbers_of_their_own(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = load(sampling={"temperature": 0.7, "top_p": 0.9, "top_k": 40}, seed=5)
    seen: list[Any] = []
    submit = backend._llm.generate_async

    def watched(ids: list[int], params: Any, **how: Any) -> Any:
        seen.append(params)
        return submit(ids, params, **how)

    monkeypatch.setattr(backend._llm, "generate_async", watched)
    backend.run(requests()[:2])
    assert [(one.temperature, one.top_p, one.top_k, one.seed) for one in seen] == [(0.7, 0.9, 40, 5), (0.7, 0.9, 40, 6)]
