"""The database's file: whether there is one, making it whole, the lock beside it, and what can be wrong with it."""

from __future__ import annotations

import fcntl
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import duckdb

from warehouse.errors import WarehouseError, first_line
from warehouse.schema import create_all
from warehouse.scratch import scratch_folder

# DuckDB would otherwise try to download an extension when it is given, say, a SQLite file.
NO_EXTENSIONS = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
_ROOM_BYTES = 4 * 2**20
"""Free space below which a disk counts as full."""


def is_made(path: Path) -> bool:
    """An empty file is no database yet; it may be one that a program made for its name.

    Raises:
        WarehouseError: something else has the name, such as a folder or a device, or it cannot be looked at.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_be_opened(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise not_a_database(path)
    return status.st_size > 0


def make(path: Path) -> None:
    """The tables in a file of their own, which then gets its name: whoever is killed leaves no half of a database.

    If another process makes it meanwhile, that one is it.
    """
    try:
        target = path.resolve()
        with scratch_folder(target.parent) as folder:
            new = folder / target.name
            with duckdb.connect(str(new), config=dict(NO_EXTENSIONS)) as connection:
                connection.begin()
                create_all(connection)
                connection.commit()
            with locked(queue_of(target), fcntl.LOCK_EX):
                if not is_made(target):
                    _name(new, target)
    except (OSError, RuntimeError) as error:  # RuntimeError is a link that leads to itself
        reason = error.strerror if isinstance(error, OSError) else error
        raise WarehouseError(f"{path} cannot be made ({reason}). Give another file with --db.", 2) from None
    except duckdb.Error as error:
        raise cannot_be_written(path, error) from None


def refuse_other_formats(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb") as stream:
        head = stream.read(12)
    # A shorter file may be one that another process is just creating; DuckDB knows.
    if len(head) == 12 and head[8:] != b"DUCK":
        raise not_a_database(path)


@contextmanager
def locked(file: Path, operation: int) -> Iterator[None]:
    """Where nothing can be locked, everybody takes their chance."""
    with ExitStack() as stack:
        with suppress(OSError):
            held = stack.enter_context(file.open("ab"))
            fcntl.flock(held, operation)
        yield


def queue_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.queue")


def cannot_be_written(path: Path, error: Exception) -> WarehouseError:
    """In words that say what to do; DuckDB names a full disk in many ways, or not at all."""
    if "No space left" in str(error) or shutil.disk_usage(path.absolute().parent).free < _ROOM_BYTES:
        return WarehouseError(f"the disk of {path} is full. Make room and try again; what was stored before is kept.")
    return WarehouseError(f"{path} cannot be written: {first_line(error)}")


def not_a_database(path: Path) -> WarehouseError:
    return WarehouseError(f"{path} is not a DuckDB database. Give another file with --db.", 2)


def cannot_be_opened(path: Path, error: OSError) -> WarehouseError:
    return WarehouseError(f"{path} cannot be opened ({error.strerror}). Give another file with --db.", 2)


def _name(new: Path, target: Path) -> None:
    target.with_name(f"{target.name}.wal").unlink(missing_ok=True)  # of one that was deleted
    if target.exists():  # it is empty, and its permissions were given to it on purpose
        new.chmod(stat.S_IMODE(target.stat().st_mode))
        new.replace(target)
        return
    try:
        target.hardlink_to(new)  # unlike a renamed file, it never takes the place of one that is there
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        new.rename(target)
