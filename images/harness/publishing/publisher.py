"""One try at one cycle, as far as its place is concerned."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images.contract.publication import SAID, LastWord, Manifest, begun_key, claim_key, said_key
from images.harness.publishing.place import Place, PlaceAway, PlaceUnusable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Earlier:
    """Tries at the same cycle in the same launch, before this one.

    Attributes:
        silent: those that have ended, or not, without a word.
        words: of the others, as far as they can be read.
    """

    n_tries: int
    silent: int
    words: Sequence[LastWord]


class Publisher:
    """
    Args:
        place: where everything of the study goes.
        config_hash: with `cycle`, what counts only once.
        launch: whose tries count together; None: nobody says.
        attempt: a name of this try that no other has, such as that of its pod.
    """

    def __init__(
        self, place: Place, config_hash: str, cycle: int, launch: str | None = None, attempt: str | None = None
    ) -> None:
        self._place = place
        self._claim = claim_key(config_hash, cycle)
        self._begun = begun_key(config_hash, cycle, launch)
        attempt = attempt or secrets.token_hex(8)
        self._mark = begun_key(config_hash, cycle, launch, attempt)
        self._said = said_key(config_hash, cycle, launch, attempt)

    def published(self) -> Manifest | None:
        """The try that counts, if there is one already; if it was killed on the way, it is brought to its end."""
        raw = self._place.read(self._claim)
        if raw is None:
            return None
        first = Manifest.parse(raw)
        try:
            if first is not None:
                self._place.finish(first)
                return first
        except FileNotFoundError:
            pass
        raise PlaceUnusable(
            f"{self._claim} names a result that is not there.",
            "Look what became of it; remove that file to measure anew.",
        )

    def begin(self) -> Earlier:
        """Note that this try begins, which shows that the place can be written, and keeps what it has.

        Raises:
            PlaceUnusable: it overwrites, so that a cycle could count twice.
        """
        there = self._place.names(self._begun)
        said = {name.removesuffix(SAID) for name in there if name.endswith(SAID)}
        earlier = {name for name in there if not name.endswith(SAID) and not self._mark.endswith(f"/{name}")}
        self._place.create(self._mark, b"")
        if self._place.create(self._mark, b"again"):
            raise PlaceUnusable(
                "the place overwrites what it has, where it was asked not to (If-None-Match).",
                "Take object storage that has put-if-absent, or a claim.",
            )
        words = [LastWord.parse(self._place.read(f"{self._begun}{name}{SAID}")) for name in sorted(said & earlier)]
        return Earlier(len(earlier), len(earlier - said), [word for word in words if word is not None])

    def say(self, word: LastWord) -> None:
        """This try could tell why it failed."""
        self._place.create(self._said, word.model_dump_json().encode())

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
        first = self.published()
        if first is None:
            raise PlaceAway(f"{self._claim} is taken and cannot be read.", "Run again; what was measured lies there.")
        if first.experiment_id != experiment_id:
            log.warning("the result of another try was published first (%s); this one is dropped", first.directory)
            self._place.drop(own)
        return first


def publish_failure(place: Place, directory: Path, experiment_id: str) -> Manifest:
    """Publish a failure; every one of them counts."""
    return _published(place, directory, Manifest.of(directory, experiment_id))


def publish_raw(place: Place, folder: Path, experiment_id: str) -> Manifest:
    """Publish what single processes of a failed experiment left."""
    return _published(place, folder, Manifest.of_raw(folder, experiment_id))


def _published(place: Place, directory: Path, own: Manifest) -> Manifest:
    place.bring(directory, own)
    place.finish(own)
    return own
