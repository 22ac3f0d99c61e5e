"""The backend in its container without the harness, on the CPU: a model as it is, over two workers, and with a drafter.

All its weights are float32, and its config.json does not say so.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from images.models.tiny_llama import make_tokenizer
from tests.images.vllm.containers import ask

pytestmark = [
    pytest.mark.docker,
    pytest.mark.torch,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("vllm jobs"),
]

KV_CACHE_BYTES = 2**26
VLLM: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES}
ASKED: dict[str, dict[str, Any]] = {
    # All prompts together are longer than a step, and none is longer by itself.
    "whole": {
        "config": {"sampling": {"temperature": 1.0}, "vllm": {"max_model_len": 64, "max_num_batched_tokens": 64}},
        "runs": [{"sampling": {}}, {}, {}, {"seed": 43}],
    },
    "split": {"config": {"gpus_per_process": 2}, "runs": [{}]},
    "drafted": {
        "config": {
            "vllm": {"speculative": {"method": "draft_model", "model": "/given/drafter", "num_speculative_tokens": 2}}
        },
        "runs": [{}],
    },
}
Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(vllm_image: str, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folders = {name: tmp_path_factory.mktemp(name) for name in ASKED}
    for folder in folders.values():
        save(model(layers=2), folder / "model")
        save(model(layers=1), folder / "drafter")
    common = {"backend": "vllm", "model": "/given/model"}

    def answer(name: str) -> dict[str, Any]:
        config = {**common, **ASKED[name]["config"]}
        config["vllm"] = {**VLLM, **config.get("vllm", {})}
        return ask(vllm_image, folders[name], {"config": config, "runs": ASKED[name]["runs"]})

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(ASKED, pool.map(answer, ASKED), strict=True))


def model(*, layers: int) -> LlamaForCausalLM:
    """A tiny Llama with a vocabulary that vLLM neither pads nor splits unevenly."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(1)
    return LlamaForCausalLM(config)


def save(made: LlamaForCausalLM, folder: Path) -> None:
    made.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("dtype") == "float32"
    (folder / "config.json").write_text(json.dumps(config))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)


def megabytes(made: LlamaForCausalLM) -> float:
    return float(sum(weight.nbytes for weight in made.parameters())) / 1e6


def test_a_model_that_names_no_dtype_keeps_that_of_its_weights(answers: Answers) -> None:
    assert answers["whole"]["observed"]["dtype"] == "float32"
    assert answers["whole"]["findings"] == []


def test_the_seed_decides_what_is_sampled(answers: Answers) -> None:
    greedy, first, again, otherwise = answers["whole"]["outputs"]
    assert first == again
    assert all(one != other for one, other in zip(first, otherwise, strict=True))
    assert first != greedy


def test_a_model_over_two_workers_gives_the_same_tokens_and_its_memory_is_that_of_both(answers: Answers) -> None:
    whole, split = answers["whole"], answers["split"]
    assert split["outputs"][0] == whole["outputs"][0]
    assert split["observed"]["tensor_parallel_size"] == "2"
    assert split["findings"] == []
    assert whole["memory"]["kv_cache_mb"] == pytest.approx(KV_CACHE_BYTES / 1e6, rel=0.02)
    assert split["memory"]["kv_cache_mb"] == pytest.approx(2 * KV_CACHE_BYTES / 1e6, rel=0.02)
    # Beyond the weights there is what the rotary embedding has computed beforehand, on each worker.
    assert whole["memory"]["weights_mb"] == pytest.approx(megabytes(model(layers=2)), rel=0.05)
    assert split["memory"]["weights_mb"] == pytest.approx(megabytes(model(layers=2)), rel=0.05)


def test_the_weights_of_a_drafter_count(answers: Answers) -> None:
    drafted = answers["drafted"]
    assert drafted["outputs"][0] == answers["whole"]["outputs"][0]
    both = megabytes(model(layers=2)) + megabytes(model(layers=1))
    assert drafted["memory"]["weights_mb"] == pytest.approx(both, rel=0.05)
