"""A page on which nothing counts says why, and has no charts that are all empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.report.pages import Page
from tests.warehouse.results import make_result, save, save_failure, warehouse

_INVALID: dict[str, Any] = {"measurement_valid": False, "invalid_reasons": ["foreign_process"]}


def test_only_invalid_runs(root: Path, db: Path, tmp_path: Path, new_page: NewPage) -> None:
    for number in (1, 2):
        save(root, make_result(number, energy_j=30.0, study="s", **_INVALID))
    assert warehouse("ingest", root, db=db) == 0
    target = tmp_path / "r.html"
    assert warehouse("report", "-o", target, db=db) == 0
    found = Page(target)
    assert "No cycle counts: 2 invalid (foreign_process); --all shows them." in found.text
    assert "Not measured in any cycle" not in found.text
    assert found.charts == {}
    page = Opened(new_page(), target).page
    assert page.locator("#n-invalid").inner_text() == "2"
    assert (
        "foreign_process"
        in page.locator("[aria-labelledby=h-invalid] td, [aria-labelledby=h-invalid] th").all_inner_texts()
    )
    assert warehouse("report", "--all", "-o", target, db=db) == 0
    assert len(Page(target).table("cycles")) == 2


def test_what_is_invalid_and_what_is_simulated_and_what_failed(
    root: Path, db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(
        root, make_result(1, energy_j=30.0, study="s", **_INVALID | {"invalid_reasons": ["foreign_process", "no_gpu"]})
    )
    save(root, make_result(2, energy_j=30.0, study="s", environment={"simulated": True}))
    save_failure(root, study="s", message="no memory left")
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("report", "-o", tmp_path / "r.html", db=db) == 0
    words = "No cycle counts: 1 invalid (foreign_process, no_gpu), 1 on simulated GPUs; --all shows them."
    assert f"{words} Why jobs failed stands below." in Page(tmp_path / "r.html").text
    capsys.readouterr()
    assert warehouse("report", "--pictures", tmp_path / "p", db=db) == 0
    told = "0 pictures (no cycle counts: 1 invalid, 1 on simulated GPUs; --all takes them)\n"
    assert capsys.readouterr().out == f"{tmp_path / 'p'}: {told}"


def test_of_many_reasons_the_most_frequent_are_named(root: Path, db: Path, tmp_path: Path) -> None:
    """And all of them stand in their table."""
    for number in range(1, 10):
        reasons = [f"rare_{number}", *(f"frequent_{at}" for at in range(5) if number > at)]
        save(root, make_result(number, energy_j=30.0, study="s", **_INVALID | {"invalid_reasons": reasons}))
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("report", "-o", tmp_path / "r.html", db=db) == 0
    text = Page(tmp_path / "r.html").text
    named = ", ".join(f"frequent_{at}" for at in range(5))
    assert f"No cycle counts: 9 invalid ({named} and 9 more); --all shows them." in text
    assert text.count("rare_9") == 1


def test_a_valid_cycle_beside_invalid_ones_is_drawn(root: Path, db: Path, tmp_path: Path) -> None:
    save(root, make_result(1, energy_j=30.0, study="s", **_INVALID))
    save(root, make_result(2, energy_j=30.0, study="t"))
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("report", "-o", tmp_path / "r.html", db=db) == 0
    found = Page(tmp_path / "r.html")
    assert "No cycle counts" not in found.text
    assert len(found.table("campaigns")) == 2
