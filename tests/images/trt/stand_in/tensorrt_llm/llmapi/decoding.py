"""The ways of speculative decoding: names and defaults of the public sources, and which engine each is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

_BOTH = frozenset({"pytorch", None})
_PYTORCH = frozenset({"pytorch"})
_TENSORRT = frozenset({None})


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=False)


class DecodingBaseConfig(Strict):
    decoding_type: ClassVar[str]
    _engines: ClassVar[frozenset[str | None]] = _BOTH
    _needed: ClassVar[tuple[str, ...]] = ()

    max_draft_len: int | None = None
    max_total_draft_tokens: int | None = None
    speculative_model_dir: str | Path | None = None
    max_concurrency: int | None = None
    load_format: str | None = None
    acceptance_window: int | None = Field(None, ge=0)
    acceptance_length_threshold: float | None = Field(None, ge=0)

    def supports_backend(self, backend: str | None) -> bool:
        return backend in self._engines

    def lacking(self) -> list[str]:
        """What has to be given, and above 0, and is not."""
        return [name for name in self._needed if not getattr(self, name)]


class MedusaDecodingConfig(DecodingBaseConfig):
    decoding_type = "Medusa"
    _engines = _TENSORRT
    _needed = ("max_draft_len",)

    medusa_choices: list[list[int]] | None = None
    num_medusa_heads: int | None = None


class EagleDecodingConfig(DecodingBaseConfig):
    decoding_type = "Eagle"
    _needed = ("max_draft_len", "speculative_model_dir")

    eagle_choices: list[list[int]] | None = None
    greedy_sampling: bool | None = True
    posterior_threshold: float | None = None
    use_dynamic_tree: bool | None = False
    dynamic_tree_max_topK: int | None = None  # noqa: N815 (its own name)
    num_eagle_layers: int | None = None
    max_non_leaves_per_layer: int | None = None
    eagle3_one_model: bool | None = True
    eagle3_layers_to_capture: set[int] | None = None


class SaveHiddenStatesDecodingConfig(DecodingBaseConfig):
    decoding_type = "SaveState"
    _engines = _PYTORCH

    output_directory: str
    write_interval: int = 20
    file_prefix: str = "data"
    eagle3_layers_to_capture: set[int] | None = None
    max_total_draft_tokens: int | None = 1
    eagle_choices: list[list[int]] | None = None


class UserProvidedDecodingConfig(DecodingBaseConfig):
    decoding_type = "User_Provided"
    _engines = _PYTORCH

    drafter: Any
    resource_manager: Any = None


class NGramDecodingConfig(DecodingBaseConfig):
    decoding_type = "NGram"
    _engines = _PYTORCH
    _needed = ("max_draft_len", "max_matching_ngram_size")

    max_matching_ngram_size: int = 0
    is_keep_all: bool = True
    is_use_oldest: bool = True
    is_public_pool: bool = True


class DraftTargetDecodingConfig(DecodingBaseConfig):
    decoding_type = "Draft_Target"
    _engines = _PYTORCH
    _needed = ("max_draft_len", "speculative_model_dir")


class MTPDecodingConfig(DecodingBaseConfig):
    decoding_type = "MTP"
    _engines = _PYTORCH
    _needed = ("num_nextn_predict_layers",)

    num_nextn_predict_layers: int = 1
    use_relaxed_acceptance_for_thinking: bool = False
    relaxed_topk: int = 1
    relaxed_delta: float = 0.0
    use_mtp_vanilla: bool = False
    mtp_eagle_one_model: bool = True
    num_nextn_predict_layers_from_model_config: int = 1
    BEGIN_THINKING_PHASE_TOKEN: int = 128798
    END_THINKING_PHASE_TOKEN: int = 128799


class AutoDecodingConfig(DecodingBaseConfig):
    decoding_type = "AUTO"
    _engines = _PYTORCH


class LookaheadDecodingConfig(DecodingBaseConfig):
    decoding_type = "Lookahead"
    _engines = _TENSORRT

    max_window_size: int = Field(4, gt=0)
    max_ngram_size: int = Field(3, gt=0)
    max_verification_set_size: int = Field(4, gt=0)
