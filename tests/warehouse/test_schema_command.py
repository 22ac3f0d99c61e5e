"""What can be asked for is documented, each column with its unit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.results import make_result, save, warehouse
from warehouse.catalogue import Relation, catalogue
from warehouse.schema import SCHEMA_VERSION, create_all

UNITS = re.compile(
    r"\w+_(j|w|s|ms|mhz|c|mb|sec|flops|ratio|fraction|tokens|requests|per_second|per_day)((_t)?_(lower|upper))?"
    r"|tokens_per_delivery_mean|(output_)?tokens_per_joule((_t)?_(lower|upper))?|joules_per_token|\w+_per_million_output_tokens((_t)?_(lower|upper))?"
)
COUNTS_AND_INDICES = re.compile(
    r"n_\w+|\w+_(count|samples|index|key|cycles|code|processes|prompts)|cycle|attempt|position|passes|samples"
    r"|batch_size|gpus_per_process|gpu_id|order_seed|version"
)
WITHOUT_UNIT = {
    "confidence", "expected_percentile_coverage", "ratio", "correlation", "relative_change", "temperature",
    "batch_efficiency", "kv_cache_hit_rate",
}  # fmt: skip
"""Fractions of 1, but for the temperature of sampling."""
IN_THE_UNIT_BESIDE = {
    "mean", "std", "t_lower", "t_upper", "percentile_lower", "percentile_upper", "first", "last", "slope_per_hour",
}  # fmt: skip
NUMBER = re.compile(r"(DOUBLE|FLOAT|HUGEINT|(TINY|SMALL|BIG)?INT(EGER)?|DECIMAL\(.*\))(\[\])?")


@pytest.fixture(scope="module")
def relations() -> list[Relation]:
    with duckdb.connect() as connection:
        create_all(connection)
        return catalogue(connection)


def test_every_table_view_and_column_says_what_it_is(relations: list[Relation]) -> None:
    silent = [relation.name for relation in relations if not relation.comment]
    silent += [
        f"{relation.name}.{column.name}"
        for relation in relations
        for column in relation.columns
        if not column.comment and relation.kind != "macro"
    ]
    assert silent == []


def test_every_number_has_its_unit_in_its_name(relations: list[Relation]) -> None:
    nameless = []
    for relation in relations:
        names = {column.name for column in relation.columns}
        for column in relation.columns:
            if not NUMBER.fullmatch(column.type):
                continue
            by_itself = (pattern.fullmatch(column.name) for pattern in (UNITS, COUNTS_AND_INDICES))
            beside = column.name in IN_THE_UNIT_BESIDE and "unit" in names
            if not any(by_itself) and not beside and column.name not in WITHOUT_UNIT:
                nameless.append(f"{relation.name}.{column.name}")
    assert nameless == []


def test_without_a_database_it_shows_what_would_be_made(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("schema", "--format", "json", db=db) == 0
    shown = {relation["name"]: relation for relation in json.loads(capsys.readouterr().out)}
    assert not db.exists()
    columns = {column["name"]: column for column in shown["runs"]["columns"]}
    assert columns["total_energy_j"]["type"] == "DOUBLE"
    # Taken over from the table below it.
    assert "(J)" in columns["total_energy_j"]["comment"]


def test_of_a_database_it_shows_what_is_there(db: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(root, make_result())
    assert warehouse("ingest", root, db=db) == 0
    with duckdb.connect(str(db)) as connection:
        connection.execute("CREATE TABLE prices (usd_per_kwh DOUBLE)")
        connection.execute("COMMENT ON COLUMN prices.usd_per_kwh IS 'mine \x1b[31m (USD/kWh)'")
    capsys.readouterr()
    assert warehouse("schema", "PRICES", db=db) == 0
    shown = capsys.readouterr().out
    assert "table prices" in shown
    assert "usd_per_kwh" in shown
    assert "mine \\x1b[31m (USD/kWh)" in shown


def test_its_sql_makes_the_same_tables_and_views_again(relations: list[Relation]) -> None:
    with duckdb.connect() as connection:
        connection.execute("".join(relation.sql_with_comments for relation in relations))
        assert catalogue(connection) == relations


def test_a_name_that_is_nearly_right_is_answered(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("schema", "experiment", db=db) == 2
    assert "experiments" in capsys.readouterr().err


def test_upgrade_says_what_it_did(db: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warehouse("schema", "--upgrade", db=db) == 2
    assert "warehouse ingest DIR" in capsys.readouterr().err
    save(root, make_result())
    assert warehouse("ingest", root, db=db) == 0
    capsys.readouterr()
    assert warehouse("schema", "--upgrade", db=db) == 0
    assert f"up to date (version {SCHEMA_VERSION})" in capsys.readouterr().out
