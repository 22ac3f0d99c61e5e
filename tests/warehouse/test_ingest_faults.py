"""Ingest that is killed at any moment, and readers that look on meanwhile."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.warehouse.ingest_faults import (
    Tables,
    copied,
    disturb,
    inconsistencies,
    killed_ingest,
    make_results,
    poller,
    tables,
)
from tests.warehouse.results import warehouse

N_DIRECTORIES = 300
N_KILLS = 20
BATCH = 40


@dataclass(frozen=True)
class Start:
    """Where an ingest may begin.

    Attributes:
        database: none yet, or one that knows the directories as they were before they changed.
        end: what an undisturbed ingest makes of it.
        seconds: that one took (s).
    """

    database: Path
    end: Tables
    seconds: float


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Start]]:
    """Directories of which some have changed, moved, gone or broken since a first ingest, and two places to start."""
    folder = tmp_path_factory.mktemp("faults")
    root = folder / "results"
    make_results(root, 0, N_DIRECTORIES)
    earlier = folder / "earlier.duckdb"
    killed_ingest(root, earlier, BATCH, None)
    disturb(root)
    starts = []
    for database in (folder / "none.duckdb", earlier):
        end = copied(database, folder / "end.duckdb")
        seconds = killed_ingest(root, end, BATCH, None).seconds
        assert inconsistencies(end) == []
        starts.append(Start(database, tables(end), seconds))
    return root, starts


def test_an_ingest_killed_at_any_moment_is_finished_by_the_next(changed: tuple[Path, list[Start]], db: Path) -> None:
    root, starts = changed
    assert len(starts[0].end["experiments"]) < len(starts[1].end["experiments"]) < N_DIRECTORIES
    seed = secrets.randbits(32)
    moments = random.Random(seed)
    for kill in range(N_KILLS):
        start = starts[kill % len(starts)]
        after_s = moments.uniform(0, start.seconds)
        for _ in range(10):
            copied(start.database, db)
            if killed_ingest(root, db, BATCH, after_s).was_running:
                break
            after_s *= 0.8  # the machine was quicker than when it was timed
        else:
            pytest.fail(f"no ingest was running after {after_s:.3f} s (seed {seed})")
        context = f"kill {kill} after {after_s:.3f} s (seed {seed})"
        assert inconsistencies(db) == [], context
        assert warehouse("ingest", root, "--prune", db=db) == 0, context
        assert inconsistencies(db) == [], context
        found = tables(db)
        assert found.keys() == start.end.keys(), context
        for name in found:
            assert found[name] == start.end[name], f"{name}, {context}"


def test_tables_that_were_just_made_outlive_a_kill(db: Path) -> None:
    # They are in the write-ahead log only, and DuckDB reads that before it knows functions that a constraint might use.
    made = "import duckdb, os, sys; from warehouse.schema import create_all; connection = duckdb.connect(sys.argv[1])\n"
    made += "connection.begin(); create_all(connection); connection.commit(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", made, str(db)], check=False).returncode == -signal.SIGKILL
    assert db.with_name(f"{db.name}.wal").stat().st_size
    assert inconsistencies(db) == []
    assert warehouse("sql", "SELECT count(*) FROM experiments", db=db) == 0


def test_readers_of_an_ingest_see_whole_batches_and_never_fail(tmp_path: Path, db: Path) -> None:
    root, stop = tmp_path / "results", tmp_path / "stop"
    make_results(root, 0, 1)
    killed_ingest(root, db, BATCH, None)
    make_results(root, 1, 1999)
    query = (
        "SELECT count(*), (SELECT sum(n_cycles + n_invalid + n_superseded) FROM campaign_groups), "
        "(SELECT count(DISTINCT experiment_key) FROM (FROM requests SELECT experiment_key UNION ALL "
        "FROM samples SELECT experiment_key)) FROM experiments"
    )
    readers = [poller(query, db, stop) for _ in range(8)]
    try:
        first = [reader.stdout.readline() for reader in readers if reader.stdout]
        killed_ingest(root, db, 250, None)
    finally:
        stop.touch()
        answers = [reader.communicate(timeout=60) for reader in readers]
    assert [(reader.returncode, errors) for reader, (_, errors) in zip(readers, answers, strict=True)] == [(0, "")] * 8
    for begin, (output, _) in zip(first, answers, strict=True):
        seen = [[int(count) for count in line.split(",")] for line in (begin + output).splitlines()]
        assert all(experiments == in_campaigns == with_sidecars for experiments, in_campaigns, with_sidecars in seen)
        assert seen == sorted(seen)
        assert (seen[0][0], seen[-1][0]) == (1, 2000)
    assert warehouse("ingest", root, db=db) == 0
