"""Where result directories lie: on this machine's disks, or in object storage.

A source says which directories there are and what they look like from outside, and gives local copies of those
that are to be read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images.contract import files
from warehouse.errors import WarehouseError

READ = (files.RESULT_FILE, files.FAILURE_FILE, files.REQUESTS_FILE, files.TIMESERIES_FILE)
"""All files of a directory that ingest reads."""
MARKS = frozenset((files.RESULT_FILE, files.FAILURE_FILE))
"""Files that make a folder a directory of ours."""
_SIDECARS = frozenset(files.SIDECAR_SCHEMAS)
_DEEPEST = 100
"""Folders below a root; every level is an open folder and a call."""
_NOTHING_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
"""Errors of opening a folder that tell that there is none: links to folders are passed over."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A directory with a result, a failure, or only a sidecar that lost its result.

    Attributes:
        name: as the database stores it: an absolute path, or s3://bucket/key.
        signature: times and sizes of what is in it; while it is the same, nothing is read again.
        n_bytes: of the files that ingest reads.
        files: their names.
    """

    name: str
    signature: str
    n_bytes: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A directory that was there and cannot be had now, and why."""

    reason: str


class Source(Protocol):
    """One root that directories are taken from.

    Attributes:
        address: as the user knows it.
        unreadable: one line for each part of it that the scan could not look into.
        within: local folder that links of its files may lead to; None: there are no links.
    """

    address: str
    unreadable: list[str]
    within: Path | None

    def scan(self, known: Mapping[str, str]) -> Iterator[Candidate]:
        """Every directory below the root, in an order that depends on nothing but names.

        Args:
            known: signatures by name from the last time, so that what is unchanged need not be opened.
        """
        ...

    def fetched(self, batch: Sequence[Candidate]) -> AbstractContextManager[list[Path | Unreachable]]:
        """Local directories in the batch's order, for as long as the context lasts."""
        ...

    def holds(self, name: str) -> bool:
        """Whether a directory of this name lies below the root."""
        ...

    def exists(self, name: str) -> bool:
        """Whether it is there and holds something of ours; also true if that cannot be told."""
        ...

    def emptied(self, names: Iterable[str]) -> Counter[str]:
        """How many of `names` lay below each folder that is there and empty, as that of a disk that is not mounted."""
        ...


class LocalSource:
    """A folder on this machine. Dot names, which are unfinished work, and links to directories are passed over."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.address = storable(str(self.root))
        self.within: Path | None = self.root
        self._paths: dict[str, str] = {}
        """Of names that are not their own path, because the path is not UTF-8."""
        self.unreadable: list[str] = []

    @classmethod
    def open(cls, address: str) -> LocalSource:
        """
        Raises:
            WarehouseError: not a readable directory.
        """
        root = Path(address)
        if not address:
            raise WarehouseError("the name of the folder is empty. Give the folder that the runner wrote to.", 2)
        try:
            mode = root.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise WarehouseError(
                f"{root} does not exist. Give the folder that the runner wrote its results to.", 2
            ) from None
        except OSError as error:
            raise WarehouseError(f"{storable(str(root))} cannot be read ({error.strerror}). Correct that.", 2) from None
        if not stat.S_ISDIR(mode):
            raise WarehouseError(f"{root} is not a directory. Give the folder that holds the result directories.", 2)
        if not os.access(root, os.R_OK | os.X_OK):
            raise WarehouseError(f"{root} cannot be read (permission denied). Correct its permissions.", 2)
        return cls(root)

    def scan(self, known: Mapping[str, str]) -> Iterator[Candidate]:
        yield from self._scan(str(self.root), known)

    def fetched(self, batch: Sequence[Candidate]) -> AbstractContextManager[list[Path | Unreachable]]:
        return nullcontext([Path(self._path(candidate.name)) for candidate in batch])

    def holds(self, name: str) -> bool:
        return Path(name).is_relative_to(storable(str(self.root)))

    def exists(self, name: str) -> bool:
        return is_there(self._path(name))

    def emptied(self, names: Iterable[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for folder, count in Counter(Path(self._path(name)).parent for name in names).items():
            while folder != self.root and self.root in folder.parents and not os.path.lexists(folder):
                folder = folder.parent
            if _is_empty(folder):
                counts[storable(str(folder))] += count
        return counts

    def _scan(self, folder: str, known: Mapping[str, str], level: int = 0) -> Iterator[Candidate]:
        if level > _DEEPEST:
            self.unreadable.append(f"{storable(folder)} lies deeper than {_DEEPEST} folders; it is passed over")
            return
        try:
            # Names are looked up from here on: of a hundred thousand whole paths that would take half as long again.
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._pass_over(folder, error)
            return
        try:
            yield from self._scan_opened(folder, handle, known, level)
        finally:
            os.close(handle)

    def _scan_opened(self, folder: str, handle: int, known: Mapping[str, str], level: int) -> Iterator[Candidate]:
        try:
            names, folders, links = _listed(handle)
        except OSError as error:
            self._pass_over(folder, error)
            return
        for link in links:
            if os.path.isdir(f"{folder}/{link}"):  # noqa: PTH112 - see `exists`
                self.unreadable.append(
                    f"{storable(folder)}/{storable(link)} is a link to a folder; it is passed over. "
                    "Give the folder itself to take what it holds"
                )
        if _is_ours(names, folders):
            yield self._candidate(folder, ".", handle, [name for name in READ if name in names])
            return
        for name in folders:
            path = f"{folder}/{name}"
            old = known.get(path)
            # Looked at from outside: opening each of many directories would take longer than all the rest.
            if old is not None and (seen := self._candidate(path, name, handle, files_in(old))).signature == old:
                yield seen
            else:
                yield from self._scan(path, known, level + 1)

    def _candidate(self, path: str, name: str, handle: int, names: Sequence[str]) -> Candidate:
        """
        Args:
            name: of the directory, from the open folder `handle`.
            names: of its files.
        """
        stored = storable(path)
        if stored != path:
            self._paths[stored] = path
        n_bytes = 0
        try:
            parts = [str(os.stat(name, dir_fd=handle).st_mtime_ns)]
            for file in names:
                status = os.stat(f"{name}/{file}", dir_fd=handle)
                parts.append(f"{file}:{status.st_mtime_ns}:{status.st_size}")
                n_bytes += status.st_size
        except OSError:
            parts = ["?"]  # differs from every whole signature, so that it is looked at again
        return Candidate(stored, " ".join(parts), n_bytes, tuple(names))

    def _pass_over(self, folder: str, error: OSError) -> None:
        self.unreadable.append(f"{storable(folder)} cannot be read ({error.strerror}); it is passed over")

    def _path(self, name: str) -> str:
        return self._paths.get(name, name)


def is_there(path: str) -> bool:
    """Whether a scan would find a directory of ours at `path`; also true if that cannot be told."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        return error.errno not in _NOTHING_THERE
    try:
        names, folders, _ = _listed(handle)
        return _is_ours(names, folders)
    except OSError:
        return True
    finally:
        os.close(handle)


def _listed(handle: int) -> tuple[set[str], list[str], list[str]]:
    """Names of what may be files of ours in an open folder, of the folders to look into, and of other links."""
    with os.scandir(handle) as entries:
        seen = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries]
    links = sorted(name for name, _, is_link in seen if is_link and name not in READ and not name.startswith("."))
    found = sorted((name, is_folder) for name, is_folder, _ in seen)
    # A folder in the place of a document is not looked into but told of.
    names = {name for name, is_folder in found if not is_folder or name in MARKS}
    return names, [name for name, is_folder in found if is_folder and not name.startswith(".")], links


def _is_ours(names: set[str], folders: Sequence[str]) -> bool:
    return bool(names & MARKS or (not folders and names & _SIDECARS))


def _is_empty(folder: Path) -> bool:
    """False if that cannot be told."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def files_in(signature: str) -> list[str]:
    """The files that a signature of a local directory speaks of."""
    return [part.partition(":")[0] for part in signature.split(" ")[1:]]


def sizes_of(directory: Path, names: Sequence[str], within: Path | None) -> dict[str, int]:
    """Bytes of those of `names` that are there.

    Args:
        within: links to files below it are the user's own way to share them, all others are an attack; None: no link.

    Raises:
        StrayFile: one is no plain file, or a link out of `within`.
        OSError: it cannot be looked at.
    """
    sizes = {}
    for name in names:
        try:
            status = os.lstat(f"{directory}/{name}")
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            path = directory / name
            if within is None or not path.is_file() or not path.resolve().is_relative_to(within):
                raise StrayFile(f"{path} is not a plain file of this folder")
            status = path.stat()
        sizes[name] = status.st_size
    return sizes


class StrayFile(ValueError):
    """A file that is not where it seems to be."""


def storable(text: str) -> str:
    """Python reads bytes that are not UTF-8 as lone surrogates, which neither a database nor a terminal takes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
