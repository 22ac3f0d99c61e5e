"""The folder in which runners of any user say which GPUs of this host they have.

LEASES/.lock         held while somebody leases, gives back or looks; it stays
LEASES/GPU-...lock   held while a runner has the GPU; the kernel frees it when the runner dies, however it dies
LEASES/GPU-...json   what the runner does there; one that a dead runner left says whose job may still run there

The folder is sticky, because all users share it. So of another user's file only two things are allowed: to open
it as it is, without O_CREAT (fs.protected_regular), and to write into it. It cannot be replaced or removed.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter

from images.contract.job import ExitCode, JobError
from images.contract.parts import Record, UtcDatetime

ENV_LEASES = "JOULEHOUSE_LEASES"

_RUN_LOCK = Path("/run/lock")
_ELSEWHERE = Path("/tmp/joulehouse-leases")
_FOLDER_MODE = 0o1777
_FILE_MODE = 0o666
_PATIENCE_S = 30.0
_POLL_S = 0.002
_logger = logging.getLogger(__name__)


class LeaseFolderUnusable(JobError):
    exit_code = ExitCode.USAGE


class LeaseRecord(Record):
    """Who has a GPU, and for what."""

    uuid: str
    pid: int = Field(description="of the runner")
    started: int | None = Field(None, description="when that process started, as `process_started` gives it")
    user: int = Field(description="the runner's user id on the host")
    output: Path
    study: str | None = None
    launcher: str
    experiment: str | None = Field(None, description="None: nothing ran there yet")
    cycle: int | None = None
    attempt: Path | None = Field(None, description="folder of the try that runs there")
    used: bool = Field(True, description="False: only kept free of others, by an exclusive run")
    since: UtcDatetime = Field(description="when it was leased, or when the experiment came")


_RECORDS = TypeAdapter(list[LeaseRecord])


def lease_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """JOULEHOUSE_LEASES, or else the one place of this host that is the same for all users.

    It depends on nothing that differs between users, such as TMPDIR, nor on who comes first: /run/lock where
    everybody may write there, as on Debian, or where the administrator has made the folder; elsewhere /tmp.
    (/dev/shm would not do: logind removes a user's files there when the user logs out.)
    """
    named = environment.get(ENV_LEASES)
    if named:
        return Path(named).expanduser().absolute()
    folder = _RUN_LOCK / "joulehouse"
    return folder if _open_to_all(folder) or _open_to_all(_RUN_LOCK) else _ELSEWHERE


def process_started(pid: int) -> int | None:
    """Clock ticks from the host's start to the process's, which tell a pid that was given out again.

    None if there is no such process, or it has ended and only its parent has not asked how.
    """
    try:
        # The name in brackets may hold anything. Its state is field 3, the start field 22.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class LeaseFolder:
    """Reading, writing and locking there. All but `make`, `exists` and `alone` only while `alone`.

    Raises:
        LeaseFolderUnusable: every method that touches it, where it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        try:
            return self._path.exists()
        except OSError as error:
            raise self._unusable(error) from None

    def make(self) -> None:
        """Whole at once: nobody ever sees it, or its lock, without the modes that let everybody in."""
        try:
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = Path(tempfile.mkdtemp(prefix=f".{self._path.name}-", dir=self._path.parent))
                (unfinished / ".lock").touch()
                (unfinished / ".lock").chmod(_FILE_MODE)
                unfinished.chmod(_FOLDER_MODE)
                try:
                    unfinished.rename(self._path)
                except OSError:  # somebody else was faster; a folder that holds a file is never replaced
                    (unfinished / ".lock").unlink()
                    unfinished.rmdir()
            with self.alone(), tempfile.TemporaryFile(dir=self._path):
                pass
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def alone(self, patience_s: float | None = None) -> Iterator[None]:
        """Nobody else leases, gives back or looks meanwhile. Not for long, and not twice in one thread."""
        # The file is one of all users. Threads of this process keep each other out as well: each has a descriptor.
        lock = FileLock(self._path / ".lock", mode=_FILE_MODE)
        patience_s = _PATIENCE_S if patience_s is None else patience_s
        try:
            lock.acquire(timeout=patience_s, poll_interval=_POLL_S)
        except Timeout:
            raise LeaseFolderUnusable(
                f"the lease folder {self._path} has been locked by somebody else for {patience_s:g} s.",
                f"A runner hangs there: find it with `fuser -v {self._path / '.lock'}`, and continue or end it.",
            ) from None
        except OSError as error:
            raise self._unusable(error) from None
        try:
            yield
        except OSError as error:
            raise self._unusable(error) from None
        finally:
            lock.release()

    def uuids(self) -> list[str]:
        """GPUs with a file here."""
        return sorted({path.stem for path in self._path.glob("GPU-*") if path.suffix in (".json", ".lock")})

    def take(self, uuid: str) -> FileLock | None:
        """The GPU's lock, held; None if somebody has it."""
        # Not bound to a thread: a lease may end in another one than it began in.
        lock = FileLock(self._path / f"{uuid}.lock", mode=_FILE_MODE, thread_local=False)
        with suppress(Timeout):
            lock.acquire(timeout=0)
        return lock if lock.is_locked else None

    def give_back(self, lock: FileLock) -> None:
        """Remove and release it. Safe only because nobody opens the file in between."""
        try:
            with suppress(PermissionError):  # another user's; it stays, and means nothing
                Path(lock.lock_file).unlink(missing_ok=True)
        finally:
            lock.release()

    def read(self, uuid: str) -> list[LeaseRecord]:
        """Of dead runners, oldest first, and at the end of the one that has the GPU now."""
        path = self._path / f"{uuid}.json"
        try:
            line = path.read_bytes().partition(b"\n")[0]
        except FileNotFoundError:
            return []
        try:
            return _RECORDS.validate_json(line) if line else []
        except ValueError:
            _logger.warning("lease_unreadable: %s does not say who had the GPU. A job may still run there.", path)
            return []

    def write(self, uuid: str, records: list[LeaseRecord]) -> None:
        """In place, because another user's file cannot be replaced.

        One call writes the line, and only the first line counts: a runner killed here leaves the old or the new one.
        """
        path = self._path / f"{uuid}.json"
        if not records:
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                os.truncate(path, 0)
            return
        line = _RECORDS.dump_json(records) + b"\n"
        try:
            descriptor = os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            os.fchmod(descriptor, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(line)
            opened.truncate(len(line))

    def _unusable(self, error: OSError) -> LeaseFolderUnusable:
        where = "" if error.filename in (None, str(self._path)) else f"{error.filename}: "
        return LeaseFolderUnusable(
            f"the lease folder {self._path} cannot be used ({where}{error.strerror}).",
            f"Let all users of this host write there (mode 1777), or name one folder for all with {ENV_LEASES}.",
        )


def _open_to_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and bool(mode & stat.S_IWOTH)
