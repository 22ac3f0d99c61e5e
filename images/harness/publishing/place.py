"""What a place can do, and which one an address means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from images.contract.job import ExitCode, JobError
from images.contract.publication import Manifest

OBJECT_STORAGE = "s3://"


class PlaceError(JobError):
    """What is measured cannot be published."""


class PlaceUnusable(PlaceError):
    """It is not there, or may not be used: no other try goes better."""

    exit_code = ExitCode.USAGE


class PlaceDenied(PlaceUnusable):
    """It may not be used as things are; whoever has something to lose waits until somebody mends that."""


class PlaceAway(PlaceError):
    """It does not answer, or has no room; another try may go better."""

    exit_code = ExitCode.MEASUREMENT_FAILED


class Place(Protocol):
    """Keys are relative paths. Every method raises PlaceUnusable or PlaceAway if the place fails."""

    def create(self, key: str, data: bytes) -> bool:
        """Write `data` under a new key, at once or not at all; False if the key is taken."""
        ...

    def read(self, key: str) -> bytes | None:
        """None if there is nothing."""
        ...

    def names(self, folder: str) -> Sequence[str]:
        """Of the files right below a key that ends with a slash, sorted."""
        ...

    def remove(self, key: str) -> None:
        """Also what is not there."""
        ...

    def bring(self, directory: Path, manifest: Manifest) -> None:
        """Put the directory's files on their way, where nobody looks."""
        ...

    def finish(self, manifest: Manifest) -> None:
        """Make a directory that was brought appear, at once for its readers; again and by several changes nothing.

        Raises:
            FileNotFoundError: neither there nor on its way.
        """
        ...

    def drop(self, manifest: Manifest) -> None:
        """Forget what was brought."""
        ...
