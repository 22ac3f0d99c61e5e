"""Every path below an output directory, and who may write where.

OUT/{name}_{timestamp}/           finished cycles and failures; only `publish` puts them there
OUT/.attempts/{study}-c001-a1-../ one try at one cycle; the job writes here and nowhere else
OUT/.attempts/{study}.lock        held while a runner works on the study
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from images.contract import files
from images.contract.job import CONFIG_FILE, CONTEXT_FILE, PROGRESS_FILE, ExitCode, JobError

_ATTEMPTS = ".attempts"


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
    def process(self) -> Path:
        """Identity of a local job's process."""
        return self.folder / "process.json"

    def finished_directory(self) -> Path | None:
        """The one directory with a result or a failure that the job left; None if it left none."""
        return next(files.find_directories(self.folder), None)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Layout:
    """One output directory.

    Raises:
        OutputUnusable: it is a file, or cannot be made or written.
    """

    def __init__(self, output: Path) -> None:
        self.output = output.expanduser().absolute()
        try:
            self._attempts = self.output / _ATTEMPTS
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
        name = f"{_slug(study)}-c{cycle:03d}-a{attempt}-{secrets.token_hex(4)}"
        folder = self._attempts / name
        folder.mkdir()
        return Attempt(folder)

    def attempts(self, study: str) -> list[Attempt]:
        """Folders of earlier runners of this study that ended before they could clear up."""
        pattern = re.compile(re.escape(_slug(study)) + r"-c\d+-a\d+-[0-9a-f]{8}")
        found = sorted(path for path in self._attempts.iterdir() if pattern.fullmatch(path.name))
        return [Attempt(path) for path in found]

    def lock_file(self, study: str) -> Path:
        return self._attempts / f"{_slug(study)}.lock"

    def publish(self, directory: Path) -> Path:
        """Move a whole directory from an attempt to the output, with one rename."""
        return files.publish(directory, self.output, directory.name)


def take_back(folder: Path) -> None:
    """Make everything in `folder` the calling user's, after a container wrote there as another one."""
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent) / name for name in (*folders, *names))):
            os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)


def _slug(study: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", study.lower()).strip("-.")[: files.MAX_NAME] or "study"
