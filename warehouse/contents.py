"""What is in a results folder as jobs and runners leave it, by names as far as they say it.

BASE/[STUDY/]{name}_{timestamp}/      a result, or a failure
BASE/[STUDY/]raw/{experiment_id}/     what single processes of an incomplete experiment left

Names that begin with a dot are unfinished work and are passed over. Links are not followed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from images.contract.files import FAILURE_FILE, RAW_FOLDER, RESULT_FILE, DirectoryName, parse_directory_name

_NAME_TIME = re.compile(r".*_([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2})-([0-9]{2})-([0-9]{2})Z(?:_[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Finished:
    """A directory with a result or a failure.

    Attributes:
        folder, name: a path of which there are very many.
        parsed: what its name says; None if that was not given by us.
        time: ``YYYYMMDD_HHMMSS`` of its name (UTC); empty if it has none.
    """

    folder: Path
    name: str
    parsed: DirectoryName | None
    time: str
    failed: bool

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def file(self) -> Path:
        return self.path / (FAILURE_FILE if self.failed else RESULT_FILE)


@dataclass(frozen=True, slots=True)
class Contents:
    """What names alone say of a results folder.

    Attributes:
        raw: folders of raw results.
        problems: what could not be looked into, and why.
    """

    finished: list[Finished]
    raw: list[Path]
    problems: list[str]


def scan(base: Path) -> Contents:
    """Everything below `base`, finished directories in the order of their times.

    Raises:
        OSError: `base` cannot be read.
    """
    contents = Contents([], [], [])
    folders = [base]
    while folders:
        folder = folders.pop()
        try:
            folders += _look_into(folder, contents)
        except OSError as error:
            if folder == base:
                raise
            contents.problems.append(f"{folder} cannot be read ({error.strerror})")
    contents.finished.sort(key=lambda one: (one.time, one.name))
    contents.raw.sort()
    return contents


def _look_into(folder: Path, contents: Contents) -> list[Path]:
    """Add what is in one folder; returns the folders below it that may hold more."""
    below = []
    with os.scandir(folder) as entries:
        directories = [one.name for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False)]
    for name in directories:
        if name == RAW_FOLDER:
            try:
                contents.raw.extend(_folders_in(folder / name))
            except OSError as error:
                contents.problems.append(f"{folder / name} cannot be read ({error.strerror})")
        elif finished := _finished(folder, name):
            contents.finished.append(finished)
        else:
            below.append(folder / name)
    return below


def _finished(folder: Path, name: str) -> Finished | None:
    """What a directory is: by its name if that was given by us, else by the files in it."""
    parsed = parse_directory_name(name)
    match = _NAME_TIME.fullmatch(name)
    time = "{}{}{}_{}{}{}".format(*match.groups()) if match else ""
    if parsed is not None:
        return Finished(folder, name, parsed, time, parsed.failed)
    for file in (RESULT_FILE, FAILURE_FILE):
        if os.path.isfile(folder / name / file):  # noqa: PTH113 - a folder that nobody may look into has none
            return Finished(folder, name, None, time, failed=file == FAILURE_FILE)
    return None


def _folders_in(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        return [path / one.name for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False)]
