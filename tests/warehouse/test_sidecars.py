"""Request files of jobs of different days, in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from images.contract.files import LATER_COLUMNS, REQUESTS_FILE
from tests.warehouse.results import make_result, requests_table, rows, save
from warehouse.ingest import ingest
from warehouse.intake.landing import Summary

LATER: dict[str, Any] = {"lag_ms": 0.25, "cached_input_tokens": 16, "delivery_tokens": [1, 9]}
OLD, NEW, BETWEEN = set(), set(LATER), {"lag_ms"}  # type: ignore[var-annotated]


def test_the_columns_that_came_later_are_these() -> None:
    assert LATER_COLUMNS[REQUESTS_FILE] == tuple(LATER)


@pytest.mark.parametrize("folder", ["results", "results [1]"], ids=["together", "one by one"])
@pytest.mark.parametrize(
    "batch",
    [[OLD] * 3, [NEW] * 3, [OLD, NEW] * 3, [NEW, OLD] * 3, [NEW, NEW, BETWEEN, OLD, BETWEEN, NEW]],
    ids=["old", "new", "mixed, old first", "mixed, new first", "and between"],
)
def test_older_and_newer_files_land_with_what_they_have(
    batch: list[set[str]], folder: str, tmp_path: Path, db: Path
) -> None:
    root = tmp_path / folder
    for number, has in enumerate(batch, start=1):
        _save_with(root, number, has)
    assert ingest([root], db) == Summary(new=len(batch))
    assert _found(db) == [_expected(number, has) for number, has in enumerate(batch, start=1)]


def test_what_is_broken_among_them_is_found_and_the_rest_lands(root: Path, db: Path) -> None:
    kinds = [OLD, NEW, NEW, OLD, BETWEEN, NEW, OLD, OLD, NEW]
    for number, has in enumerate(kinds, start=1):
        directory = _save_with(root, number, has)
        if number == 4:
            (directory / REQUESTS_FILE).write_bytes(b"PAR1 not really")
        if number in (2, 7):
            file = directory / REQUESTS_FILE
            pq.write_table(pq.read_table(file).drop_columns(["ttft_ms"]), file)
    assert ingest([root], db) == Summary(new=6, quarantined=3)
    reasons = [reason for (reason,) in rows(db, "SELECT reason FROM quarantine ORDER BY directory")]
    for reason, expected in zip(reasons, ("ttft_ms", "damaged", "ttft_ms"), strict=True):
        assert expected in reason
    whole = [number for number in range(1, 10) if number not in (2, 4, 7)]
    assert _found(db) == [_expected(number, kinds[number - 1]) for number in whole]


def test_a_lag_that_is_not_a_number_is_quarantined(root: Path, db: Path) -> None:
    save(root, make_result(1), lag_ms=float("nan"))
    assert ingest([root], db) == Summary(quarantined=1)
    assert "lag_ms that is not a finite number" in rows(db, "SELECT reason FROM quarantine")[0][0]


def _save_with(root: Path, number: int, has: set[str]) -> Path:
    """One directory, with one request that has those of the later columns."""
    directory = save(root, make_result(number), n_requests=1, e2e_ms=float(number), **LATER)
    missing = [name for name in LATER if name not in has]
    table = requests_table(1, e2e_ms=float(number), **LATER).drop_columns(missing)
    pq.write_table(table, directory / REQUESTS_FILE)
    return directory


def _found(db: Path) -> list[tuple[Any, ...]]:
    columns = ", ".join(f"requests.{name}" for name in ("e2e_ms", "ttft_ms", *LATER))
    return rows(db, f"SELECT cycle, {columns} FROM requests JOIN experiments USING (experiment_key) ORDER BY cycle")


def _expected(number: int, has: set[str]) -> tuple[Any, ...]:
    return (number, float(number), 1.0, *(value if name in has else None for name, value in LATER.items()))
