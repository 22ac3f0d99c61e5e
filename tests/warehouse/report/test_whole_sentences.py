"""What stands in words stays whole where the filters leave nothing, where there is one of a thing, and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from images.contract.config import ExperimentConfig
from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.report.pages import Page
from tests.warehouse.results import make_result, save, save_failure, warehouse


def test_lists_and_sentences_where_the_filters_leave_nothing(new_page: NewPage, report: Path) -> None:
    opened = Opened(new_page(), report)
    page = opened.page
    page.locator("#work").select_option(index=1)
    opened.settle()
    before = page.locator("#s-energy-speed > bdi").inner_text()
    page.get_by_label("Find").fill("no such thing")
    expect(page.locator("#shown")).to_have_text("0 of 40 configurations, 0 of 200 cycles")
    opened.settle()
    for name in ("work", "trace"):
        chosen = page.locator(f"#{name}").evaluate("list => list.selectedOptions[0].textContent")
        assert chosen == "none is left with these filters"
    assert page.locator("#s-energy-speed").inner_text() == f"In the whole report: {before}"
    page.get_by_label("Find").fill("")
    expect(page.locator("#shown")).to_have_text("40 of 40 configurations, 200 of 200 cycles")
    opened.settle()
    assert page.locator("#work").input_value() == "1"


@pytest.fixture
def small(root: Path, db: Path, tmp_path: Path) -> Path:
    """Two kinds of work of one configuration each, and jobs of two backends that failed alike."""
    for number, model in enumerate(("org/one", "org/two"), start=1):
        config = ExperimentConfig(backend="stub", model=model)
        save(root, make_result(number, energy_j=30.0, config=config, study="s", prompts_sha256="a" * 64))
    for number, backend in enumerate(("pytorch", "vllm"), start=1):
        config = ExperimentConfig(backend="pytorch" if backend == "pytorch" else "vllm")
        save_failure(
            root,
            number,
            study="s",
            experiment="same",
            backend=backend,
            config=config.model_dump(mode="json"),
            measurement_config_hash=config.measurement_config_hash(),
        )
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("report", "-o", tmp_path / "r.html", db=db) == 0
    return tmp_path / "r.html"


def test_one_configuration_and_the_backends_of_failures(new_page: NewPage, small: Path) -> None:
    page = Opened(new_page(), small).page
    shown = page.locator("#work option:not([hidden])").all_text_contents()
    assert [one.rpartition(" - ")[2] for one in shown] == ["1 configuration"] * 2
    table = page.locator("[aria-labelledby=h-failures] table")
    assert "Backend" in table.locator("th[scope=col]").all_inner_texts()
    cells = table.locator("tbody tr").evaluate_all(
        "lines => lines.map(one => [...one.cells].map(cell => cell.innerText))"
    )
    assert [{"pytorch", "vllm"} & set(line) for line in cells] in ([{"pytorch"}, {"vllm"}], [{"vllm"}, {"pytorch"}])


def test_a_digest_is_no_column_of_single_letters_on_a_phone(new_page: NewPage, report: Path) -> None:
    page = Opened(new_page(viewport={"width": 360, "height": 740}), report).page
    heights = page.locator("[aria-labelledby=h-ran] tbody tr").evaluate_all(
        "lines => lines.map(one => one.getBoundingClientRect().height)"
    )
    assert heights
    assert max(heights) <= 100


@pytest.mark.parametrize(
    ("most_j", "told"), [(35.0, "2.9 % more"), (37.3, "9.7 % more"), (37.5, "1.1 times as much"), (680.0, "20 times")]
)
def test_a_small_difference_is_told_in_percent(root: Path, db: Path, tmp_path: Path, most_j: float, told: str) -> None:
    for number, energy_j in enumerate((34.0, most_j), start=1):
        config = ExperimentConfig(backend="stub", batch_size=number)
        save(root, make_result(number, energy_j=energy_j, config=config, study="s"))
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("report", "-o", tmp_path / "r.html", db=db) == 0
    assert f"J (stub · batch 2), {told}" in Page(tmp_path / "r.html").text
