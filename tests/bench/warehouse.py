"""The warehouse at 10,000 results with everything, and at 100,000 with next to nothing beside their JSON."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from tests.bench.figures import Figure
from tests.bench.lake import Study, write_failures, write_results
from tests.bench.recordings import make_recordings

N_CONFIGS = 2000
"""Of five cycles each: 10,000 directories, in four studies."""
N_STUDIES = 20
CONFIGS_PER_STUDY = 1000
"""Of five cycles each, the same in all 20 studies: 100,000 directories."""
REPEATS = 3
_ROOT = Path(__file__).parents[2]
_CYCLES = range(1, 6)
_N_PARTS = 4
_N_RECORDINGS = 400

# The least possible process starts the measured one: a child's peak memory begins with that of its parent.
_MEASURE = """
import os, sys, time
started = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9, os.waitstatus_to_exitcode(status))
"""
_INGEST = "import sys; from warehouse.cli import main; sys.exit(main())"

# One row for every experiment, GPU or process: to be filtered, not to be looked at whole.
_ROW_WISE = ("runs", "cycles", "energy_from_samples")
# Arguments of table macros that are not numbers.
_TEXTS = {"field": "'workload.n_prompts'"}


@dataclass(frozen=True)
class Ran:
    """A whole process."""

    seconds: float
    peak_gb: float


def ingest_figures(scratch: Path) -> Iterator[Figure]:
    yield from _first_ingest_figures(scratch / "full")
    shutil.rmtree(scratch / "full")
    yield from _large_figures(scratch / "large")


def _first_ingest_figures(scratch: Path) -> Iterator[Figure]:
    """Ingest against DuckDB alone, in turn, and what a second ingest and a quarter of the directories cost."""
    started = time.perf_counter()
    recordings = make_recordings(scratch / "recordings", _N_RECORDINGS, n_processes=2, n_requests=100, n_samples=300)
    lake, part = scratch / "lake", N_CONFIGS // _N_PARTS
    for number in range(_N_PARTS):
        write_results(lake, Study(number, part, first_config=number * part), recordings, _CYCLES, link=False)
    os.sync()
    count = N_CONFIGS * len(_CYCLES)
    yield Figure(f"making {count:,} directories", "s", [time.perf_counter() - started], 60.0)

    quarter = _ingest(lake / Study(0, part).name, scratch / "quarter.duckdb")
    inferred_s, declared_s = _baseline("inferred", lake, scratch), _baseline("declared", lake, scratch)
    ingests, as_json_s, floor_s = [], [], []
    database = scratch / "ingested.duckdb"
    for _ in range(REPEATS):
        as_json_s.append(_baseline("declared_as_json", lake, scratch))
        floor_s.append(_baseline("floor", lake, scratch))
        _remove(database)
        ingests.append(_ingest(lake, database))
    assert _counts(database) == (count, 200 * count, 600 * count), _counts(database)
    again = [_ingest(lake, database).seconds for _ in range(5)]

    times = [ran.seconds for ran in ingests]
    peak = statistics.median(ran.peak_gb for ran in ingests)
    yield Figure(f"first ingest of {count:,} directories, whole process", "s", times)
    yield Figure("read_json, types inferred, and sidecars with filename (once)", "s", [inferred_s])
    yield Figure("  over the ingest", "x", [inferred_s / one for one in times], 10.0, at_least=True)
    yield Figure("read_json, the same columns declared, and sidecars with filename (once)", "s", [declared_s])
    yield Figure("  over the ingest", "x", [declared_s / one for one in times], 2.5, at_least=True)
    yield Figure("read_json, columns declared, the nested ones as JSON, and sidecars with filename", "s", as_json_s)
    yield Figure("  over the ingest", "x", _ratios(as_json_s, times), 2.5, at_least=True)
    yield Figure("floor: orjson, and sidecars without filename", "s", floor_s)
    yield Figure("  ingest over the floor", "x", _ratios(times, floor_s), 2.0)
    yield Figure("ingest again, nothing new, whole process", "s", again, 1.0)
    yield Figure(f"peak memory, first ingest of {count:,}", "GB", [ran.peak_gb for ran in ingests], 1.5)
    yield Figure(f"  over that of {count // _N_PARTS:,}", "x", [peak / quarter.peak_gb], 1.3)
    size_gb = database.stat().st_size / 1e9
    yield Figure("  size of the database", "GB", [size_gb])


def _large_figures(scratch: Path) -> Iterator[Figure]:
    """A year of studies of the same configurations."""
    recordings = make_recordings(scratch / "recordings", _N_RECORDINGS, n_processes=1, n_requests=1, n_samples=2)
    lake, database = scratch / "lake", scratch / "large.duckdb"
    studies = [Study(number, CONFIGS_PER_STUDY) for number in range(N_STUDIES)]
    for study in studies:
        write_results(lake, study, recordings, _CYCLES, link=True)
        write_failures(lake, study, CONFIGS_PER_STUDY // 20)
    os.sync()
    count = N_STUDIES * CONFIGS_PER_STUDY * len(_CYCLES)
    first = _ingest(lake, database)
    yield Figure(f"first ingest of {count:,} directories with tiny sidecars", "s", [first.seconds])
    yield Figure("  peak memory", "GB", [first.peak_gb])
    yield Figure("  ingest again, nothing new", "s", [_ingest(lake, database).seconds])
    some_new = []
    for number in range(REPEATS):
        cycle = _CYCLES.stop + number
        write_results(lake, studies[-1], recordings, range(cycle, cycle + 1), 100, link=True)
        some_new.append(_ingest(lake, database).seconds)
    yield Figure(f"ingest of 100 new among {count:,}, whole process", "s", some_new, 3.0)
    assert _counts(database)[0] == count + 100 * REPEATS
    yield from _view_figures(database, count)


def _view_figures(database: Path, count: int) -> Iterator[Figure]:
    with duckdb.connect(str(database), read_only=True) as connection:
        times = {name: _asked(connection, name) for name in _summaries(connection)}
    slowest = max(times, key=lambda name: statistics.median(times[name]))
    yield Figure(f"slowest summary view at {count:,}: {slowest}", "ms", times[slowest], 150.0)
    for name, found in times.items():
        yield Figure(f"  {name}", "ms", found)


def _summaries(connection: DuckDBPyConnection) -> list[str]:
    """Views, and calls of the table macros, as FROM takes them; not those that are row by row."""
    views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL").fetchall()
    macros = connection.execute(
        "SELECT function_name, parameters FROM duckdb_functions() "
        "WHERE NOT internal AND function_type = 'table_macro' ORDER BY ALL"
    ).fetchall()
    names = [name for (name,) in views] + [_call(name, parameters) for name, parameters in macros]
    return [name for name in names if not name.startswith(_ROW_WISE)]


def _call(macro: str, parameters: Sequence[str]) -> str:
    """Every parameter is given, because with NULL for a price there would be nothing to compute."""
    values = [f"{name} := {_TEXTS.get(name, '2')}" for name in parameters]
    return f"{macro}({', '.join(values)})"


def _asked(connection: DuckDBPyConnection, name: str) -> list[float]:
    """Milliseconds until all rows are in this process, as Arrow; making Python objects of them is not the view's."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        connection.sql(f"FROM {name}").to_arrow_table()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _ingest(folder: Path, database: Path) -> Ran:
    command = [sys.executable, "-I", "-S", "-c", _MEASURE]
    measured = [sys.executable, "-c", _INGEST, "ingest", "--db", str(database), str(folder)]
    ran = subprocess.run([*command, *measured], capture_output=True, text=True, cwd=_ROOT)
    assert ran.returncode == 0, ran.stderr
    seconds, peak_gb, code = map(float, ran.stdout.splitlines()[-1].split())
    assert code == 0, ran.stderr
    return Ran(seconds, peak_gb)


def _baseline(name: str, lake: Path, scratch: Path) -> float:
    """Seconds, Python's start not among them."""
    database = scratch / "baseline.duckdb"
    command = [sys.executable, "-m", "tests.bench.baselines", name, str(lake), str(database)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT)
    assert ran.returncode == 0, ran.stderr
    _remove(database)
    return float(ran.stdout)


def _counts(database: Path) -> tuple[int, ...]:
    with duckdb.connect(str(database), read_only=True) as connection:
        tables = ("experiments", "requests", "samples")
        return tuple(connection.table(table).shape[0] for table in tables)


def _remove(database: Path) -> None:
    for path in (database, database.with_name(f"{database.name}.wal")):
        path.unlink(missing_ok=True)


def _ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [this / that for this, that in zip(these, those, strict=True)]
