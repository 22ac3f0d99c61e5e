"""progress.json: what a running job tells its runner, in the attempt's folder.

Written anew as each phase begins, and about once a second while tokens are generated: in warm_up and window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from images.contract import files
from images.contract.parts import Record, UtcDatetime


class JobProgress(Record):
    phase: str = Field(
        description="start, cool_down, baseline, load, warm_up, window or close; of several processes the slowest one's"
    )
    time: UtcDatetime = Field(description="when the phase began")
    output_tokens: int | None = Field(
        None,
        description="delivered since the phase began, by all processes; never falls in a phase, and grows as long as "
        "work is done; None where the engine does not tell, and where nothing is generated (tokens)",
    )
    output_tokens_per_second: float | None = Field(
        None, description="since the last report; None in a phase's first one (tokens/s)"
    )
    power_w: float | None = Field(
        None, description="latest reading, all GPUs of the job; None without one of each GPU (W)"
    )

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What was reported last; None before the first report, or if it cannot be read."""
        try:
            return cls.model_validate(files.read_json(path))
        except (files.UnreadableResult, ValidationError):
            return None

    def save(self, path: Path) -> None:
        """Replace the report, atomically.

        Raises:
            OSError: cannot be written; the old one stays.
        """
        files.write_atomic(path, self.model_dump_json(indent=1))
