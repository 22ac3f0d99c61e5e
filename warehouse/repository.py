"""Results by experiment id in a results folder. Nothing outside the folder is read, written or removed."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from images.contract import files
from images.contract.files import RAW_FOLDER, RESULT_FILE, UnreadableResult
from images.contract.leftover import require_own_files
from images.contract.parts import RawProcessResult
from images.contract.process import ProcessData, ProcessRecord, load_processes, write_process
from images.contract.result import ExperimentResult
from warehouse.contents import Contents, Finished, scan
from warehouse.errors import WarehouseError
from warehouse.intake.records import Broken, Record, look_at, read_directory
from warehouse.intake.sources import READ, Candidate

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_ID_TIME = re.compile(r"exp_([0-9]{8}_[0-9]{6})_.*")
_HEAD = re.compile(rb'\s*\{\s*(?:"schema_version"\s*:\s*"[^"\\]*"\s*,\s*)?"experiment_id"\s*:\s*"([^"\\]*)"')
"""Where our own writer puts the id: what stands there is found without reading the rest."""
_HEAD_BYTES = 512
_REMOVED = ".removed-"
_MOST_COMPARED = 2000


def is_safe_path(base: Path, path: Path) -> bool:
    """Whether `path` lies below `base` (or is it), with all links followed and all ``..`` resolved."""
    try:
        return Path(path).resolve().is_relative_to(Path(base).resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL in it, or links in a circle
        return False


class FileSystemRepository:
    """Results, failures and raw results by experiment id, below one folder."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = Path(base_path)

    def list_experiments(self) -> list[str]:
        """Ids of all experiments with a result or with raw results, in order; what cannot be read has none."""
        contents = self.scan()
        return sorted({*self._ids(contents), *(path.name for path in contents.raw)})

    def list_aggregated(self) -> list[str]:
        """Ids of all experiments with a result, in order."""
        return sorted(set(self._ids(self.scan())))

    def has_raw(self, experiment_id: str) -> bool:
        return self.raw_folder(experiment_id) is not None

    def has_aggregated(self, experiment_id: str) -> bool:
        return any(not one.failed for one in self.find(experiment_id))

    def load_all_raw(self, experiment_id: str) -> list[RawProcessResult]:
        """Raw results of the processes that completed, by index; none if there are none.

        Raises:
            WarehouseError: no id, or two folders have it.
            UnreadableResult: a file of a completed process is damaged, or a link.
        """
        folder = self.raw_folder(experiment_id)
        if folder is None:
            return []
        require_own_files(folder)
        return [one.record.raw for one in load_processes(folder)]

    def save_raw(self, experiment_id: str, raw: RawProcessResult) -> Path:
        """Keep one process's raw result, its marker last.

        Returns:
            The folder of the experiment's raw results.

        Raises:
            WarehouseError: no id, the raw result has another one, or its folder is not below the base.
            OSError: cannot be written.
        """
        if raw.experiment_id != checked_id(experiment_id):
            raise WarehouseError(f"the raw result is of {raw.experiment_id!r} and not of {experiment_id}.")
        folder = self.base_path / RAW_FOLDER / experiment_id
        self.require_inside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        require_own_files(folder)
        record = ProcessRecord(raw=raw, window_s=raw.timestamps.duration_sec)
        nothing: dict[str, list[object]] = {name: [] for name in files.REQUESTS_SCHEMA.names}
        write_process(folder, ProcessData(record, files.requests_table(nothing), None))
        return folder

    def load_aggregated(self, experiment_id: str) -> ExperimentResult:
        """The experiment's result.

        Raises:
            WarehouseError: no id, no result has it, or two have.
            UnreadableResult: damaged, or of another major schema version.
        """
        directory = self.result_directory(experiment_id)
        if directory is None:
            raise self.unknown(experiment_id)
        return self.load(directory)

    def load(self, directory: Path) -> ExperimentResult:
        """The result in a directory below the base.

        Raises:
            UnreadableResult: damaged, of another major schema version, or a link out of the base.
        """
        self.require_inside(directory / RESULT_FILE)
        return ExperimentResult.from_json(directory)

    def save_aggregated(
        self,
        result: ExperimentResult,
        *,
        timeseries: files.Table | None = None,
        requests: files.Table | None = None,
        beside: Path | None = None,
    ) -> Path:
        """Publish a result as one new directory, atomically and synced.

        Args:
            beside: the folder it goes into; None is the base.

        Returns:
            The new directory.

        Raises:
            WarehouseError: its id is none, or the folder is not below the base.
            ValueError: a field and its table do not agree.
            OSError: cannot be written; nothing is left behind.
        """
        checked_id(result.experiment_id)
        folder = beside or self.base_path
        self.require_inside(folder)
        return result.save(folder, timeseries=timeseries, requests=requests).parent

    def delete_experiment(self, experiment_id: str) -> list[Path]:
        """Remove everything of an experiment: its result, its failure and its raw results.

        Each is renamed to a dot name first, so that nobody ever reads a half of it.

        Returns:
            What was removed.

        Raises:
            WarehouseError: no id, nothing has it, or two results have.
            OSError: something cannot be renamed; it is left as it was.
        """
        everything = self.everything_of(experiment_id)
        if not everything:
            raise self.unknown(experiment_id)
        for path in everything:
            remove(path)
        return everything

    def everything_of(self, experiment_id: str) -> list[Path]:
        """Every path that belongs to an experiment: result, failures, raw results.

        Raises:
            WarehouseError: no id, or two results or two raw folders have it.
        """
        found = self.find(experiment_id)
        self.only([one.path for one in found if not one.failed], experiment_id)
        raw = self.raw_folder(experiment_id)
        return [one.path for one in found] + ([] if raw is None else [raw])

    def result_directory(self, experiment_id: str) -> Path | None:
        """
        Raises:
            WarehouseError: no id, or two directories have it.
        """
        return self.only([one.path for one in self.find(experiment_id) if not one.failed], experiment_id)

    def failure_directories(self, experiment_id: str) -> list[Path]:
        return [one.path for one in self.find(experiment_id) if one.failed]

    def raw_folder(self, experiment_id: str) -> Path | None:
        """
        Raises:
            WarehouseError: no id, or two folders have it.
        """
        wanted = checked_id(experiment_id)
        return self.only([path for path in self.scan().raw if path.name == wanted], experiment_id)

    def find(self, experiment_id: str, among: Callable[[Finished], bool] = lambda _: True) -> list[Finished]:
        """Results and failures with an id, results first.

        Few files are opened: a window opens after its job began, soon as a rule, so the names whose time follows
        the id's come first; and what else may have the id has the same configuration and cycle, or a name that
        says nothing.

        Args:
            among: which directories to look at.

        Raises:
            WarehouseError: no id, or no such folder.
        """
        match = _ID_TIME.fullmatch(checked_id(experiment_id))
        begun = match[1] if match else ""
        found: list[Finished] = []
        candidates = filter(among, self.scan().finished)
        for one in sorted(candidates, key=lambda one: one.time < begun):
            twin_of_all = not found or one.parsed is None or found[0].parsed is None
            if not twin_of_all and not _same_cycle(one, found[0]):
                continue
            if self.id_of(one) == experiment_id:
                found.append(one)
        return sorted(found, key=lambda one: one.failed)

    def id_of(self, one: Finished) -> str | None:
        """The experiment id that a finished directory says it has; None if it cannot be read, or is a link."""
        try:
            file = one.file
            self._require_no_way_out(file)
            if not file.is_file():  # a pipe would never end
                return None
            with file.open("rb", buffering=0) as stream:
                head = _HEAD.match(stream.read(_HEAD_BYTES))
            named = head[1].decode() if head else files.read_json(file).get("experiment_id")
        except (OSError, ValueError):
            return None
        return named if isinstance(named, str) else None

    def unknown(self, experiment_id: str) -> WarehouseError:
        """That nothing has this id, with those that are like it, of the same day where it has one."""
        contents = self.scan()
        match = _ID_TIME.fullmatch(experiment_id)
        same_day = [one for one in contents.finished if match is not None and one.time[:8] == match[1][:8]]
        known = {self.id_of(one) for one in (same_day or contents.finished)[:_MOST_COMPARED]}
        known |= {path.name for path in contents.raw[:_MOST_COMPARED]}
        near = get_close_matches(experiment_id, sorted(filter(None, known)), 3, cutoff=0.8)
        advice = f"Did you mean {' or '.join(near)}?" if near else "`warehouse results list --all` shows what is there."
        return WarehouseError(f"nothing in {self.base_path} has the id {experiment_id}. {advice}", 2)

    def scan(self) -> Contents:
        """What is there, by names as far as they say it, in their order.

        Raises:
            WarehouseError: there is no such folder, or it cannot be read.
        """
        try:
            return scan(self.base_path)
        except OSError as error:
            raise self._no_base(error) from None

    def judged(self, one: Finished) -> Record | Broken:
        """What ingest takes from a finished directory, or why it takes nothing. It looks into the tables beside the
        document as well, which this does not."""
        candidate = Candidate(str(one.path), signature="", n_bytes=0, files=READ)
        seen = look_at(0, candidate, one.path, self.base_path.resolve())
        return seen if isinstance(seen, Broken) else read_directory(seen)

    def require_inside(self, path: Path) -> None:
        """
        Raises:
            UnreadableResult: it leads out of the base.
        """
        if not is_safe_path(self.base_path, path):
            raise UnreadableResult(f"{path} leads out of {self.base_path}")

    def _require_no_way_out(self, file: Path) -> None:
        """Of a file in a directory that no link led to, only itself can lead away."""
        if file.is_symlink():
            self.require_inside(file)

    def _ids(self, contents: Contents) -> Iterator[str]:
        for one in contents.finished:
            if not one.failed and (named := self.id_of(one)) is not None:
                yield named

    def only(self, paths: list[Path], experiment_id: str) -> Path | None:
        if len(paths) > 1:
            raise WarehouseError(
                f"{len(paths)} directories have the id {experiment_id}: {', '.join(map(str, paths))}. "
                "Move all but one away."
            )
        return paths[0] if paths else None

    def _no_base(self, error: OSError) -> WarehouseError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            what = "is no folder" if self.base_path.exists() else "is not there"
            return WarehouseError(f"the results folder {self.base_path} {what}. Name the right one.", 2)
        return WarehouseError(f"the results folder {self.base_path} cannot be read ({error.strerror}).")


def is_id(text: str) -> bool:
    """Whether commands take it for an experiment id: it cannot be a path."""
    return _ID.fullmatch(text) is not None


def checked_id(experiment_id: str) -> str:
    """`experiment_id`, if it can be one.

    Raises:
        WarehouseError: it could be a path, or has characters that no id has.
    """
    if not is_id(experiment_id):
        raise WarehouseError(
            f"{experiment_id!r} is no experiment id (such as exp_20260102_030405_0a1b2c3d). "
            "`warehouse results list` shows them, and which directories have one that is not usable.",
            2,
        )
    return experiment_id


def remove(directory: Path) -> None:
    """Remove a whole directory, so that whoever looks sees all of it or nothing; what an earlier, interrupted
    removal left beside it goes, too.

    Raises:
        OSError: it cannot be renamed, and is left as it was.
    """
    target = directory.with_name(f".{directory.name}{_REMOVED}{secrets.token_hex(4)}")
    directory.rename(target)
    for path in (target, *directory.parent.glob(f".*{_REMOVED}*")):
        shutil.rmtree(path, ignore_errors=True)


def _same_cycle(one: Finished, other: Finished) -> bool:
    assert one.parsed is not None
    assert other.parsed is not None
    return (one.parsed.hash8, one.parsed.cycle) == (other.parsed.hash8, other.parsed.cycle)
