"""What configurations with names as they are in use are called, and that a chart has room for it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert as vlc
from playwright.sync_api import Page

from images.contract.config import ExperimentConfig
from tests.warehouse.report.measured import N_REQUESTS, requests_of
from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.results import make_result, warehouse
from warehouse.database import reading
from warehouse.report.charts import Chart
from warehouse.report.data import read_report
from warehouse.report.gallery import gallery, static_spec
from warehouse.report.labels import labels_of, short_labels
from warehouse.report.theme import VEGA_LITE

_MODELS = (
    "meta-llama/Meta-Llama-3.1-70B-Instruct",
    "neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w8a8",
)
_GPUS = ("NVIDIA A100-SXM4-80GB", "NVIDIA RTX 6000 Ada Generation")
_STUDIES = ("precision-sweep", "batch-sweep")
_CHARTS = ("energy", "requests-ttft")
# How many labels and marks a chart has, how many marks are level with a label, and how many labels are cut.
_COVERED = """
chart => {
  const all = kind => [...chart.querySelectorAll(`.mark-${kind}.role-mark > *`)];
  const boxes = kind => all(kind).map(one => one.getBoundingClientRect());
  const labels = boxes('text'), marks = [...boxes('symbol'), ...boxes('rule')];
  const covered = marks.filter(mark => labels.some(
    label => (mark.top + mark.bottom) / 2 > label.top && (mark.top + mark.bottom) / 2 < label.bottom));
  // The chart's own cut is at the end of a line; a label's is at its beginning here.
  const cut = all('text').filter(one => one.textContent.lastIndexOf('…') > 0);
  return [labels.length, marks.length, covered.length, cut.length];
}
"""


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with eight configurations of three cycles."""
    folder, rng = tmp_path_factory.mktemp("long"), np.random.default_rng(1)
    settings = list(product(_MODELS, _GPUS, _STUDIES, (1, 2, 3)))
    for number, (model, gpu, study, cycle) in enumerate(settings, start=1):
        result = make_result(
            number,
            seconds=3.0,
            energy_j=100.0 + number,
            n_requests=N_REQUESTS,
            config=ExperimentConfig(backend="pytorch", model=model, batch_size=4),
            environment={"device": "cuda", "gpu_names": [gpu], "gpu_uuids": [f"GPU-{gpu[-4:]}"]},
            study=study,
            cycle=cycle,
            energy_source="nvml_power",
        )
        result.save(folder / "results", requests=requests_of(result, rng))
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


def _is_uncovered(page: Page, chart: str) -> None:
    n_labels, n_marks, n_covered, n_cut = page.locator(chart).evaluate(_COVERED)
    assert (n_labels, n_covered, n_cut) == (8, 0, 0)
    assert n_marks >= 3 * n_labels


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_no_label_covers_a_mark_at_any_width_of_a_page(new_page: NewPage, long_names: Path, tmp_path: Path) -> None:
    assert warehouse("report", "-o", tmp_path / "r.html", db=long_names) == 0
    opened = Opened(new_page(), tmp_path / "r.html")
    for width in (1280, 360, 720):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.page.wait_for_timeout(400)
        opened.settle()
        for name in _CHARTS:
            _is_uncovered(opened.page, f"#c-{name} svg")
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for name in _CHARTS:
        _is_uncovered(opened.page, f"#c-{name} svg")
    assert opened.wrong == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [321.0, 640.0, 1000.0])
def test_no_label_covers_a_mark_in_a_picture(new_page: NewPage, long_names: Path, width: float) -> None:
    with reading(long_names, 5) as connection:
        data = read_report(connection, long_names, [], include_all=False, made_at=datetime.now(UTC))
    page = new_page()
    for chart in gallery(data):
        if isinstance(chart, Chart) and chart.name in _CHARTS:
            page.set_content(vlc.vegalite_to_svg(static_spec(chart, data, width=width), vl_version=VEGA_LITE))
            _is_uncovered(page, "svg")


def _row(at: int, **settings: Any) -> dict[str, Any]:
    names = ("dtype", "processes", "simulated", "experiment", "driver", "image", "limit", "commit", "hash")
    return dict.fromkeys(names) | {"id": f"{at:016x}", "backend": "pytorch", "batch": 4} | settings


def test_a_long_label_keeps_all_of_its_parts() -> None:
    settings = list(product(_MODELS, _GPUS, _STUDIES))
    rows = [_row(at, model=model, hardware=f"{gpu} x1", study=study) for at, (model, gpu, study) in enumerate(settings)]
    labels = labels_of(rows)
    for label, (model, gpu, study) in zip(labels, settings, strict=True):
        of_model, *others = label.split(" · ")
        assert model.endswith(of_model.removeprefix("…"))
        assert "70B-Instruct" in of_model
        assert others == ["pytorch", "batch 4", f"{gpu.removeprefix('NVIDIA ')} x1", study]
        assert len(label) <= 100
    assert len(set(labels)) == len(labels)
    # Where there is less room each part is still there.
    for label, (_, gpu, study) in zip(short_labels(rows[:4]), settings, strict=False):
        assert [part[:3] for part in label.split(" · ")] == ["bat", gpu.removeprefix("NVIDIA ")[:3], study[:3]]


@pytest.mark.parametrize("place", ["beginning", "middle", "end", "number"])
@pytest.mark.parametrize("labels_among", [labels_of, short_labels])
def test_long_names_that_differ_somewhere_have_different_labels(place: str, labels_among: Any) -> None:
    at = {"beginning": (0, 180), "middle": (90, 90), "end": (180, 0), "number": (60, 120)}[place]
    names = [f"{'x' * at[0]}{number}{'y' * at[1]}" for number in range(30)]
    labels = labels_among([_row(number, model=name, hardware=name, study=name) for number, name in enumerate(names)])
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 100
    assert [label for label in labels if "campaign" in label] == [], "told apart by their names"


def test_names_that_differ_in_several_places_are_still_told_apart() -> None:
    names = [f"{'x' * 60}{a}{'y' * 60}{b}{'z' * 60}" for a, b in product("abc", "def")]
    labels = labels_of([_row(number, model=name, hardware="L4", study="s") for number, name in enumerate(names)])
    assert len(set(labels)) == len(names)
    assert max(map(len, labels)) <= 100


def test_only_a_label_that_is_too_long_is_shortened_and_in_whole_words() -> None:
    study = "power-limit-sweep-of-november-2026"
    long = {"backend": "tensorrt-llm", "dtype": "bfloat16", "processes": 4, "study": study}
    rows = [
        _row(1, model="meta-llama/Meta-Llama-3.1-70B-Instruct", hardware="NVIDIA L4 x1", study="first")
        | {"dtype": "auto", "processes": 1},
        _row(2, model="meta-llama/Meta-Llama-3.1-8B-Instruct", hardware="NVIDIA RTX 6000 Ada Generation x4") | long,
        _row(3, model="mistralai/Mistral-7B-Instruct-v0.3", hardware="NVIDIA L4 x1", study="first")
        | {"dtype": "auto", "processes": 1},
    ]
    first, second, third = labels_of(rows)
    assert first == "Meta-Llama-3.1-70B-Instruct · pytorch · batch 4 · auto · 1 process · L4 x1 · first"
    assert third == "Mistral-7B-Instruct-v0.3 · pytorch · batch 4 · auto · 1 process · L4 x1 · first"
    assert len(second) <= 100
    model, *others = second.split(" · ")
    assert (others[:4], "8B" in model) == (["tensorrt-llm", "batch 4", "bfloat16", "4 processes"], True)
    words = set(re.split("[-_/: ]", f"Meta-Llama-3.1-8B-Instruct RTX 6000 Ada Generation x4 {study}"))
    cut = [part for part in (model, *others[4:]) if "…" in part]
    assert cut != []
    assert [word for part in cut for word in re.split("[-_/: …]", part) if word and word not in words] == []


def test_models_of_the_same_name_are_called_with_their_owners() -> None:
    models = ("meta-llama/Llama-3.1-8B-Instruct", "unsloth/Llama-3.1-8B-Instruct", "Qwen/Qwen3-8B")
    labels = labels_of([_row(at, model=model, hardware="L4 x1", study="s") for at, model in enumerate(models)])
    assert labels == [f"{name} · pytorch · batch 4" for name in (*models[:2], "Qwen3-8B")]
