"""What the process that downloads a model is asked, what it says, and words that both sides use."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from images.contract.job import ModelUnavailable


class Request(BaseModel):
    """What the parent wants.

    Attributes:
        reserve_bytes: to be left free on the disk.
        tries: at each step whose connection gets lost.
        pause_s: before the second one; doubles each time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    revision: str | None
    with_code: bool
    cache: Path
    reserve_bytes: int
    tries: int
    pause_s: float


class Event(BaseModel):
    """One line to the parent; what is not None has happened.

    Attributes:
        needed_bytes, n_files, commit: the download begins.
        got_bytes: of those needed, since it began.
        note: for the user.
        message, advice: it failed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needed_bytes: int | None = None
    n_files: int | None = None
    commit: str | None = None
    got_bytes: int | None = None
    note: str | None = None
    message: str | None = None
    advice: str | None = None


def size_text(n_bytes: float) -> str:
    """As disks are sold: powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def cache_not_writable(cache: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"the model cache {cache} cannot be written ({reason}).",
        "Give yourself the right to write there, or set HF_HOME to another folder.",
    )
