"""JobFailure: what a job leaves when it has no result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from images.contract import files
from images.contract.parts import UtcDatetime
from images.contract.result import misfit


def _storable(text: str) -> str:
    """Half surrogate pairs, which come from undecodable bytes in logs, cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


_UNHASHED = "unhashed"

Text = Annotated[str, AfterValidator(_storable)]


class JobFailure(BaseModel):
    """``failure.json``: why a job has no result. A failure is data; the warehouse counts it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    experiment_id: str = Field(description="names this try; unique")
    backend: str | None = Field(None, description="inference engine")
    measurement_config_hash: str | None = Field(None, description="of the configuration; None if it was not valid")
    config: dict[str, Any] | None = Field(None, description="the configuration as it was given")
    study: str | None = Field(None, description="name of the study")
    experiment: str | None = Field(None, description="name of the experiment in the study")
    cycle: int | None = Field(None, description="number of this repetition, from 1")
    attempt: int | None = Field(None, description="number of this try at the cycle, from 1")
    error_class: str = Field(description="class name of the error, or TimedOut, Killed, NotBegun, Damaged, Unexplained")
    exit_code: int = Field(description="an ExitCode")
    message: Text = Field(description="what went wrong, in one line")
    advice: Text = Field("", description="what to do about it")
    log_tail: list[Text] = Field(default_factory=list, description="last lines of the job's log")
    time: UtcDatetime = Field(description="when it failed")

    def save(self, output_dir: Path) -> Path:
        """Write it as one new directory in `output_dir`, atomically.

        Returns:
            Path of the new failure.json.

        Raises:
            OSError: cannot be written; nothing is left behind.
        """
        name = self.experiment or Path(str((self.config or {}).get("model") or "")).name
        # Something stands in the hash's place in any case, so that no end of a name is taken for one.
        parts = [name, self.backend or "", (self.measurement_config_hash or _UNHASHED)[:8]]
        name = files.directory_name([*parts, f"c{self.cycle or 0:03d}", "failed"], self.time)
        document = {files.FAILURE_FILE: self.model_dump_json(indent=1)}
        return files.save_directory(Path(output_dir), name, document, {}) / files.FAILURE_FILE

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Load a failure.json, or the one in a directory.

        Raises:
            UnreadableResult: not JSON, or fields that do not fit.
        """
        path = Path(path) / files.FAILURE_FILE if Path(path).is_dir() else Path(path)
        try:
            return cls.model_validate(files.read_json(path))
        except ValidationError as error:
            raise misfit(path, error) from None
