"""One try at one cycle, as far as its place is concerned."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from images.contract.publication import Manifest, begun_key, claim_key
from images.harness.publishing.place import Place, PlaceUnusable

log = logging.getLogger(__name__)


class Publisher:
    """
    Args:
        place: where everything of the study goes.
        config_hash: with `cycle`, what counts only once.
        attempt: a name of this try that no other has, such as that of its pod.
    """

    def __init__(self, place: Place, config_hash: str, cycle: int, attempt: str | None = None) -> None:
        self._place = place
        self._claim = claim_key(config_hash, cycle)
        self._begun = begun_key(config_hash, cycle)
        self._mark = begun_key(config_hash, cycle, attempt or secrets.token_hex(8))

    def published(self) -> Manifest | None:
        """The try that counts, if there is one already; if it was killed on the way, it is brought to its end."""
        raw = self._place.read(self._claim)
        first = None if raw is None else Manifest.parse(raw)
        if first is not None:
            self._place.finish(first)
        return first

    def begin(self) -> int:
        """Note that this try begins; returns its number, from 1. Shows that the place can be written."""
        earlier = [name for name in self._place.names(self._begun) if not self._mark.endswith(f"/{name}")]
        self._place.create(self._mark, b"")
        return len(earlier) + 1

    def take_back(self) -> None:
        """This try says nothing about its experiment: it was ended from outside."""
        self._place.remove(self._mark)

    def publish_result(self, directory: Path, experiment_id: str) -> Manifest:
        """Publish a finished directory, unless another try's was first; returns the one that counts."""
        own = Manifest.of(directory, experiment_id)
        self._place.bring(directory, own)
        if self._place.create(self._claim, own.model_dump_json(indent=1).encode()):
            self._place.finish(own)
            return own
        self._place.drop(own)
        first = self.published()
        if first is None:
            raise PlaceUnusable(f"{self._claim} is no manifest.", "Remove it there and run again.")
        log.warning("the result of another try was published first (%s); this one is dropped", first.directory)
        return first


def publish_failure(place: Place, directory: Path, experiment_id: str) -> Manifest:
    """Publish a failure; every one of them counts."""
    own = Manifest.of(directory, experiment_id)
    place.bring(directory, own)
    place.finish(own)
    return own
