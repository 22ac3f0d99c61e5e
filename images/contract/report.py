"""What a job says last, to whoever started it and shares no disk with it: Kubernetes' termination message."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from pydantic_core import to_json

from images.contract.parts import Record

LONGEST = 512
"""Bytes of a report. Kubernetes keeps 12 KiB of a pod, in equal parts for its containers, and tells none how many
there are: whole for up to 24. All but message and advice takes less than 300."""


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
        path.write_bytes(self._short().model_dump_json().encode())

    def _short(self) -> Self:
        """Cut to what Kubernetes keeps: the advice first, then the message."""
        bare = self.model_copy(update={"message": "", "advice": ""})
        message = _beginning(self.message, LONGEST - len(to_json(bare)))
        room = LONGEST - len(to_json(bare.model_copy(update={"message": message})))
        return bare.model_copy(update={"message": message, "advice": _beginning(self.advice, room)})

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None if it is no report, as where a container was killed before it could say anything."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


def _beginning(text: str, room: int) -> str:
    """As much of it as takes at most `room` bytes in JSON, and as UTF-8 can say it."""
    text = text.encode("utf-8", "replace").decode()
    for at, character in enumerate(text):
        room -= len(to_json(character)) - len('""')
        if room < 0:
            return text[:at]
    return text
