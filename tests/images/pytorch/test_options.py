"""Options that change how tokens are computed: the same ids, and a finding where they did nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from transformers import StaticCache

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid
from images.models.tiny_llama import make_model
from images.pytorch import loading
from images.pytorch.effects import SeenCaches
from tests.images.pytorch.tiny import PROMPTS, load, outputs, requests

pytestmark = pytest.mark.torch
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
no_gpu = pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="has a GPU")


@pytest.fixture(scope="module")
def plain() -> list[tuple[int, ...]]:
    backend, _ = load()
    return outputs(backend.run(requests(ignore_eos=True)))


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch compiles and counts from the beginning."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_every_cache_gives_the_same_tokens_and_is_the_one_asked_for(kind: str, plain: list[tuple[int, ...]]) -> None:
    backend, _ = load(pytorch={"cache_implementation": kind})
    assert outputs(backend.run(requests(ignore_eos=True))) == plain
    assert backend._caches.kind == f"{kind.capitalize()}Cache"
    assert backend.findings() == ()


def test_a_static_cache_holds_nothing_of_the_requests_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what reset_caches promises. Only the length stays, so the second cache is the longer."""
    backend, _ = load(batch_size=1, pytorch={"cache_implementation": "static"})
    made: list[StaticCache] = []
    monkeypatch.setattr(SeenCaches, "see", lambda _, cache: made.append(cache))
    backend.run(requests([PROMPTS[1], PROMPTS[0]], ignore_eos=True))
    first, second = (cache.layers[0] for cache in made)
    assert first.keys.data_ptr() != second.keys.data_ptr()
    assert second.keys[:, :, len(PROMPTS[0]) + 24 :].abs().sum() == 0, "beyond its own positions it is empty"


def test_cache_bytes_are_two_tensors_per_layer_over_all_positions_computed() -> None:
    backend, _ = load()
    backend.run(requests(max_output_tokens=5, ignore_eos=True))
    layers, heads, head_dim, float32 = 2, 2, 32, 4
    positions = len(PROMPTS) * (31 + 5 - 1)  # the last token is never fed back
    assert backend.memory().kv_cache_mb == 2 * layers * heads * head_dim * float32 * positions / 1e6


@needs_compiler
@pytest.mark.usefixtures("compiling")
def test_with_a_static_cache_only_single_token_steps_are_compiled() -> None:
    asked = requests(PROMPTS[:1], max_output_tokens=3, ignore_eos=True)
    plain, _ = load()
    compiled, _ = load(pytorch={"torch_compile": True, "cache_implementation": "static"})
    assert outputs(compiled.run(asked)) == outputs(plain.run(asked))
    assert compiled.findings() == ()
    assert compiled._model._compiled_call_impl is None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@no_gpu
@needs_compiler
@pytest.mark.usefixtures("compiling")
def test_shapes_beyond_those_compiled_and_missing_cuda_graphs_are_findings() -> None:
    options = {"torch_compile": True, "torch_compile_dynamic": False, "torch_compile_mode": "reduce-overhead"}
    backend, _ = load(batch_size=1, pytorch=options)
    with torch._dynamo.config.patch(recompile_limit=1):
        backend.run(requests([PROMPTS[0], PROMPTS[2]], max_output_tokens=1))
    limit, graphs = backend.findings()
    assert limit.startswith("not_in_effect: torch.compile met more shapes than it compiles for")
    assert graphs.startswith("not_in_effect: torch_compile_mode is reduce-overhead, without CUDA graphs")


@needs_compiler
@pytest.mark.usefixtures("compiling")
def test_a_graph_that_must_be_whole_and_is_not_is_an_invalid_configuration() -> None:
    backend, _ = load(batch_size=1, pytorch={"torch_compile": True, "torch_compile_fullgraph": True})
    backend._model.model.norm.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(ConfigInvalid, match=r"torch\.compile cannot compile this model as asked"):
        backend.run(requests(PROMPTS[:1], max_output_tokens=1))


def test_a_compilation_that_never_happened_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    monkeypatch.setenv("CXX", "never asked")
    backend, _ = load(pytorch={"torch_compile": True, "cache_implementation": "static"})
    backend.run(requests(PROMPTS[:1], max_output_tokens=2))
    (finding,) = backend.findings()
    assert "nothing was compiled" in finding


def test_an_attention_that_the_model_changed_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "make_model", lambda seed, _asked: make_model(seed, "sdpa"))
    _, loaded = load(pytorch={"attn_implementation": "eager"})
    assert loaded.observed_settings["attn_implementation"] == "sdpa"
    (finding,) = loaded.findings
    assert finding.startswith("not_in_effect: attn_implementation is eager, and the model uses sdpa.")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"pytorch": {"prompt_lookup_num_tokens": 3}}, "one request at a time, and batch_size is 6"),
        ({"pytorch": {"assistant_model": "builtin:tiny-llama"}}, "one request at a time, and batch_size is 6"),
        ({"gpus_per_process": 2, "pytorch": {"quantization": "bnb_8bit"}}, "neither quantized nor assisted"),
        pytest.param({"pytorch": {"cache_implementation": "offloaded"}}, "there is no GPU", marks=no_gpu),
    ],
)
def test_what_cannot_work_together_or_here_is_refused_before_anything_is_loaded(
    document: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("images.pytorch.backend.load_models", None)
    with pytest.raises(ConfigInvalid, match=says):
        load(**document)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"torch_compile_mode": "default"}, "torch_compile_mode needs torch_compile: true"),
        ({"quantization": "bnb_8bit", "bnb_4bit_quant_type": "nf4"}, "needs quantization: bnb_4bit"),
        ({"num_assistant_tokens": 3}, "num_assistant_tokens needs assistant_model"),
        ({"assistant_model": "a/b", "prompt_lookup_num_tokens": 3}, "set one of them"),
        ({"prompt_lookup_num_tokens": 3, "cache_implementation": "static"}, "dynamic cache only"),
        ({"quantization": "awq"}, "bnb_8bit"),
    ],
)
def test_an_option_that_would_be_ignored_is_an_invalid_configuration(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        parse_config({"pytorch": options})


@pytest.mark.parametrize("name", ["quantization_config", "device_map", "tp_plan"])
def test_extra_cannot_bring_in_by_the_back_door_what_has_an_option(name: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"pytorch\.extra\.{name} has a field of its own"):
        load(model="nobody/nothing", pytorch={"extra": {name: "auto"}})
