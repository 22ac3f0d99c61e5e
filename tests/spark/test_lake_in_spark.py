"""Spark, in local mode, reads the folder that `warehouse export` wrote and gets the same campaigns as DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="`make test-spark` installs it; needs Java 17 or newer")

from pyspark.sql import SparkSession

from tests.warehouse.cookbook_data import write_year
from tests.warehouse.results import rows, warehouse

pytestmark = pytest.mark.timeout(300)
METRICS = ("energy_per_output_token_j", "output_tokens_per_second", "ttft_mean_ms")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A year of studies."""
    folder = tmp_path_factory.mktemp("year")
    write_year(folder / "results")
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    assert warehouse("export", "-o", folder / "lake", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


@pytest.fixture(scope="module")
def spark(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """With a view for each table of the lake."""
    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("spark")))
        .getOrCreate()
    )
    for table in sorted((database.parent / "lake").iterdir()):
        if table.is_dir():
            session.read.parquet(str(table)).createOrReplaceTempView(table.name)
    yield session
    session.stop()


def asked(spark: SparkSession, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in spark.sql(query).collect()]


@pytest.mark.parametrize("metric", METRICS)
def test_campaign_means_and_counts_computed_by_spark_are_those_of_duckdb(
    spark: SparkSession, database: Path, metric: str
) -> None:
    in_spark = asked(
        spark,
        f"SELECT campaign_id, count({metric}) AS n, avg({metric}) AS mean FROM runs GROUP BY campaign_id "
        f"HAVING count({metric}) > 0 ORDER BY campaign_id",
    )
    in_duckdb = rows(
        database,
        f"SELECT campaign_id, n_samples, mean FROM intervals JOIN campaign_groups USING (campaign_id) "
        f"WHERE metric = '{metric}' AND n_samples > 0 AND NOT is_simulated ORDER BY campaign_id",
    )
    assert len(in_duckdb) > 5
    assert [one[:2] for one in in_spark] == [one[:2] for one in in_duckdb]
    assert [one[2] for one in in_spark] == pytest.approx([one[2] for one in in_duckdb], rel=1e-12)


def test_stored_intervals_and_every_tables_rows_are_read_as_they_are(spark: SparkSession, database: Path) -> None:
    bounds = "SELECT campaign_id, metric, n_samples, t_lower, t_upper FROM intervals {} ORDER BY campaign_id, metric"
    shown = "JOIN campaign_groups USING (campaign_id) WHERE NOT is_simulated"
    assert asked(spark, bounds.format("")) == rows(database, bounds.format(shown))
    counted = "SELECT count(*), count(DISTINCT experiment_id) FROM {}"
    (in_spark,) = asked(spark, counted.format("requests"))
    (in_duckdb,) = rows(
        database,
        "SELECT count(*), count(DISTINCT experiment_key) FROM requests SEMI JOIN (FROM runs WHERE counts) "
        "USING (experiment_key)",
    )
    assert in_spark == in_duckdb
    assert in_spark[0] > 100
