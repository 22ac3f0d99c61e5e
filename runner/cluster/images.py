"""Which image a pod runs: one that cannot change under its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from images.contract.config import BackendName
from images.contract.job import ConfigInvalid
from runner.studies.study import Study

_REFERENCE = re.compile(
    r"(?P<name>[a-z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?(?:/[a-z0-9][a-z0-9._-]*)*)(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class Image:
    """
    Attributes:
        reference: as a pod names it.
        name: without digest.
        digest: sha256:...; None of a tag.
    """

    reference: str
    name: str
    digest: str | None


def study_images(study: Study, *, allow_tag: bool) -> dict[str, Image]:
    """The image of each backend that the study uses.

    Raises:
        ConfigInvalid: one is not named, or only by a tag, which may mean another image tomorrow.
    """
    found: dict[str, Image] = {}
    for backend in _backends(study):
        text = study.kubernetes.images.get(backend)
        if text is None:
            raise ConfigInvalid(
                f"no image is named for backend {backend}.",
                f"Write kubernetes.images.{backend}: REGISTRY/joulehouse-{backend}@sha256:...; `make push` prints it.",
            )
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ConfigInvalid(
                f"kubernetes.images.{backend} is '{text}', which is no image reference.",
                "Write REGISTRY/NAME@sha256:..., as `make push` prints it.",
            )
        if match["digest"] is None and not allow_tag:
            raise ConfigInvalid(
                f"kubernetes.images.{backend} is '{text}', a tag, which may mean another image tomorrow.",
                "Name it by digest, as `make push` prints it, or give --allow-tag.",
            )
        found[backend] = Image(text, text.partition("@")[0], match["digest"])
    return found


def _backends(study: Study) -> Iterable[BackendName]:
    return sorted({experiment.config.backend for experiment in study.experiments})
