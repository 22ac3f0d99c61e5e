"""Names and labels of what is ours in a cluster. The same study always has the same ones."""

from __future__ import annotations

import hashlib
import re

from runner.layout import slug
from runner.studies.study import Study

APP = "joulehouse"
STUDY = f"{APP}.io/study"
STUDY_ID = f"{APP}.io/study-id"
CYCLE = f"{APP}.io/cycle"
CONFIG_HASH = f"{APP}.io/config-hash"
BACKEND = f"{APP}.io/backend"
STUDY_NAME = f"{APP}.io/study-name"
"""Annotation: the name as it was written, which a label cannot hold."""
SETTINGS = f"{APP}.io/settings"
"""Annotation of a Job: digest of images and settings that its pods are made of."""
CELLS = f"{APP}.io/cells"
"""Annotation of a Job: which experiment and cycle each of its containers, or indexes, is."""
_LONGEST = 50
"""So that a pod's name, which gets an index and five letters more, is a host name (63)."""


def study_id(study: Study) -> str:
    """Tells studies apart: by name, by namespace, and by where their results go, which is whose they are."""
    asked = (study.kubernetes.namespace or "", study.kubernetes.results or "", study.name)
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:8]


def folder_name(study: Study) -> str:
    """Of the study in its place."""
    return f"{slug(study.name)}-{study_id(study)}"


def job_name(study: Study, *parts: str) -> str:
    """``{study}-{id}-{parts}``, a host name; of a long study name its beginning."""
    tail = "-".join((study_id(study), *parts))
    head = _host_name(study.name)[: _LONGEST - len(tail) - 1].strip("-")
    return f"{head}-{tail}" if head else f"s-{tail}"


def labels(study: Study, further: dict[str, str] | None = None, component: str = "job") -> dict[str, str]:
    """Of everything that belongs to a study; ours win over `further` ones."""
    return {
        **(further or {}),
        "app.kubernetes.io/name": APP,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "joulehouse-runner",
        "app.kubernetes.io/instance": _label(study.name),
        STUDY: _label(study.name),
        STUDY_ID: study_id(study),
    }


def container_name(position: int, experiment: str) -> str:
    """Of the n-th job in a pod, from 1; unique in it."""
    name = f"e{position:03d}-{_host_name(experiment)}"
    return name[:_LONGEST].strip("-")


def _host_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:63].strip("-_.")
