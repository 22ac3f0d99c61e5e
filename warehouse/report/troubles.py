"""What was seen, what failed, what was left out, and what everything ran on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from duckdb import DuckDBPyConnection

from warehouse.plain_text import clipped
from warehouse.students_t import correlation_by_chance

Row = dict[str, Any]

MOST_ROWS = 40
"""Of each table on the page."""
_LONGEST_TEXT = 400


@dataclass(frozen=True)
class Listing:
    """The first rows of a table, and how many there are."""

    rows: Sequence[Row]
    count: int

    @property
    def more(self) -> int:
        return self.count - len(self.rows)


@dataclass(frozen=True)
class Troubles:
    """Tables of what needs attention, and of provenance.

    Attributes:
        drift_by_chance: as many rows as in `drift` would be there if nothing wandered (rows).
    """

    warnings: Listing
    invalid: Listing
    failures: Listing
    quarantine: Listing
    drift: Listing
    drift_by_chance: float
    provenance: Listing
    packages: Listing


_WARNINGS = """
SELECT code, sum(n_warned)::BIGINT AS n_cycles, count(*) AS n_campaigns,
    (SELECT arg_max(message, experiment_id) FROM warnings SEMI JOIN temp.cycles USING (experiment_id)
     WHERE warnings.code IS NOT DISTINCT FROM counted.code) AS message
FROM warning_counts AS counted
GROUP BY code ORDER BY n_cycles DESC, code
"""
_INVALID = """
SELECT reason, count(*) AS n_runs, count(DISTINCT campaign_id) AS n_campaigns,
    arg_max(experiment_id, start_time) AS run
FROM temp.invalid_runs WHERE NOT superseded
GROUP BY reason ORDER BY n_runs DESC, reason
"""
_FAILURES = """
SELECT error_class, exit_code, study, experiment, backend, model, batch_size AS batch, n_failed,
    strftime(last_failed AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M') AS last_failed, last_message AS message,
    last_advice AS advice
FROM failure_summary
ORDER BY n_failed DESC, failure_summary.last_failed DESC, error_class, study, experiment
"""
_QUARANTINE = "SELECT directory, reason FROM quarantine ORDER BY directory"
# A line through few points says little: at least five, and close to it.
_STEADY = 0.9
_LOOKED_AT = """
FROM drift_over_time SEMI JOIN temp.campaigns USING (campaign_id)
WHERE metric IN ('energy_per_output_token_j', 'output_tokens_per_second') AND n_samples >= 5
    AND correlation IS NOT NULL
"""
_DRIFT = f"""
SELECT campaign_id, metric, n_samples, relative_change, correlation
{_LOOKED_AT} AND abs(correlation) >= {_STEADY}
ORDER BY abs(relative_change) DESC NULLS LAST, campaign_id, metric
"""
_PROVENANCE = """
SELECT backend, hardware, driver_version AS driver, image_name, coalesce(image_repo_digest, image_id) AS digest,
    git_revision AS revision, launcher, environment_snapshot ->> '$.python_version' AS python,
    environment_snapshot ->> '$.cuda_version' AS cuda, schema_version AS schema, count(*) AS n_cycles,
    nullif(count(DISTINCT node), 0) AS n_nodes
FROM temp.cycles
GROUP BY ALL ORDER BY n_cycles DESC, backend, hardware, driver, digest, revision
"""
_PACKAGES = """
WITH known AS (
    SELECT backend, any_value(environment_snapshot -> '$.package_versions') AS versions, count(*) AS n
    FROM temp.cycles
    WHERE json_type(environment_snapshot, '$.package_versions') = 'OBJECT'
    GROUP BY backend, (environment_snapshot -> '$.package_versions')::VARCHAR
), single AS (
    SELECT backend, n, versions, unnest(json_keys(versions)) AS package FROM known
)
SELECT package, versions ->> ('$."' || package || '"') AS version, list_sort(list(DISTINCT backend)) AS backends,
    sum(n)::BIGINT AS n_cycles
FROM single WHERE NOT contains(package, '"')
GROUP BY ALL ORDER BY package, version
"""


def read_troubles(connection: DuckDBPyConnection) -> Troubles:
    """Of what the temporary tables and views hold; the quarantine is the whole database's."""
    return Troubles(
        warnings=_listing(connection, _WARNINGS),
        invalid=_listing(connection, _INVALID),
        failures=_listing(connection, _FAILURES),
        quarantine=_listing(connection, _QUARANTINE),
        drift=_listing(connection, _DRIFT),
        drift_by_chance=_drift_by_chance(connection),
        provenance=_listing(connection, _PROVENANCE),
        packages=_listing(connection, _PACKAGES, 200),
    )


def _drift_by_chance(connection: DuckDBPyConnection) -> float:
    found = connection.execute(f"SELECT n_samples, count(*) {_LOOKED_AT} GROUP BY n_samples").fetchall()
    return sum((count * correlation_by_chance(_STEADY, n) for n, count in found), 0.0)


def _listing(connection: DuckDBPyConnection, query: str, most: int = MOST_ROWS) -> Listing:
    found = connection.execute(query)
    names = [column[0] for column in found.description or ()]
    rows = found.fetchall()
    shown = [{name: _safe(value) for name, value in zip(names, row, strict=True)} for row in rows[:most]]
    return Listing(shown, len(rows))


def _safe(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(clipped(one) for one in value)
    return clipped(value, _LONGEST_TEXT) if isinstance(value, str) else value
