"""A folder that several hosts share, such as a PersistentVolumeClaim."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from images.contract import files
from images.contract.publication import UPLOADS, Manifest
from images.harness.publishing.place import PlaceAway, PlaceDenied

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Folder:
    """
    Args:
        root: the place.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, key: str, data: bytes) -> bool:
        path = self._root / key
        with self._failing():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                files.write_synced(scratch, data)
                # What is there may be ours: the answer to a link over a network was lost.
                new = _linked(scratch, path, data) or path.read_bytes() == data
                files.sync(path.parent)
                return new
            finally:
                scratch.unlink(missing_ok=True)

    def read(self, key: str) -> bytes | None:
        with self._failing(), suppress(FileNotFoundError):
            return (self._root / key).read_bytes()
        return None

    def names(self, folder: str) -> Sequence[str]:
        with self._failing(), suppress(FileNotFoundError):
            return sorted(path.name for path in (self._root / folder).iterdir() if not path.name.startswith("."))
        return []

    def remove(self, key: str) -> None:
        with self._failing():
            (self._root / key).unlink(missing_ok=True)

    def bring(self, directory: Path, manifest: Manifest) -> None:
        on_its_way = self._on_its_way(manifest)
        with self._failing():
            files.remove_folder(on_its_way)  # half a copy of a try before
            on_its_way.mkdir(parents=True)
            for file in manifest.files:
                # Contents only: not every shared file system takes permissions and times.
                shutil.copyfile(directory / file.name, on_its_way / file.name)
                files.sync(on_its_way / file.name)
            files.sync(on_its_way)

    def finish(self, manifest: Manifest) -> None:
        target = self._root / manifest.directory
        with self._failing():
            target.parent.mkdir(exist_ok=True)
            try:
                self._on_its_way(manifest).rename(target)
            except FileNotFoundError:
                if not target.is_dir():
                    raise
            files.sync(target.parent)
        with suppress(OSError):
            self._on_its_way(manifest).parent.rmdir()

    def drop(self, manifest: Manifest) -> None:
        files.remove_folder(self._on_its_way(manifest).parent)

    def _on_its_way(self, manifest: Manifest) -> Path:
        return self._root / UPLOADS / manifest.experiment_id / Path(manifest.directory).name

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise PlaceAway(
                    f"{self._root} cannot take what was measured ({error.strerror}).", "Make room there; run again."
                ) from None
            raise PlaceDenied(
                f"{self._root} cannot be written by uid {os.getuid()}, gid {os.getgid()} ({error.strerror}).",
                "Give that user or group the right to write there.",
            ) from None


def _linked(scratch: Path, path: Path, data: bytes) -> bool:
    """Give the scratch file its name, if that is free. File systems without links cannot do it at once."""
    try:
        path.hardlink_to(scratch)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileExistsError), path.open("xb") as stream:
            stream.write(data)
            return True
        return False
    return True
