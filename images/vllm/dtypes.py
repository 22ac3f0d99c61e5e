"""The dtype that a model is stored in, found as transformers finds it for `dtype="auto"`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.modeling_utils import get_state_dict_dtype, load_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, cached_file

_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def own_dtype(model_config: Any, source: str, revision: str | None) -> str | None:
    """By its config.json, or where that names none, by its weights; None if they do not tell either.

    Args:
        source: folder or hub id.
    """
    for part in (model_config, model_config.get_text_config()):
        named = getattr(part, "dtype", None)
        if named is not None:
            return _name(named)
    if getattr(model_config, "quantization_config", None) is not None:
        return None  # what is stored is not what it computes in
    path = _first_weights(source, revision)
    return None if path is None else _name(get_state_dict_dtype(load_state_dict(path, map_location="meta")))


def _first_weights(source: str, revision: str | None) -> str | None:
    """The file of them, or the first of several; from the hub it is one of those that the engine will want."""
    for name in _WEIGHTS:
        path = _file(source, name, revision)
        if path is not None and name.endswith(".index.json"):
            shards = json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"].values()
            return _file(source, min(shards), revision)
        if path is not None:
            return path
    return None


def _file(source: str, name: str, revision: str | None) -> str | None:
    """Its path, None if there is none or it cannot be had: whether that is a failure, the engine decides."""
    found: str | None = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
