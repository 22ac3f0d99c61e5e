"""What a study file may say about how its jobs run. None of it enters a configuration's hash."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from images.contract.result import ExperimentResult

LauncherName = Literal["docker", "local", "kubernetes"]
LAUNCHER_NAMES: tuple[LauncherName, ...] = ("docker", "local", "kubernetes")


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*[bkmg]?", text, re.IGNORECASE):
        raise ValueError(f"'{text}' is not a size such as 512m or 8g")
    return text


Size = Annotated[str, AfterValidator(_size)]


class Part(BaseModel):
    """Strict, as the configuration is: "8" for 8 is a typing error to be told about."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Adaptive(Part):
    """Stein's two stages: a pilot of `min` cycles says how many the wanted interval needs."""

    min: int = Field(5, ge=5, description="pilot cycles")
    max: int = Field(30, ge=5, description="most cycles")
    metric: str = Field("energy_per_output_token_j", description="figure of the result whose interval is wanted")
    half_width: float = Field(
        0.02, gt=0.0, lt=1.0, description="half of the 95 % interval, as a part of the mean: 0.02 is 2 %"
    )

    @field_validator("metric")
    @classmethod
    def _is_figure(cls, metric: str) -> str:
        fields = ExperimentResult.model_fields.items()
        figures = [name for name, field in fields if field.annotation in (float, float | None)]
        if metric not in figures:
            close = difflib.get_close_matches(metric, figures, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ", such as energy_per_output_token_j"
            raise ValueError(f"'{metric}' is not a figure of a result{hint}")
        return metric

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class LauncherSettings(Part):
    """Where jobs run, and on what."""

    name: LauncherName = Field("docker", description="containers or processes of this host, or a cluster")
    memory: Size | None = Field(None, description="most memory of a container, as Docker writes it (8g)")
    gpus: Literal["auto", "none"] = Field(
        "auto", description="auto: as many as each experiment needs, where there are any"
    )
    max_parallel: int | None = Field(
        None, ge=1, description="most jobs at the same time; null: one per free GPU set, one at a time on the CPU"
    )
    exclusive: bool = Field(False, description="one job at a time on this host, also beside other runners")
    power_limit_w: float | None = Field(
        None, gt=0.0, description="expected of every GPU; another one refuses (W). Nothing is ever set"
    )


class Timeouts(Part):
    """When a job is given up."""

    job_s: float = Field(3600.0, gt=0.0, description="longest job, without the model's download (s)")
    stall_s: float = Field(1800.0, gt=0.0, description="longest time in which a job may report nothing new (s)")
    gpus_s: float = Field(
        600.0, ge=0.0, description="longest wait for the GPUs that a block was begun on; then it goes on elsewhere (s)"
    )


class Retries(Part):
    """What happens after a failure. Configuration and memory errors are never tried again."""

    limit: int = Field(2, ge=0, description="further tries at a failed cycle; kills from outside do not count")
    backoff_s: float = Field(5.0, ge=0.0, description="before the first further try; doubles each time (s)")
    max_backoff_s: float = Field(300.0, ge=0.0, description="longest pause (s)")
    stop_after: int | None = Field(
        10, ge=1, description="failed tries in a row, over all jobs, that end the study; null never does"
    )


class CoolDown(Part):
    """What is waited for on the job's GPUs before each job. Afterwards it is measured all the same, and said."""

    max_temperature_c: float | None = Field(None, gt=0.0, description="null does not wait for it (degrees C)")
    temperature_timeout_s: float = Field(300.0, ge=0.0, description="longest wait for the temperature (s)")
    busy_timeout_s: float = Field(
        60.0, ge=0.0, description="longest wait for memory to be given back and processes of others to go (s)"
    )
