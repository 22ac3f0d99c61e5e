"""The model that drafts is known for what it is, so that it is fetched, mounted and hashed as the model itself is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from images.contract.config import parse_config

DRAFTING: dict[str, dict[str, Any]] = {
    "pytorch": {"batch_size": 1, "pytorch": {"assistant_model": "DRAFTER"}},
    "vllm": {"vllm": {"speculative": {"model": "DRAFTER"}}},
    "trt": {"trt": {"speculative_config": {"decoding_type": "Eagle", "speculative_model_dir": "DRAFTER"}}},
}


def named(value: Any, drafter: str) -> Any:
    if isinstance(value, dict):
        return {name: named(one, drafter) for name, one in value.items()}
    return drafter if value == "DRAFTER" else value


@pytest.mark.parametrize("backend", DRAFTING)
@pytest.mark.parametrize(("drafter", "path"), [("org/drafter", None), ("/a/drafter", Path("/a/drafter"))])
def test_every_backends_drafter_is_found(backend: str, drafter: str, path: Path | None) -> None:
    config = parse_config({"backend": backend, **named(DRAFTING[backend], drafter)})
    assert (config.drafter, config.drafter_path) == (drafter, path)


@pytest.mark.parametrize("backend", [*DRAFTING, "stub"])
def test_without_one_there_is_none(backend: str) -> None:
    config = parse_config({"backend": backend})
    assert (config.drafter, config.drafter_path) == (None, None)


@pytest.mark.parametrize("backend", DRAFTING)
def test_local_files_are_named_below_a_folder_wherever_the_configuration_has_them(tmp_path: Path, backend: str) -> None:
    local = {"model": "./model", "workload": {"source": "./p.jsonl"}}
    written = parse_config({"backend": backend, **local, **named(DRAFTING[backend], "./draft")})
    absolute = written.with_files_below(tmp_path)
    paths = (absolute.model_path, absolute.drafter_path, absolute.prompt_file)
    assert paths == (tmp_path / "model", tmp_path / "draft", tmp_path / "p.jsonl")
    assert absolute.with_files_below(Path("/elsewhere")) == absolute
