"""Every path below an output directory, and who may write where.

OUT/{name}_{timestamp}/           finished cycles and failures; only `publish` puts them there
OUT/raw/{experiment_id}/          what single processes of an incomplete experiment left
OUT/.attempts/{study}-c001-a1-../ one try at one cycle; the job writes here and nowhere else
OUT/.attempts/{study}.lock        held while a runner works on the study
OUT/.attempts/{study}.runner      who that is
OUT/study.json                    what a study file's directory holds (record.py)
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from images.contract import files
from images.contract.config import ExperimentConfig
from images.contract.job import CONFIG_FILE, CONTEXT_FILE, PROGRESS_FILE, ExitCode, JobContext, JobError
from images.contract.scheduling import Neighbour
from runner.gpu.leases import process_started

_ATTEMPTS = ".attempts"
_LOOK_EVERY_S = 0.1
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
    def _neighbours(self) -> Path:
        return self.folder / "neighbours.json"

    def prepare(self, config: ExperimentConfig, context: JobContext) -> None:
        """Write what the job reads."""
        self.config.write_text(config.model_dump_json())
        self.context.write_text(context.model_dump_json())

    def load_context(self) -> JobContext | None:
        """What the job was told; None if it was never started."""
        try:
            return JobContext.model_validate_json(self.context.read_bytes())
        except (OSError, ValueError):
            return None

    def save_neighbours(self, neighbours: Sequence[Neighbour]) -> None:
        """On disk, so that a result has them also when another runner publishes it."""
        documents = [neighbour.model_dump(mode="json") for neighbour in neighbours]
        files.write_atomic(self._neighbours, json.dumps(documents))

    def load_neighbours(self) -> list[Any] | None:
        """Those saved last, as JSON; None if nobody looked."""
        try:
            return list(json.loads(self._neighbours.read_bytes()))
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
        shutil.rmtree(self.folder, ignore_errors=True)


class RunnerInfo(BaseModel):
    """Who works on a study."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int | None = Field(description="ticks from the host's start to the process's: tells a pid given out again")
    host: str

    @classmethod
    def of_this_process(cls) -> RunnerInfo:
        return cls(pid=os.getpid(), started=process_started(os.getpid()), host=platform.node())

    @property
    def is_here(self) -> bool:
        return self.host == platform.node()

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as that can be seen from this host."""
        return not self.is_here or process_started(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Layout:
    """One output directory; it is not touched before `prepare`."""

    def __init__(self, output: Path) -> None:
        self.output = output.expanduser().resolve()
        self._attempts = self.output / _ATTEMPTS

    def prepare(self) -> None:
        """Make it, and see that it can be written.

        Raises:
            OutputUnusable: it is a file, or cannot be made or written.
        """
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

    @property
    def attempts_folder(self) -> Path:
        return self._attempts

    @staticmethod
    def study_of(attempt: Attempt) -> str | None:
        """The slug of its study, by the folder's name."""
        match = _ATTEMPT.fullmatch(attempt.folder.name)
        return None if match is None else match["study"]

    def new_attempt(self, study: str, cycle: int, attempt: int) -> Attempt:
        """A fresh empty folder on the same file system as the output, so that publishing is one rename."""
        folder = self._attempts / f"{slug(study)}-c{cycle:03d}-a{attempt}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return Attempt(folder)

    def is_of(self, name: str, study: str) -> bool:
        """Whether `name`, as `attempts` gives it, is that study (or its slug)."""
        return name == slug(study)

    def attempts(self) -> dict[str, list[Attempt]]:
        """All attempt folders, by the slug of their study: those of running runners, and what killed ones left."""
        found: dict[str, list[Attempt]] = {}
        for path in sorted(self._attempts.glob("*")):
            if study := self.study_of(Attempt(path)):
                found.setdefault(study, []).append(Attempt(path))
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else begins or ends work on any study of this output meanwhile. Not for long."""
        with FileLock(self._attempts / ".lock"):
            yield

    @contextmanager
    def lock(self, study: str, patience_s: float = 0.0) -> Iterator[bool]:
        """Hold the study's lock; yields False if another runner still holds it after that time.

        The file is removed with the lock. That is only safe because nobody opens it meanwhile: opening,
        and removing with releasing, each happen while alone.
        """
        path = self._attempts / f"{slug(study)}.lock"
        lock = FileLock(path)
        until_s = time.monotonic() + patience_s
        while not self._locked(lock, study) and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)
        held = lock.is_locked
        try:
            yield held
        finally:
            if held:
                with self.alone():
                    self._runner(study).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    lock.release()

    def _locked(self, lock: FileLock, study: str) -> bool:
        with self.alone(), suppress(Timeout):
            lock.acquire(timeout=0)
            files.write_atomic(self._runner(study), RunnerInfo.of_this_process().model_dump_json())
        return lock.is_locked

    def others_at_work(self, study: str) -> list[str]:
        """Slugs of other studies that a runner works on here, or that left something to be cleared up."""
        return [name for name in self.at_work() if name != slug(study)]

    def at_work(self) -> list[str]:
        """Slugs of all studies that a runner works on here, or that left something to be cleared up."""
        living = [path.stem for path in self._attempts.glob("*.runner") if self._is_alive(path)]
        return sorted({*living, *self.attempts()})

    def abandoned(self) -> list[str]:
        """Slugs of studies whose runner is dead."""
        return sorted(path.stem for path in self._attempts.glob("*.runner") if not self._is_alive(path))

    @staticmethod
    def _is_alive(path: Path) -> bool:
        try:
            return RunnerInfo.model_validate_json(path.read_bytes()).alive
        except (OSError, ValueError):
            return False

    def runner(self, study: str) -> RunnerInfo | None:
        """Who holds the study's lock, or was killed while it did; None if nobody does."""
        try:
            return RunnerInfo.model_validate_json(self._runner(study).read_bytes())
        except (OSError, ValueError):
            return None

    def _runner(self, study: str) -> Path:
        return self._attempts / f"{slug(study)}.runner"

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
            with suppress(FileNotFoundError):  # somebody's unfinished file, renamed meanwhile
                status = path.lstat()
                if (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
                    os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)


def slug(study: str) -> str:
    """The study's name as a part of file names."""
    return re.sub(r"[^a-z0-9._-]+", "-", study.lower()).strip("-.")[: files.MAX_NAME] or "study"
