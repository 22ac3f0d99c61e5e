"""What a job says last, to whoever started it and shares no disk with it: Kubernetes' termination message."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from images.contract.parts import Record

_LONGEST = 200
"""Characters of message and of advice: Kubernetes keeps 12 KiB of all containers of a pod together."""


class JobReport(Record):
    outcome: Literal["result", "failure", "earlier", "interrupted"] = Field(
        description="earlier: the cycle had its result before this try; interrupted: nothing is kept of this try"
    )
    experiment_id: str | None = Field(None, description="of what is published")
    directory: str | None = Field(None, description="its name in the place it was published to")
    exit_code: int = Field(0, description="an ExitCode; of the failure, whatever the job itself ended with")
    message: str = ""
    advice: str = ""

    def save(self, path: Path) -> None:
        """Into a file that is there already and may stand alone in a file system that cannot be written.

        Raises:
            OSError: cannot be written.
        """
        short = self.model_copy(update={"message": self.message[:_LONGEST], "advice": self.advice[:_LONGEST]})
        path.write_text(short.model_dump_json(), encoding="utf-8")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None if it is no report, as where a container was killed before it could say anything."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None
