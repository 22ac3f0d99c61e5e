"""The model that drafts tokens is read from where the job has it: a folder, the hub's cache, or made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from huggingface_hub import constants

from images.contract.job import ENV_ENGINE_CACHE, ModelUnavailable
from images.models.tiny_llama import save_model
from tests.images.trt.jobs import Load

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("gpu")]

COMMIT = "c" * 40


def drafting(drafter: Path | str, kind: str = "Eagle") -> dict[str, Any]:
    return {"speculative_config": {"decoding_type": kind, "speculative_model_dir": str(drafter), "max_draft_len": 3}}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with org/drafter in it, and no hub."""
    folder = tmp_path / "hub" / "models--org--drafter"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder / "snapshots" / COMMIT


def test_a_folder_is_passed_on_as_it_is(load: Load, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    backend, model = load(trt=drafting(tmp_path))
    assert backend._llm.args.speculative_config.speculative_model_dir == str(tmp_path)
    assert "drafter_commit" not in model.observed_settings
    assert model.findings == ()


def test_a_hub_id_becomes_the_folder_in_the_cache(load: Load, cache: Path) -> None:
    backend, model = load(trt=drafting("org/drafter"))
    assert backend._llm.args.speculative_config.speculative_model_dir == str(cache)
    assert model.observed_settings["drafter_commit"] == COMMIT


def test_the_built_in_model_is_made(load: Load) -> None:
    backend, _ = load(trt=drafting("builtin:tiny-llama", "DraftTarget"))
    made = Path(backend._llm.args.speculative_config.speculative_model_dir)
    assert {path.name for path in made.iterdir()} >= {"config.json", "model.safetensors"}
    assert str(made) != backend._llm.args.model


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("drafter", "said"),
    [("/nowhere/at/all", "the folder /nowhere/at/all holds no model"), ("org/other", "org/other is not in the local")],
)
def test_one_that_is_not_there_is_told_by_its_own_name(load: Load, drafter: str, said: str) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        load(trt=drafting(drafter))


def test_an_engine_is_built_again_for_another_drafter_in_the_same_place(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_ENGINE_CACHE, str(tmp_path / "engines"))
    save_model(tmp_path / "model", 1, torch.bfloat16)
    drafter = tmp_path / "drafter"
    drafter.mkdir()

    def from_cache(weights: str) -> str:
        (drafter / "config.json").write_text(weights)
        _, loaded = load(model=str(tmp_path / "model"), trt={"engine": "tensorrt", **drafting(drafter)})
        return loaded.observed_settings["engine_from_cache"]

    assert [from_cache(weights) for weights in ("1", "1", "2")] == ["False", "True", "False"]
