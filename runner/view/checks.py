"""What `runner doctor` says about one thing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "problem"]

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """
    Attributes:
        state: warning: jobs run, but may not do what was meant; problem: they do not run.
        found: what is there, in one line.
        next_step: what to do about it, in one line; empty where all is well.
    """

    name: str
    state: State
    found: str
    next_step: str = ""


def check_space(name: str, path: Path, enough_gib: float, least_gib: float, next_step: str) -> Check:
    """Room on the disk that holds `path`, or will hold it (GiB).

    Args:
        enough_gib: less is a warning.
        least_gib: less is a problem.
    """
    place = nearest(path)
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return Check(name, "problem", f"{place} cannot be read ({error.strerror})", "Correct its permissions.")
    free_gib = disk.f_bavail * disk.f_frsize / _GIB
    if disk.f_files and not disk.f_favail:
        return Check(name, "problem", f"no further file fits on the disk of {path} (inodes)", next_step)
    found = f"{free_gib:.1f} GiB free for {path}"
    if free_gib < enough_gib:
        return Check(name, "problem" if free_gib < least_gib else "warning", found, next_step)
    return Check(name, "ok", found)


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())
