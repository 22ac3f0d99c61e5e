"""Folders for what does not fit into memory. One that a killed process left goes when the next is made."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = ".joulehouse-scratch-"
_NAME = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")
_MARK = ".made-by-joulehouse"
"""Empty file in every scratch folder: no other folder is ever removed, whatever its name."""


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder in `parent`, or among the temporary ones, which goes with the block; in it is nothing but a mark."""
    parent = parent or Path(tempfile.gettempdir())
    remove_orphans(parent)
    # It gets its name when it is locked, so that nobody takes it for an orphan before.
    made = Path(tempfile.mkdtemp(prefix=".joulehouse-new-", dir=parent))
    folder = made.with_name(_PREFIX + made.name[-8:])
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (made / _MARK).touch()
        with suppress(OSError):  # then this file system locks nothing, and nobody can find it unlocked
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made.rename(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_orphans(parent: Path) -> None:
    """Scratch folders that killed processes left in `parent`: nobody holds a lock on them.

    Unlike a process id, a lock means the same in every container.
    """
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # such as another user's, into which nobody may look
            if _NAME.fullmatch(folder.name) and (folder / _MARK).is_file():
                _remove_orphan(folder)


def _remove_orphan(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
