"""What was measured is said also where no name says it: names have only what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from images.contract.config import ExperimentConfig
from tests.warehouse.report.pages import Page
from tests.warehouse.results import make_result, save, warehouse


def _reported(root: Path, db: Path, target: Path, configs: list[dict[str, Any]]) -> tuple[str, str]:
    """All that is to be read on the page, and the captions."""
    for number, settings in enumerate(configs, start=1):
        config = ExperimentConfig(**{"backend": "pytorch", "model": "org/tiny_1b", "dtype": "float16"} | settings)
        on_cpu = {"device": "cpu", "cpu_model": "Test CPU"}
        save(root, make_result(number, config=config, study="s", environment=on_cpu))
    assert warehouse("ingest", root, db=db) == 0
    asked = ("--picture-format", "svg", "--pictures", target / "p")
    assert warehouse("report", "-o", target / "r.html", *asked, db=db) == 0
    return Page(target / "r.html").text, (target / "p" / "captions.md").read_text(encoding="utf-8").replace("\\", "")


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        (
            [{"batch_size": 8}],
            "The configuration: model org/tiny_1b · CPU, Test CPU · pytorch · dtype float16 · batch 8",
        ),
        (
            [{"batch_size": 1, "backend": "vllm"}, {"batch_size": 8}],
            "All configurations: model org/tiny_1b · CPU, Test CPU · dtype float16",
        ),
    ],
)
def test_what_is_common_to_all_stands_under_the_title_and_in_every_caption(
    root: Path, db: Path, tmp_path: Path, configs: list[dict[str, Any]], said: str
) -> None:
    page, captions = _reported(root, db, tmp_path, configs)
    assert page.index("UTC") < page.index(f"{said}\n") < page.index("replaced by newer runs")
    n_pictures = len(list((tmp_path / "p").glob("*.svg")))
    assert n_pictures > 2
    assert captions.count(f"\n\n{said}. Source: ") == n_pictures
