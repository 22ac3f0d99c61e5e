"""Many small result directories, ingests that are killed, and a look at what they leave."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
from scipy import stats

from tests.warehouse.results import START, make_result, samples_table, save, save_failure

Tables = dict[str, list[tuple[Any, ...]]]

_INGEST = """
import sys
from warehouse import ingest
from warehouse.cli import main
import warehouse.commands.ingest
ingest.BATCH = int(sys.argv[1])
print("started", flush=True)
sys.exit(main(sys.argv[2:]))
"""
"""The command with smaller batches, so that fewer directories make as many transactions; says when it starts."""

_POLL = """
import contextlib, io, pathlib, sys, time
from warehouse.cli import main
stop, pause_s, *arguments = sys.argv[1:]
is_last = False
while not is_last:
    is_last = pathlib.Path(stop).exists()
    output = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(output):
        code = main(arguments)
    if code:
        sys.exit(code)
    output.flush()
    print(output.buffer.getvalue().decode().splitlines()[1], flush=True)
    time.sleep(float(pause_s))
"""
"""A command again and again until a file is there, and once more; prints the first row of each answer."""
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Killed:
    """An ingest that was to be killed.

    Attributes:
        was_running: it was; else it had ended before.
        seconds: from its start to its end (s).
    """

    was_running: bool
    seconds: float


def make_results(root: Path, first: int, count: int) -> None:
    """Directories of `count` results, told apart by ids, times and figures; their sidecars are links to a few files.

    Some are of studies, superseded or invalid, some have no sidecar; their intervals are over 1 to 12 cycles.
    """
    folder = root.parent / f"{root.name}-templates"
    sampled = samples_table([(0.5 * index, 100.0 + index) for index in range(8)])
    templates = [
        save(folder, make_result(1, measurement_warnings=["short_duration: 2 s. Run longer."]), samples=sampled),
        save(folder, make_result(2), samples=None),
        save(folder, make_result(3, n_requests=None), samples=sampled),
    ]
    documents = [json.loads((template / "result.json").read_text()) for template in templates]
    for number in range(first, first + count):
        document, template = documents[number % 3], templates[number % 3]
        directory = root / f"shelf-{number % 7}" / f"result-{number:05d}"
        directory.mkdir(parents=True)
        (directory / "result.json").write_text(json.dumps(document | _figures(document, number)))
        for sidecar in template.glob("*.parquet"):
            (directory / sidecar.name).hardlink_to(sidecar)
    shutil.rmtree(folder)


def _figures(document: dict[str, Any], number: int) -> dict[str, Any]:
    start = START + timedelta(minutes=number)
    study = number % 50
    return {
        "experiment_id": f"exp_20260102_030405_{number:08x}",
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(seconds=2)).isoformat(),
        "study": f"study-{study}" if study else None,
        # Two runs of the last cycle: the newer one counts.
        "cycle": min(number // 50 + 1, 11) if study else None,
        "measurement_valid": number % 17 != 0,
        "total_energy_j": 6.0 + math.sin(number),
        "output_tokens_per_second": 15.0 + math.cos(number),
        "process_results": [
            process | {"experiment_id": f"exp_20260102_030405_{number:08x}"} for process in document["process_results"]
        ],
    }


def disturb(root: Path) -> None:
    """What may have happened to directories between two ingests."""
    found = sorted(path.parent for path in root.rglob("result.json"))
    for directory in found[::40]:
        shutil.rmtree(directory)
    for directory in found[1::40]:
        document = json.loads((directory / "result.json").read_text())
        (directory / "result.json").write_text(json.dumps(document | {"total_energy_j": 7.5, "cycle": 1}))
    for directory in found[2::40]:
        directory.rename(root / f"moved-{directory.name}")
    for directory in found[3::80]:
        (directory / "result.json").write_text('{"schema_version":')
    for directory in found[4::80]:
        shutil.copytree(directory, root / f"copy-of-{directory.name}")
    for number in range(5):
        save_failure(root, number)


def killed_ingest(root: Path, database: Path, batch: int, after_s: float | None) -> Killed:
    """Run an ingest in a process of its own and kill it with SIGKILL, `after_s` after it has started; None: let it end.

    Raises:
        AssertionError: it failed by itself.
    """
    command = [sys.executable, "-c", _INGEST, str(batch), "ingest", str(root), "--db", str(database), "--prune"]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        start = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        seconds = time.monotonic() - start
        was_running = process.poll() is None
        process.kill()
        code = process.wait()
        errors.seek(0)
        assert was_running or code == 0, f"the ingest ended with {code}: {errors.read().decode()}"
    return Killed(was_running, seconds)


def poller(query: str, database: Path, stop: Path) -> subprocess.Popen[str]:
    """A process that asks ``warehouse sql`` until the file `stop` is there."""
    arguments = ["sql", query, "--format", "csv", "--db", str(database), "--wait", "30"]
    command = [sys.executable, "-c", _POLL, str(stop), str(_PAUSE_S), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def copied(database: Path, target: Path) -> Path:
    """A copy of a database at rest; a fresh place if there is none."""
    for file in (target, target.with_name(f"{target.name}.wal")):
        file.unlink(missing_ok=True)
    if database.exists():
        shutil.copyfile(database, target)
    return target


def tables(database: Path) -> Tables:
    """All rows of all tables, sorted, without the time of the ingest, and with ids for the keys that it gave."""
    with duckdb.connect(str(database), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        return {name: _rows(connection, name) for (name,) in names}


def _rows(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[Any, ...]]:
    columns = [name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]
    kept = [name for name in columns if name not in ("ingested_at", "quarantined_at", "gone_since", "experiment_key")]
    shown = ", ".join(f"{table}.{name}" for name in kept)
    if "experiment_key" in columns and table != "experiments":
        shown = f"experiments.experiment_id, {shown}"
        table = f"{table} LEFT JOIN experiments USING (experiment_key)"
    return connection.execute(f"SELECT {shown} FROM {table} ORDER BY ALL").fetchall()


def inconsistencies(database: Path) -> list[str]:
    """What does not fit together in a database, whenever its writer was killed: before there was a file, too."""
    if not database.exists():
        return []
    with duckdb.connect(str(database), read_only=True) as connection:
        if not connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall()[0][0]:
            return []
        return [*_lost_rows(connection), *_wrong_intervals(connection)]


_ONE_OF = "SELECT experiment_id FROM"
_RESULTS = "SELECT experiment_id FROM ingested_directories WHERE kind = 'result'"
_LOST = {
    "process_results without an experiment": f"{_ONE_OF} process_results EXCEPT {_ONE_OF} experiments",
    "experiments without process_results": f"{_ONE_OF} experiments EXCEPT {_ONE_OF} process_results",
    "warnings without an experiment": f"{_ONE_OF} warnings EXCEPT {_ONE_OF} experiments",
    "requests without an experiment": "FROM requests ANTI JOIN experiments USING (experiment_key)",
    "samples without an experiment": "FROM samples ANTI JOIN experiments USING (experiment_key)",
    "experiments of which rows are doubled or lost": """
        SELECT experiment_id, r.n, s.n FROM experiments
        LEFT JOIN (SELECT experiment_key, count(*) AS n FROM requests GROUP BY ALL) AS r USING (experiment_key)
        LEFT JOIN (SELECT experiment_key, count(*) AS n FROM samples GROUP BY ALL) AS s USING (experiment_key)
        WHERE (coalesce(r.n, 0), coalesce(s.n, 0)) NOT IN ((3, 8), (3, 0), (0, 8))
        """,
    "experiments without a directory": f"{_ONE_OF} experiments EXCEPT {_RESULTS}",
    "directories without their experiment": f"{_RESULTS} EXCEPT {_ONE_OF} experiments",
    "failures without a directory": f"{_ONE_OF} failures EXCEPT {_ONE_OF} ingested_directories WHERE kind = 'failure'",
    "campaigns that do not count their runs": """
        SELECT campaign_id, n_cycles, n_invalid, n_superseded FROM campaign_groups
        FULL JOIN (
            SELECT
                campaign_id,
                count(*) FILTER (NOT (superseded OR is_invalid)) AS counted,
                count(*) FILTER (is_invalid AND NOT superseded) AS invalid,
                count(*) FILTER (superseded) AS old
            FROM experiments GROUP BY ALL
        ) USING (campaign_id)
        WHERE (n_cycles, n_invalid, n_superseded) IS DISTINCT FROM (counted, invalid, old)
        """,
    "cycles that are not superseded by the newest": """
        SELECT study, campaign_id, cycle FROM experiments WHERE study IS NOT NULL AND cycle IS NOT NULL
        GROUP BY ALL HAVING count(*) FILTER (NOT superseded) <> 1
        """,
}


def _lost_rows(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = {what: connection.execute(query).fetchall() for what, query in _LOST.items()}
    return [f"{what}: {rows[:3]}" for what, rows in found.items() if rows]


def _wrong_intervals(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Stored intervals that are not what Student's t gives for the cycles that count."""
    metrics = ("total_energy_j", "output_tokens_per_second", "total_inference_time_sec")
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for campaign_id, *figures in connection.execute(f"SELECT campaign_id, {', '.join(metrics)} FROM cycles").fetchall():
        for metric, figure in zip(metrics, figures, strict=True):
            if figure is not None:
                values[campaign_id, metric].append(figure)
    expected = {cell: _by_student(figures) for cell, figures in values.items()}
    stored = connection.execute(
        "SELECT campaign_id, metric, n_samples, mean, t_lower, t_upper FROM intervals WHERE list_contains(?, metric)",
        [list(metrics)],
    ).fetchall()
    found = {(campaign_id, metric): tuple(figures) for campaign_id, metric, *figures in stored}
    if found.keys() != expected.keys():
        return [f"intervals of {len(found)} cells where {len(expected)} have runs"]
    wrong = [cell for cell in found if not _are_close(found[cell], expected[cell])]
    return [f"{cell}: {found[cell]}, not {expected[cell]}" for cell in wrong[:3]]


def _by_student(figures: list[float]) -> tuple[float | None, ...]:
    n, mean = len(figures), math.fsum(figures) / len(figures)
    if n < 2:
        return (n, mean, None, None)
    std = math.sqrt(math.fsum((figure - mean) ** 2 for figure in figures) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return (n, mean, mean - half, mean + half)


def _are_close(found: tuple[float | None, ...], expected: tuple[float | None, ...]) -> bool:
    return all(
        (a is None and b is None)
        or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12))
        for a, b in zip(found, expected, strict=True)
    )
