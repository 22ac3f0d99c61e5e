"""Fronts on paper: the points' names keep clear of each other, and of each kind of work it is said what it was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import vl_convert as vlc

from images.contract.config import BackendName, ExperimentConfig
from images.contract.work import ArrivalProcess, Sampling, Workload
from tests.warehouse.results import make_result, save, warehouse
from warehouse.database import reading
from warehouse.report.charts import Chart
from warehouse.report.data import ReportData, read_report
from warehouse.report.fronts import name_fronts
from warehouse.report.gallery import gallery, static_spec
from warehouse.report.theme import VEGA_LITE

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_SVG = "{http://www.w3.org/2000/svg}"


def read(db: Path) -> ReportData:
    with reading(db, 5) as connection:
        return read_report(connection, db, [], include_all=False, made_at=_NOW)


def _campaign(at: int, speed: float, energy: float, *, front: bool, **settings: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"c": at, "id": f"{at}", "work": 0, "speed_front": front, "ttft_front": False}
    for key, value in (("speed", speed), ("energy", energy), ("ttft", None)):
        row |= {f"{key}_mean": value, f"{key}_lo": value, f"{key}_hi": value}
    names = ("model", "dtype", "processes", "study", "simulated", "experiment", "driver", "image", "limit", "commit")
    row |= dict.fromkeys((*names, "hash")) | {"backend": "vllm", "batch": at, "hardware": "NVIDIA H100 x1"}
    return row | settings


def _named(rows: Sequence[dict[str, Any]]) -> dict[int, str]:
    name_fronts(rows, ("speed", "ttft"))
    return {row["c"]: row["speed_name"] for row in rows if row["speed_name"] is not None}


def test_of_points_that_lie_together_only_some_have_names_and_both_ends_do() -> None:
    rows = [_campaign(at, 100 + at / 1000, 10 + at, front=True) for at in range(100)]
    named = _named(rows)
    assert {0, 99} <= named.keys()
    assert 4 <= len(named) <= 8
    energies = sorted(rows[at]["energy_mean"] for at in named)
    assert min(b - a for a, b in pairwise(energies)) >= 5
    close = [_campaign(at, 100 + at, 10 + at / 1000, front=at < 2) for at in range(30)] + [
        _campaign(30, 10, 900, front=False)
    ]
    assert list(_named(close)) == [0, 1], "two that are one dot are both ends"
    assert [row["speed_above"] for row in close[:2]] == [False, True]


def test_both_ends_of_what_was_measured_and_of_what_was_simulated_have_names() -> None:
    rows = [_campaign(at, 100 * at, 100 * at, front=True, simulated=at > 6) for at in range(1, 13)]
    assert {1, 6, 7, 12} <= _named(rows).keys()
    alike = [_campaign(at, 100 + at, 10 + at, front=at < 3, simulated=False) for at in range(3)]
    assert _named([*alike, _campaign(9, 1, 9999, front=False)]).keys() == {0, 2}


def test_a_name_is_no_other_points_on_the_same_front() -> None:
    """Of two that are called the same without their backend one has no room for its name."""
    backends = {1: "pytorch", 2: "vllm", 3: "vllm"}
    rows = [_campaign(32 * (at < 3), 100 + at, 10 + at / 9, front=True, c=at, backend=backends[at]) for at in (1, 2, 3)]
    named = _named([*rows, _campaign(9, 1, 9999, front=False)])
    assert named == {1: "pytorch · batch 32", 3: "vllm · batch 0"}


def test_names_say_what_is_special_and_the_engine_only_where_it_is_needed() -> None:
    gpus = ["NVIDIA H100 80GB HBM3 x1", "NVIDIA L4 x1"]
    rows = [_campaign(8, 10.0 * at, 20.0 * at, front=True, c=at, hardware=gpus[at - 1]) for at in (1, 2)]
    assert _named(rows) == {1: "batch 8 · H100", 2: "batch 8 · L4"}
    rows = [_campaign(8, 10.0 * at, 20.0 * at, front=True, c=at, backend=f"engine{at}") for at in (1, 2)]
    assert _named(rows) == {1: "engine1 · batch 8", 2: "engine2 · batch 8"}
    rows = [_campaign(8, 10.0 * at, 20.0 * at, front=True, c=at, hardware=f"H100 kind{at}") for at in (1, 2)]
    assert _named(rows) == {1: "batch 8 · H100 kind1", 2: "batch 8 · H100 kind2"}


@pytest.mark.parametrize("width", [321.0, 640.0])
def test_names_are_drawn_whole_inside_the_picture(measured: Path, width: float) -> None:
    data = read(measured)
    for chart in gallery(data):
        if not isinstance(chart, Chart) or chart.section != "fronts":
            continue
        for choice in range(len(data.works)):
            svg = vlc.vegalite_to_svg(static_spec(chart, data, width=width, choice=choice), vl_version=VEGA_LITE)
            names = [row[f"{chart.name.partition('-')[2]}_name"] for row in data.campaigns if row["work"] == choice]
            places = _places(svg, {name for name in names if name is not None})
            assert len(places) >= 2
            for name, x, _ in places:
                assert 0 <= x <= width - 5 * len(name), name


@pytest.mark.parametrize("width", [321.0, 640.0])
@pytest.mark.parametrize("seconds", [(1.0, 1.02), (1.0, 3.0)])
def test_names_of_ends_that_lie_together_keep_clear(
    root: Path, db: Path, width: float, seconds: tuple[float, float]
) -> None:
    """Two backends that take nearly the same energy, below a third that takes far more."""
    backends: list[tuple[BackendName, float, float]] = [
        ("pytorch", 30.0, seconds[1]),
        ("vllm", 30.3, seconds[0]),
        ("stub", 300.0, 4.0),
    ]
    for number, (backend, energy_j, time) in enumerate(backends, start=1):
        config = ExperimentConfig(backend=backend, model="org/m", batch_size=32)
        save(root, make_result(number, energy_j=energy_j, seconds=time, config=config, prompts_sha256="a" * 64))
    assert warehouse("ingest", root, db=db) == 0
    data = read(db)
    chart = next(one for one in gallery(data) if one.name == "energy-speed")
    assert isinstance(chart, Chart)
    svg = vlc.vegalite_to_svg(static_spec(chart, data, width=width), vl_version=VEGA_LITE)
    names = {"pytorch · batch 32", "vllm · batch 32"}
    heights = {name: y for name, _, y in _places(svg, names)}
    assert heights.keys() == names
    assert heights["pytorch · batch 32"] - heights["vllm · batch 32"] >= 15


def _places(svg: str, names: set[str]) -> list[tuple[str, float, float]]:
    """Of each of these names where it begins and how far down it is (px), in the whole picture."""
    found = []

    def walk(element: ElementTree.Element, x: float, y: float) -> None:
        moved = re.match(r"translate\(([-\d.]+),([-\d.]+)", element.get("transform") or "")
        x, y = (x + float(moved[1]), y + float(moved[2])) if moved else (x, y)
        if element.tag == f"{_SVG}text" and (text := "".join(element.itertext())) in names:
            found.append((text, x, y))
        for child in element:
            walk(child, x, y)

    walk(ElementTree.fromstring(svg), 0.0, 0.0)
    return found


def _works(root: Path, db: Path, configs: Sequence[dict[str, Any]], prompts: Sequence[str]) -> list[str]:
    for number, (settings, digest) in enumerate(zip(configs, prompts, strict=True), start=1):
        config = ExperimentConfig(backend="stub", model="org/m", **settings)
        save(root, make_result(number, energy_j=30.0, config=config, study="s", prompts_sha256=digest * 64))
    assert warehouse("ingest", root, db=db) == 0
    return sorted(work.label for work in read(db).works)


def test_works_are_told_apart_by_what_was_asked(root: Path, db: Path) -> None:
    poisson = ArrivalProcess(process="poisson", rate_per_s=4)
    configs: list[dict[str, Any]] = [
        {"workload": Workload()},
        {"workload": Workload(arrivals=poisson)},
        {"workload": Workload(ignore_eos=True), "sampling": Sampling(temperature=0.7)},
        {"workload": Workload(n_prompts=7)},
    ]
    base = "org/m, 100 prompts, at most 128 output tokens"
    assert _works(root, db, configs, "abcd") == [
        f"{base}, 4 requests/s (poisson), up to the end token, greedy",
        f"{base}, all requests at once, past the end token, temperature 0.7",
        f"{base}, all requests at once, up to the end token, greedy",
        "org/m, 7 prompts, at most 128 output tokens",
    ]


def test_a_template_is_a_difference_in_words_and_other_prompts_alone_are_a_hash(root: Path, db: Path) -> None:
    configs: list[dict[str, Any]] = [{"workload": Workload(chat_template=one)} for one in ("off", "model")]
    base = "org/m, 100 prompts, at most 128 output tokens"
    assert _works(root, db, configs, "ab") == [f"{base}, chat template", f"{base}, no chat template"]
    save(root, make_result(9, energy_j=30.0, config=ExperimentConfig(backend="stub", model="org/m"), study="t",
                           prompts_sha256="c" * 64))  # fmt: skip
    assert warehouse("ingest", root, db=db) == 0
    labels = sorted(work.label for work in read(db).works)
    assert labels[0] == f"{base}, chat template"
    assert all(re.fullmatch(re.escape(base) + r", no chat template \([0-9a-f]{6}\)", one) for one in labels[1:])


def test_the_sentence_names_the_work(measured: Path) -> None:
    data = read(measured)
    chart = next(one for one in gallery(data) if one.name == "energy-speed")
    assert isinstance(chart, Chart)
    for work, sentence in zip(data.works, chart.summaries, strict=True):
        assert sentence.startswith(f"{work.label}: ")
        assert work.label.startswith("org/")


def test_what_is_simulated_is_held_against_what_is_simulated_alone(root: Path, db: Path) -> None:
    """Simulated ones with less energy, and as fast: none of those that were measured is beaten by them."""
    for number, (energy_j, seconds) in enumerate([(60.0, 2.0), (90.0, 1.0), (95.0, 3.0)], start=1):
        config = ExperimentConfig(backend="stub", model="org/m", batch_size=number)
        for simulated in (False, True):
            result = make_result(
                number + 10 * simulated,
                energy_j=energy_j / (2 if simulated else 1),
                seconds=seconds,
                config=config,
                environment={"simulated": simulated},
                study="s",
                prompts_sha256="a" * 64,
            )
            save(root, result)
    assert warehouse("ingest", root, db=db) == 0
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=True, made_at=_NOW)
    found = {(row["simulated"], row["batch"]): row["speed_front"] for row in data.campaigns}
    assert found == {(simulated, batch): batch < 3 for simulated in (False, True) for batch in (1, 2, 3)}
    assert len(data.works) == 1
    chart = next(one for one in gallery(data) if one.name == "energy-speed")
    assert isinstance(chart, Chart)
    front = "2 of 3 configurations that did this work are beaten by none in both; the dashed line joins them."
    assert f": {front} On simulated GPUs, held against each other alone: {front} Right" in chart.summary
    svg = vlc.vegalite_to_svg(static_spec(chart, data), vl_version=VEGA_LITE)
    assert len(re.findall('class="mark-line role-mark', svg)) == 2, "a line for each"
