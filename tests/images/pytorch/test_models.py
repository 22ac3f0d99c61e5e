"""The model that is loaded, and what its own files must not change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from images.contract.config import parse_config
from images.contract.job import (
    ConfigInvalid,
    ExitCode,
    GpuUnusable,
    JobContext,
    JobError,
    ModelUnavailable,
    OutOfMemory,
)
from images.harness.measure import measure
from images.models.tiny_llama import make_model, make_tokenizer
from images.pytorch.backend import Backend
from images.pytorch.device_errors import device_errors
from tests.images.harness.fakes import Phases
from tests.images.pytorch.tiny import PROMPTS, load, outputs, requests

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[3]
STRONG = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 9.0, "max_length": 7, "num_beams": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with seed 42, saved as a hub model is."""
    path = tmp_path_factory.mktemp("model")
    make_model(42, None).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_json(file: Path, **changes: Any) -> None:
    document = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**document, **changes}))


def greedy(**changes: Any) -> list[tuple[int, ...]]:
    backend, _ = load(**changes)
    return outputs(backend.run(requests(ignore_eos=True)))


def test_a_local_folder_gives_the_same_ids_and_tokens_as_the_builtin_model(folder: Path) -> None:
    from_folder, there = load(model=str(folder))
    builtin, here = load()
    assert outputs(from_folder.run(requests())) == outputs(builtin.run(requests()))
    text = "Grüße, <s>world</s>!"
    assert there.tokenizer.encode(text, add_special_tokens=True) == here.tokenizer.encode(text, add_special_tokens=True)
    assert there.tokenizer.special_ids == here.tokenizer.special_ids == {0, 1, 2}
    assert there.tokenizer.vocab_size == here.tokenizer.vocab_size == 259
    assert (there.shape, there.parameters, there.context_length) == (here.shape, here.parameters, 4096)


def test_the_builtin_model_is_made_from_the_seed() -> None:
    assert greedy() == greedy() != greedy(seed=7)


def test_a_hubs_generation_config_changes_neither_greedy_decoding_nor_sampling(copy: Path) -> None:
    plain = greedy(model=str(copy))
    sampled = greedy(model=str(copy), sampling={"temperature": 1.0})
    edit_json(copy / "generation_config.json", **STRONG)
    assert greedy(model=str(copy)) == plain
    assert greedy(model=str(copy), sampling={"temperature": 1.0}) == sampled


def test_the_end_tokens_are_those_of_the_models_generation_config(copy: Path) -> None:
    row = greedy(model=str(copy))[0]
    edit_json(copy / "generation_config.json", eos_token_id=[2, row[4]])
    backend, _ = load(model=str(copy))
    first = backend.run(requests())[0]
    assert first.output_ids == row[: row.index(row[4]) + 1]
    assert first.finish_reason == "stop"


def test_sampling_repeats_with_its_seed_and_differs_without_it() -> None:
    hot = {"temperature": 1.5, "top_p": 0.9, "top_k": 50}
    backend, _ = load(sampling=hot)
    first = outputs(backend.run(requests(ignore_eos=True)))
    assert outputs(backend.run(requests(ignore_eos=True))) == first
    backend._config = backend._config.model_copy(update={"seed": 7})  # other draws, the same weights
    assert outputs(backend.run(requests(ignore_eos=True))) != first
    assert first != greedy()


def test_top_k_of_one_is_greedy_so_the_sampling_section_reaches_the_model() -> None:
    assert greedy(sampling={"temperature": 1.5, "top_k": 1}) == greedy()


def test_the_models_chat_template_is_applied_once_and_asks_for_an_answer(copy: Path) -> None:
    template = (
        "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    _, without = load(model=str(copy))
    assert not without.tokenizer.has_chat_template
    edit_json(copy / "tokenizer_config.json", chat_template=template)
    _, loaded = load(model=str(copy))
    assert loaded.tokenizer.has_chat_template
    plain = loaded.tokenizer.encode("user:hiA:", add_special_tokens=True)
    assert loaded.tokenizer.encode_chat("hi") == plain
    assert plain.count(1) == 1  # the template's own BOS and no second one


def cut_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:1000])


def remove_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def spoil_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")


def change_sizes(model: Path) -> None:
    edit_json(model / "config.json", hidden_size=64)


def name_unknown_architecture(model: Path) -> None:
    edit_json(model / "config.json", model_type="abacus")


def remove_everything(model: Path) -> None:
    for file in model.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "codes"),
    [
        (cut_weights, {ExitCode.MODEL_UNAVAILABLE}),
        (remove_weights, {ExitCode.MODEL_UNAVAILABLE}),
        (spoil_tokenizer, {ExitCode.MODEL_UNAVAILABLE}),
        (change_sizes, {ExitCode.MODEL_UNAVAILABLE}),
        (name_unknown_architecture, {ExitCode.CONFIG_INVALID, ExitCode.MODEL_UNAVAILABLE}),
        (remove_everything, {ExitCode.CONFIG_INVALID, ExitCode.MODEL_UNAVAILABLE}),
    ],
)
def test_a_folder_that_is_no_whole_model_is_told_in_one_line(
    copy: Path, spoil: Callable[[Path], None], codes: set[ExitCode]
) -> None:
    spoil(copy)
    with pytest.raises(JobError) as caught:
        load(model=str(copy))
    assert caught.value.exit_code in codes
    assert str(copy) in caught.value.message
    assert caught.value.advice


def test_a_model_without_a_tokenizer_or_with_other_weights_says_just_that(copy: Path) -> None:
    change_sizes(copy)
    with pytest.raises(ModelUnavailable, match=r"do not fit its config\.json\. Get it again\."):
        load(model=str(copy))
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelUnavailable, match=r"has no tokenizer that can be read\. Get it again, whole\."):
        load(model=str(copy))


def test_a_model_that_the_host_has_no_room_for_is_not_called_damaged(copy: Path) -> None:
    """In a process of its own, whose address space is limited."""
    header = (copy / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    tensors = json.loads(header[8 : 8 + length])
    at = max(tensor["data_offsets"][1] for tensor in tensors.values() if "data_offsets" in tensor)
    tensors["model.large"] = {"dtype": "F32", "shape": [2**33], "data_offsets": [at, at + 2**35]}
    text = json.dumps(tensors).encode()
    with (copy / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + at + 2**35)
    code = (
        "import resource; from tests.images.pytorch.tiny import load; "
        "resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34)); "
        f"load(model={str(copy)!r})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert "OutOfMemory: the host has no room for the model" in ran.stderr.splitlines()[-1]


def test_a_model_folder_that_is_not_there_is_refused_before_anything_is_loaded() -> None:
    chosen = parse_config({"model": "./nowhere/at/all"})
    with pytest.raises(ModelUnavailable, match="model folder nowhere/at/all is not there"):
        measure(chosen, JobContext(gpu_uuids=[]), "exp_test", Backend(), Phases(), Path())
    with pytest.raises(ModelUnavailable):
        load(model="./nowhere/at/all")  # and in an image, where the hash comes from the host


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("folder", {"extra": {"nonsense": 1}}, "nonsense"),
        ("folder", {"attn_implementation": "flash_attention_2"}, "FlashAttention2"),
        ("builtin", {"extra": {"anything": 1}}, "pytorch.extra has no meaning"),
        ("builtin", {"attn_implementation": "flash_attention_3"}, "FlashAttention3"),
    ],
)
def test_options_that_do_not_fit_are_an_invalid_configuration(
    folder: Path, model: str, options: dict[str, Any], says: str
) -> None:
    chosen = {"model": str(folder)} if model == "folder" else {}
    with pytest.raises(ConfigInvalid, match=says):
        load(pytorch=options, **chosen)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree_in_float32(attention: str) -> None:
    assert greedy(pytorch={"attn_implementation": attention}) == greedy()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_compiled_model_generates_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    asked = requests(PROMPTS[:1], max_output_tokens=2, ignore_eos=True)
    plain, _ = load()
    compiled, _ = load(pytorch={"torch_compile": True})
    assert outputs(compiled.run(asked)) == outputs(plain.run(asked))
    assert compiled._model._compiled_call_impl is not None


def test_compiling_without_a_compiler_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigInvalid, match="needs a C\\+\\+ compiler"):
        load(pytorch={"torch_compile": True})


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="has a GPU")
def test_asking_for_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(GpuUnusable, match=r"pytorch\.device"):
        load(pytorch={"device": "cuda"})


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="has a GPU")
def test_a_job_that_was_given_a_gpu_never_measures_the_cpu() -> None:
    with pytest.raises(GpuUnusable, match="given GPU-1, but PyTorch"):
        Backend().load(parse_config({}), JobContext(gpu_uuids=["GPU-1"]))


def test_extra_may_not_override_what_has_a_field_of_its_own(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match="Set dtype instead"):
        load(model=str(folder), pytorch={"extra": {"torch_dtype": "float16"}})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error: out of memory", OutOfMemory),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", OutOfMemory),
        ("CUDA error: no kernel image is available for execution on the device", GpuUnusable),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", GpuUnusable),
    ],
)
def test_what_cuda_says_becomes_the_right_exit_code(message: str, expected: type[JobError]) -> None:
    with pytest.raises(expected), device_errors():
        raise torch.AcceleratorError(message)


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_the_dtype_of_the_configuration_is_the_models(folder: Path, dtype: str, expected: str) -> None:
    for model in ({}, {"model": str(folder)}):
        backend, _ = load(dtype=dtype, **model)
        assert backend._model.dtype == getattr(torch, expected)
