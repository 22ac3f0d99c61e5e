"""What one would write without joulehouse, with DuckDB alone, to get result directories into a database file.

``python -m tests.bench.baselines NAME ROOT DATABASE`` prints the seconds from opening the database to having closed it,
which checkpoints it. A process of its own for each, so that none has the memory or the caches of another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import duckdb
import orjson
from duckdb import DuckDBPyConnection

from images.contract import files

Work = Callable[[DuckDBPyConnection], None]

_QUOTE = "'"
_N_TYPED = 200
"""Results that show DuckDB the types that are then declared."""
# Every field of the result, the nested ones as JSON: four times as fast as with their types. It is the quickest that a
# declaration gives, though one has still to look into them.
_COLUMNS = {
    "schema_version": "VARCHAR",
    "experiment_id": "VARCHAR",
    "measurement_config_hash": "VARCHAR",
    "backend": "VARCHAR",
    "measurement_methodology": "VARCHAR",
    "steady_state_window": "DOUBLE[]",
    "total_tokens": "BIGINT",
    "total_energy_j": "DOUBLE",
    "total_inference_time_sec": "DOUBLE",
    "avg_tokens_per_second": "DOUBLE",
    "avg_energy_per_token_j": "DOUBLE",
    "total_flops": "DOUBLE",
    "baseline_power_w": "DOUBLE",
    "energy_adjusted_j": "DOUBLE",
    "energy_per_device_j": "DOUBLE[]",
    "energy_breakdown": "JSON",
    "multi_gpu": "JSON",
    "environment_snapshot": "JSON",
    "measurement_warnings": "VARCHAR[]",
    "warmup_excluded_samples": "BIGINT",
    "reproducibility_notes": "VARCHAR",
    "timeseries": "VARCHAR",
    "start_time": "TIMESTAMPTZ",
    "end_time": "TIMESTAMPTZ",
    "effective_config": "JSON",
    "process_results": "JSON[]",
    "aggregation": "JSON",
    "thermal_throttle": "JSON",
    "warmup_result": "JSON",
    "latency_stats": "JSON",
    "extended_metrics": "JSON",
    "study": "VARCHAR",
    "experiment": "VARCHAR",
    "cycle": "INTEGER",
    "block": "VARCHAR",
    "scheduling": "JSON",
    "attempt": "INTEGER",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "cached_input_tokens": "BIGINT",
    "passes": "BIGINT",
    "output_tokens_per_second": "DOUBLE",
    "total_tokens_per_second": "DOUBLE",
    "energy_per_output_token_j": "DOUBLE",
    "energy_source": "VARCHAR",
    "measurement_valid": "BOOLEAN",
    "invalid_reasons": "VARCHAR[]",
    "requests": "VARCHAR",
    "prompts_sha256": "VARCHAR",
}


def inferred(root: Path) -> Work:
    """DuckDB finds out the types of the results itself."""
    return partial(_read, root=root, results=f"read_json('{root}/*/*/{files.RESULT_FILE}', filename=true)")


def declared(root: Path) -> Work:
    """The same table, its types told."""
    some = [str(path) for path in sorted(root.glob(f"*/*/{files.RESULT_FILE}"))[:_N_TYPED]]
    found = duckdb.execute("DESCRIBE SELECT * FROM read_json($some)", {"some": some}).fetchall()
    return partial(_read, root=root, results=_with_types(root, {name: kind for name, kind, *_ in found}))


def declared_as_json(root: Path) -> Work:
    """The nested parts are not taken apart."""
    return partial(_read, root=root, results=_with_types(root, _COLUMNS))


def floor(root: Path) -> Work:
    """The least there is to do: parse every result and keep nothing of it; rows that do not say whose they are."""
    return partial(_parse_and_read_sidecars, root=root)


def _with_types(root: Path, types: Mapping[str, str]) -> str:
    columns = ", ".join(f"'{name}': '{kind.replace(_QUOTE, 2 * _QUOTE)}'" for name, kind in types.items())
    return f"read_json('{root}/*/*/{files.RESULT_FILE}', filename=true, columns={{{columns}}})"


def _read(connection: DuckDBPyConnection, root: Path, results: str) -> None:
    _create(connection, "results", results)
    _read_sidecars(connection, root, ", filename=true")


def _parse_and_read_sidecars(connection: DuckDBPyConnection, root: Path) -> None:
    for path in root.glob(f"*/*/{files.RESULT_FILE}"):
        orjson.loads(path.read_bytes())
    _read_sidecars(connection, root, "")


def _read_sidecars(connection: DuckDBPyConnection, root: Path, options: str) -> None:
    for table, file in (("requests", files.REQUESTS_FILE), ("samples", files.TIMESERIES_FILE)):
        _create(connection, table, f"read_parquet('{root}/*/*/{file}'{options})")


def _create(connection: DuckDBPyConnection, table: str, source: str) -> None:
    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM {source}")


_BASELINES: dict[str, Callable[[Path], Work]] = {
    "inferred": inferred,
    "declared": declared,
    "declared_as_json": declared_as_json,
    "floor": floor,
}


def main(name: str, root: str, database: str) -> None:
    work = _BASELINES[name](Path(root))
    started = time.perf_counter()
    with duckdb.connect(database) as connection:
        work(connection)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
