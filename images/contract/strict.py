"""Models of what people write."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from images.contract.job import only_json


class Part(BaseModel):
    """Strict, because "8" for 8 or yes for 1 is a typing error to be told about, not guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Options(Part):
    """What one backend takes beyond what all backends do."""

    extra: Annotated[dict[str, Any], AfterValidator(only_json)] = Field(
        default_factory=dict, description="passed to the engine's constructor, names and values untouched"
    )
