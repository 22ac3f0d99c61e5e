"""Every path below an output directory, and who may write where.

OUT/{name}_{timestamp}/           finished cycles and failures; only `publish` puts them there
OUT/raw/{experiment_id}/          what single processes of an incomplete experiment left
OUT/.attempts/{study}-c001-a1-../ one try at one cycle; the job writes here and nowhere else
OUT/.attempts/{study}.lock        held while a runner works on the study
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from images.contract import files
from images.contract.config import ExperimentConfig
from images.contract.job import CONFIG_FILE, CONTEXT_FILE, PROGRESS_FILE, ExitCode, JobContext, JobError

_ATTEMPTS = ".attempts"
_ATTEMPT = re.compile(r"(?P<study>.+)-c\d+-a\d+-[0-9a-f]{8}")


class OutputUnusable(JobError):
    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Attempt:
    """The private folder of one try at one cycle."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / CONFIG_FILE

    @property
    def context(self) -> Path:
        return self.folder / CONTEXT_FILE

    @property
    def progress(self) -> Path:
        return self.folder / PROGRESS_FILE

    @property
    def log(self) -> Path:
        """Output of a local job."""
        return self.folder / "job.log"

    @property
    def token(self) -> Path:
        """The hub token while a container needs it; outside the folder, which the job can list."""
        return self.folder.with_name(f".{self.folder.name}.token")

    def prepare(self, config: ExperimentConfig, context: JobContext) -> None:
        """Write what the job reads."""
        self.config.write_text(config.model_dump_json())
        self.context.write_text(context.model_dump_json())

    def launcher(self) -> str | None:
        """Name of the launcher that started it; None if it was never started."""
        try:
            return JobContext.model_validate_json(self.context.read_bytes()).launcher
        except (OSError, ValueError):
            return None

    def finished_directory(self) -> Path | None:
        """The one directory with a result or a failure that the job left; None if it left none."""
        return next(files.find_directories(self.folder), None)

    def raw_folders(self) -> dict[str, Path]:
        """Raw results of processes of an experiment that did not complete, by experiment id."""
        kept = {path.name: path for path in (self.folder / files.RAW_FOLDER).glob("*")}
        for path in self.folder.glob(f"{files.UNFINISHED_RAW_PREFIX}*"):
            # The job was killed; a process without its marker may have been in the middle of writing.
            if any(path.glob(f"{files.COMPLETED_PREFIX}*")):
                kept[path.name.removeprefix(files.UNFINISHED_RAW_PREFIX)] = path
        return kept

    def remove(self) -> None:
        """Only after what it held was published."""
        self.token.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Layout:
    """One output directory.

    Raises:
        OutputUnusable: it is a file, or cannot be made or written.
    """

    def __init__(self, output: Path) -> None:
        self.output = output.expanduser().resolve()
        self._attempts = self.output / _ATTEMPTS
        try:
            self._attempts.mkdir(parents=True, exist_ok=True)
            probe = self._attempts / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputUnusable(
                f"the output directory {self.output} is not writable ({error.strerror}).",
                "Choose another one with --output, or give yourself the right to write there.",
            ) from None

    def new_attempt(self, study: str, cycle: int, attempt: int) -> Attempt:
        """A fresh empty folder on the same file system as the output, so that publishing is one rename."""
        folder = self._attempts / f"{_slug(study)}-c{cycle:03d}-a{attempt}-{secrets.token_hex(4)}"
        folder.mkdir()
        return Attempt(folder)

    def is_of(self, name: str, study: str) -> bool:
        """Whether `name`, as `attempts` gives it, is that study."""
        return name == _slug(study)

    def attempts(self) -> dict[str, list[Attempt]]:
        """All attempt folders, by study: those of running runners, and what killed ones left."""
        found: dict[str, list[Attempt]] = {}
        for path in sorted(self._attempts.iterdir()):
            if match := _ATTEMPT.fullmatch(path.name):
                found.setdefault(match["study"], []).append(Attempt(path))
        return found

    @contextmanager
    def lock(self, study: str) -> Iterator[bool]:
        """Hold the study's lock; yields False if another runner holds it.

        The file is removed with the lock. That is only safe because nobody opens it meanwhile: opening,
        and removing with releasing, each happen under one lock of the whole output directory.
        """
        path = self._attempts / f"{_slug(study)}.lock"
        everyone = FileLock(self._attempts / ".lock")
        lock = FileLock(path)
        with everyone, suppress(Timeout):
            lock.acquire(timeout=0)
        held = lock.is_locked
        try:
            yield held
        finally:
            if held:
                with everyone:
                    path.unlink(missing_ok=True)
                    lock.release()

    def publish(self, directory: Path) -> Path:
        """Move a whole directory from an attempt to the output, with one rename."""
        return files.publish(directory, self.output, directory.name)

    def publish_raw(self, attempt: Attempt) -> list[Path]:
        """Move what single processes of an incomplete experiment left to OUT/raw/, where it waits for aggregation."""
        published = []
        for experiment_id, folder in attempt.raw_folders().items():
            raw = self.output / files.RAW_FOLDER
            raw.mkdir(exist_ok=True)
            published.append(files.publish(folder, raw, experiment_id))
        return published


def take_back(folder: Path) -> None:
    """Make everything in `folder` the calling user's, after a container wrote there as another one."""
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent) / name for name in (*folders, *names))):
            status = path.lstat()
            if (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
                os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)


def _slug(study: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", study.lower()).strip("-.")[: files.MAX_NAME] or "study"
