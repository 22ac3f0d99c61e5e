"""A model over two processes, each with half of every layer: on the CPU, where Gloo does what NCCL does on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from images.contract.job import ConfigInvalid, IncompleteProcesses
from images.models.tiny_llama import make_tokenizer
from images.pytorch.backend import Backend
from tests.images.pytorch.tiny import load, outputs, requests
from tests.images.stub.jobs import ROOT

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("torch jobs")]

ASKED = requests(max_output_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with as even a vocabulary as a split needs."""
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    path = tmp_path_factory.mktemp("even")
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    backend, loaded = load(model=str(folder), gpus_per_process=2)
    assert loaded.findings == ()
    yield backend
    backend.close()


def test_a_split_model_gives_the_same_tokens_and_then_ends_with_the_process_that_is_killed(
    folder: Path, split: Backend
) -> None:
    whole, _ = load(model=str(folder))
    assert outputs(split.run(ASKED)) == outputs(whole.run(ASKED))
    split.drain()
    halves, together = split.memory(), whole.memory()
    assert halves.kv_cache_mb == together.kv_cache_mb, "each has half of the heads"
    assert halves.weights_mb is not None
    assert together.weights_mb is not None
    assert together.weights_mb < halves.weights_mb < 1.2 * together.weights_mb, "the embedding is on both"

    assert split._followers is not None
    ((_, follower),) = split._followers._processes.values()
    follower.kill()
    with pytest.raises(IncompleteProcesses, match="the process of GPU 1 of its group ended with exit code -9"):
        split.run(ASKED)


def test_a_model_that_cannot_be_split_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(ConfigInvalid, match=r"\(259\) must be divisible by the tensor parallel size \(2\)"):
        load(gpus_per_process=2)
    assert not torch.distributed.is_initialized()
