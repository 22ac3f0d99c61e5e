"""From directories to the database: incremental, idempotent, and one broken directory stops nothing.

Directories are read while the database is closed, because DuckDB lets nobody else in while one
process writes; then each batch is one short transaction, while the next is being read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from filecmp import cmp
from itertools import cycle
from pathlib import Path

from duckdb import DuckDBPyConnection

from images.contract import files
from warehouse.database import attached, prepare, reading, staging, upgrade
from warehouse.errors import EmptyWarehouse, WarehouseError
from warehouse.intake.landing import (
    SIDECAR_TABLES,
    Landing,
    Summary,
    copies_of,
    forget,
    forget_broken,
    land,
    mark_gone,
)
from warehouse.intake.object_storage import SCHEME, ObjectStorage
from warehouse.intake.records import Broken, Record, Seen, look_at, read_directory
from warehouse.intake.rivals import Rivals
from warehouse.intake.sidecars import stage
from warehouse.intake.sources import Candidate, LocalSource, Source, is_there
from warehouse.intervals import refresh

BATCH = 1000
BATCH_BYTES = 110 * 2**20
"""A batch ends with the directory whose files bring it to this, because it is held in memory (bytes)."""
_SIDECAR_FILES = {"requests": files.REQUESTS_FILE, "samples": files.TIMESERIES_FILE}

_COPIES_OF_WHAT_IS_GONE = """
SELECT directory FROM ingested_directories AS copy WHERE kind = 'duplicate' AND NOT EXISTS (
    FROM ingested_directories AS holder WHERE holder.experiment_id = copy.experiment_id
    AND holder.kind <> 'duplicate' AND holder.gone_since IS NULL
)"""

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database knew before.

    Attributes:
        signatures: of what was read, by the directory's name; not of those that are to be read again: what is in
            quarantine, and copies of what is gone.
        held: names of all that was read.
        quarantined: names.
        gone: names of those held that were not there the last time.
        copies: names of those held whose content is stored from elsewhere.
    """

    signatures: dict[str, str]
    held: set[str]
    quarantined: set[str]
    gone: set[str]
    copies: set[str]


def ingest(
    roots: Sequence[str | Path],
    database: Path,
    wait_s: float = 30.0,
    report: Callable[[str], object] = _log.info,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    *,
    progress: Progress = lambda *_: None,
    prune: bool = False,
) -> Summary:
    """Take every result and failure below `roots` that the database does not have yet.

    Args:
        roots: folders, or s3://bucket/prefix.
        wait_s: how long to wait for another process to let go of the database (s).
        report: is given one line for each directory that is quarantined, doubled or kept and each warning.
        progress: is given how many of the directories that are to be read have been, and how many those are.
        prune: forget what came from directories that are not there any more; else it stays. What has a copy below a
            root that is not given now is kept.

    Raises:
        WarehouseError: the database cannot be used; or, once all else is stored, a root is not readable, or what is
            to be pruned may be a disk that is not mounted.
    """
    sources, problems = _sources(list(dict.fromkeys(map(str, roots))))
    if not database.absolute().parent.is_dir():
        raise WarehouseError(f"the folder of {database} does not exist. Make it, or give another file with --db.", 2)
    upgrade(database, wait_s)
    known = _known(database, wait_s)
    found, fresh, copies = _look(sources, known, problems, report)
    if not found:
        report(f"no result.json or failure.json below {', '.join(map(str, roots))}")
    unread = {candidate.name for _, candidate in fresh}
    rivals = Rivals(lambda name: _exists(name, sources, known.gone), _have_same, unread)
    landing = Landing(database, wait_s, rivals, report, now)
    summary = Summary(unchanged=len(found) - len(fresh)) + _read_and_land(fresh, landing, progress)
    gone, pruned, refusal = _settle_gone(known, found, sources, landing, prune)
    if landing.again:
        summary += _read_again(copies, fresh, landing, progress)
    summary += Summary(gone=len(gone - pruned - landing.moved), pruned=len(pruned))
    for name, experiment_id in landing.doubled.items():
        report(f"duplicate: {name} has the same content as another directory ({experiment_id})")
    if refusal:
        problems.append(refusal)
    if problems:
        first, *others = problems
        if sources:
            report(f"{'apart from that' if refusal else 'of the other roots'}: {summary}")
        for other in others:
            report(f"warning: {other}")
        raise first
    return summary


def _sources(roots: Sequence[str]) -> tuple[list[Source], list[WarehouseError]]:
    """Those that can be read, and why others cannot."""
    sources: list[Source] = []
    problems = []
    for root in roots:
        try:
            sources.append(ObjectStorage.open(root) if root.startswith(SCHEME) else LocalSource.open(root))
        except WarehouseError as problem:
            problems.append(problem)
    if not sources:
        raise problems[0]
    return sources, problems


def _known(database: Path, wait_s: float) -> _Known:
    with suppress(EmptyWarehouse), reading(database, wait_s) as connection:
        quarantined = {name for (name,) in connection.execute("SELECT directory FROM quarantine").fetchall()}
        rows = connection.execute(
            "SELECT directory, signature, kind = 'duplicate', gone_since IS NOT NULL FROM ingested_directories"
        ).fetchall()
        copies = {name for name, _, is_copy, _ in rows if is_copy}
        orphans = {name for (name,) in connection.execute(_COPIES_OF_WHAT_IS_GONE).fetchall()} if copies else set()
        # A directory that is broken now may be known from better days.
        to_be_read = quarantined | orphans
        return _Known(
            signatures={name: signature for name, signature, *_ in rows if name not in to_be_read},
            held={name for name, *_ in rows},
            quarantined=quarantined,
            gone={name for name, *_, is_gone in rows if is_gone},
            copies=copies,
        )
    return _Known({}, set(), set(), set(), set())


def _look(
    sources: list[Source], known: _Known, problems: list[WarehouseError], report: Callable[[str], object]
) -> tuple[set[str], list[tuple[Source, Candidate]], dict[str, tuple[Source, Candidate]]]:
    """Names of all directories there are, those that are to be read, and unchanged ones that are copies, by name."""
    found: set[str] = set()
    fresh = []
    copies = {}
    for source in list(sources):
        try:
            candidates = list(source.scan(known.signatures))
        except WarehouseError as problem:  # it does not answer any more, which says nothing about what it holds
            problems.append(problem)
            sources.remove(source)
            continue
        for candidate in candidates:
            if candidate.name in found:
                continue
            found.add(candidate.name)
            if known.signatures.get(candidate.name) != candidate.signature:
                fresh.append((source, candidate))
            elif candidate.name in known.copies:
                copies[candidate.name] = (source, candidate)
        for line in source.unreadable:
            report(f"warning: {line}")
    return found, fresh, copies


def _batches(fresh: Iterable[tuple[Source, Candidate]]) -> Iterator[tuple[Source, list[Candidate]]]:
    batch: list[Candidate] = []
    n_bytes = 0
    of: Source | None = None
    for source, candidate in fresh:
        if of is not None and (source is not of or len(batch) >= BATCH or n_bytes >= BATCH_BYTES):
            yield of, batch
            batch, n_bytes = [], 0
        of = source
        batch.append(candidate)
        n_bytes += candidate.n_bytes
    if of is not None:
        yield of, batch


def _read_and_land(fresh: Sequence[tuple[Source, Candidate]], landing: Landing, progress: Progress) -> Summary:
    summary = Summary()
    done = 0
    with closing(_read_ahead(fresh, landing)) as batches:
        for records, connection in batches:
            for record in records:
                for note in record.notes if isinstance(record, Record) else ():
                    landing.report(f"warning: {note}")
            summary += land(records, connection, landing)
            done += len(records)
            progress(done, len(fresh))
    return summary


def _read_ahead(
    fresh: Iterable[tuple[Source, Candidate]], landing: Landing
) -> Generator[tuple[list[Record | Broken], DuckDBPyConnection], None, None]:
    """Each batch, with its sidecars in a staging connection, while the next one is being read into another."""
    with staging() as one, staging() as other, ThreadPoolExecutor(max_workers=1) as pool:
        ahead: tuple[Future[list[Record | Broken]], DuckDBPyConnection] | None = None
        for (source, batch), connection in zip(_batches(fresh), cycle((one, other)), strict=False):
            before, ahead = ahead, (pool.submit(_read, source, batch, connection), connection)
            if before is None:
                prepare(landing.database, landing.wait_s)
            else:
                yield before[0].result(), before[1]
        if ahead is not None:
            yield ahead[0].result(), ahead[1]


def _read(source: Source, batch: Sequence[Candidate], connection: DuckDBPyConnection) -> list[Record | Broken]:
    """The documents are read by this thread and the sidecars by DuckDB, both at once."""
    with source.fetched(batch) as places, ThreadPoolExecutor(max_workers=1) as pool:
        looks = [
            look_at(number, candidate, place, source.within)
            for number, (candidate, place) in enumerate(zip(batch, places, strict=True))
        ]
        broken_sidecars = pool.submit(_stage_all, connection, [look for look in looks if isinstance(look, Seen)])
        records = [read_directory(look) if isinstance(look, Seen) else look for look in looks]
        reasons = broken_sidecars.result()
    return [_judged(record, reasons) for record in records]


def _stage_all(connection: DuckDBPyConnection, seen: Sequence[Seen]) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for table in SIDECAR_TABLES:
        file = _SIDECAR_FILES[table]
        paths = {one.place: one.directory / file for one in seen if file in one.sizes}
        reasons |= stage(connection, table, paths)
    return reasons


def _judged(record: Record | Broken, reasons: dict[int, str]) -> Record | Broken:
    if isinstance(record, Record) and record.sidecars and record.place in reasons:
        return Broken(record.directory, f"{reasons[record.place]}. Repair or remove the directory, then ingest again.")
    return record


def _exists(name: str, sources: Iterable[Source], gone: set[str]) -> bool:
    """Of object storage that nobody asked for, what was known the last time."""
    for source in sources:
        if source.holds(name):
            return source.exists(name)
    return name not in gone if name.startswith(SCHEME) else is_there(name)


def _have_same(one: str, other: str, names: Sequence[str]) -> bool | None:
    """In those files that both have; None: there are none, or it cannot be told, as of object storage."""
    if one.startswith(SCHEME) or other.startswith(SCHEME):
        return None
    try:
        pairs = [(Path(one, name), Path(other, name)) for name in names]
        compared = [cmp(*pair, shallow=False) for pair in pairs if pair[0].is_file() and pair[1].is_file()]
    except OSError:
        return None
    return all(compared) if compared else None


def _read_again(
    copies: dict[str, tuple[Source, Candidate]],
    fresh: Sequence[tuple[Source, Candidate]],
    landing: Landing,
    progress: Progress,
) -> Summary:
    """Judge anew what was compared with directories that changed after it; each counts as what it is in the end."""
    candidates = copies | {candidate.name: (source, candidate) for source, candidate in fresh}
    summary = Summary()
    # Each turn makes known what a directory holds now of which the books were of yesterday, so there is a last one.
    while names := sorted((landing.again & candidates.keys()) - landing.refused):
        landing.again.clear()
        doubled = [landing.doubled.pop(name) for name in names if name in landing.doubled]
        unchanged = [copies.pop(name) for name in names if name in copies]
        summary += Summary(unchanged=-len(unchanged), duplicates=-len(doubled))
        summary += _read_and_land([candidates[name] for name in names], landing, progress)
    return summary


def _settle_gone(
    known: _Known, found: set[str], sources: Sequence[Source], landing: Landing, prune: bool
) -> tuple[set[str], set[str], WarehouseError | None]:
    """Note which directories are not there any more, or forget them, and which are there again.

    Returns:
        Names of the first and of those that are forgotten; and why none are although `prune` asks for it.
    """
    names = (known.held | known.quarantined) - found - landing.moved
    missing = {name for name in names if _is_gone(name, sources)}
    gone, not_broken_any_more = missing & known.held, missing & known.quarantined
    newly, again, pruned = gone - known.gone, known.gone & found, set[str]()
    refusal = _refusal(gone, found, sources) if prune else None
    prune = prune and refusal is None
    if newly or again or not_broken_any_more or (prune and gone):
        with staging() as connection, attached(connection, landing.database, landing.wait_s):
            forget_broken(connection, sorted(not_broken_any_more))
            copies = copies_of(connection, sorted(gone if prune else newly))
            landing.again.update(copy for _, copy in copies if copy in found)
            if prune:
                pruned = gone - _kept(copies, found, gone, landing.report)
                refresh(connection, forget(connection, sorted(pruned)))
            mark_gone(connection, sorted(newly - pruned), landing.now())
            mark_gone(connection, sorted(again), None)
    return gone, pruned, refusal


def _is_gone(name: str, sources: Iterable[Source]) -> bool:
    """From a root that was looked at; of others nothing is known."""
    return any(source.holds(name) and not source.exists(name) for source in sources)


def _refusal(gone: set[str], found: set[str], sources: Sequence[Source]) -> WarehouseError | None:
    """An unmounted disk looks like an empty folder, and must not cost what was read from it."""
    for source in sources:
        lost = [name for name in gone if source.holds(name)]
        if lost and not any(source.holds(name) for name in found):
            return WarehouseError(
                f"none of the {len(lost)} directories that were read below {source.address} is there any more; nothing "
                "was pruned. Mount it; or, if they are gone for good, remove it and prune the folder above it.",
                2,
            )
        for folder, count in sorted(source.emptied(lost).items()):
            if count > 1:
                return WarehouseError(
                    f"{folder} is empty, and {count} directories were read from below it; nothing was pruned. "
                    "Mount it; or, if they are gone for good, remove it, then prune again.",
                    2,
                )
    return None


def _kept(
    copies: Iterable[tuple[str, str]], found: set[str], gone: set[str], report: Callable[[str], object]
) -> set[str]:
    """What is not to be forgotten, because its only copies lie where nobody looked this time."""
    replaced = {name for name, copy in copies if copy in found}
    kept = {name: copy for name, copy in copies if name not in replaced and copy not in gone}
    for name, copy in sorted(kept.items()):
        report(f"kept: {name} is gone, but a copy was read from {copy}. Ingest that, too, then prune.")
    return set(kept)
