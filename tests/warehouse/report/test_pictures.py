"""Charts as files: as large as asked for, with the database's figures, and nothing else in the folder is touched."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from images.contract.config import ExperimentConfig
from tests.warehouse.results import make_result, rows, save, warehouse
from warehouse.database import prepare

_CHARTS = {
    *("energy", "speed", "ttft", "itl", "energy-speed", "energy-ttft", "power", "temperature"),
    *("requests-ttft", "requests-tpot", "requests-itl", "requests-e2e", "drift-cycle", "drift-time", "drift-gpu"),
}
_WINDOW = 16


@pytest.fixture(scope="module")
def folder(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pictures") / "new"
    assert warehouse("report", "--pictures", found, db=measured) == 0
    return found


def test_every_chart_is_there_in_both_formats(folder: Path) -> None:
    assert {one.name for one in folder.iterdir()} == {f"{name}.{form}" for name in _CHARTS for form in ("svg", "png")}


def test_a_png_is_as_wide_as_asked_for_at_300_dots_per_inch(folder: Path) -> None:
    for picture in folder.glob("*.png"):
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", content[16:24])
        assert width == pytest.approx(17 / 2.54 * 300, abs=4), picture.name
        assert height > 400
        at = content.index(b"pHYs")
        (dots_per_metre,) = struct.unpack(">I", content[at + 4 : at + 8])
        assert dots_per_metre == pytest.approx(300 / 0.0254, abs=1)


def test_an_svg_is_as_wide_as_asked_for_with_axes_units_and_no_title(folder: Path) -> None:
    for picture in folder.glob("*.svg"):
        root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
        assert float(root.attrib["width"]) == pytest.approx(17 / 2.54 * 96, abs=1.5), picture.name
        texts = {"".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")}
        assert len(texts) > 5
        assert [one for one in texts if "by configuration" in one] == []
    assert "energy per output token (J)" in (folder / "energy.svg").read_text()
    assert ">pytorch<" in (folder / "energy.svg").read_text()


def test_figures_in_a_picture_are_those_of_the_database(folder: Path, measured: Path) -> None:
    labels = re.findall(r'aria-label="([^"]*)"', (folder / "energy.svg").read_text(encoding="utf-8"))
    shown = [
        float(found[1])
        for one in labels
        if (found := re.search(r"(?:^|; )energy per output token \(J\): ([\d.]+); ", one))
    ]
    stored = [
        mean
        for (mean,) in rows(
            measured,
            "SELECT mean FROM campaign_intervals WHERE metric = 'energy_per_output_token_j' ORDER BY mean LIMIT 16",
        )
    ]
    means = [one for one in shown if any(one == pytest.approx(mean, rel=1e-3) for mean in stored)]
    assert len(stored) == _WINDOW
    for mean in stored:
        assert any(one == pytest.approx(mean, rel=1e-3) for one in means)
    cycles = [
        energy
        for (energy,) in rows(
            measured,
            "SELECT energy_per_output_token_j FROM cycles WHERE campaign_id IN (SELECT campaign_id FROM "
            "campaign_intervals WHERE metric = 'energy_per_output_token_j' ORDER BY mean LIMIT 16)",
        )
    ]
    for energy in cycles:
        assert any(one == pytest.approx(energy, rel=1e-3) for one in shown)


def test_one_format_and_a_narrow_column(measured: Path, tmp_path: Path) -> None:
    asked = ("--picture-format", "svg", "--picture-width", "8.5")
    assert warehouse("report", "--pictures", tmp_path / "p", *asked, db=measured) == 0
    assert {one.suffix for one in (tmp_path / "p").iterdir()} == {".svg"}
    root = ElementTree.parse(tmp_path / "p" / "energy.svg").getroot()
    assert float(root.attrib["width"]) == pytest.approx(8.5 / 2.54 * 96, abs=1.5)


def test_a_comparison_is_in_the_names(measured: Path, tmp_path: Path) -> None:
    asked = ("--compare", "backend=pytorch,batch_size=1", "backend=vllm,batch_size=1", "--picture-format", "svg")
    assert warehouse("report", "--pictures", tmp_path / "p", *asked, db=measured) == 0
    name = "compare-backend-pytorch-batch-size-1-backend-vllm-batch-size-1"
    names = {one.name for one in (tmp_path / "p").iterdir()}
    assert {f"{name}-{pair}.svg" for pair in range(1, 5)} <= names
    text = (tmp_path / "p" / f"{name}-1.svg").read_text(encoding="utf-8")
    assert "B/A" in text
    assert "energy per output token · " in text


def test_what_else_is_in_the_folder_stays(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "energy.svg").write_text("earlier")
    (tmp_path / "notes.txt").write_text("mine")
    asked = ("--picture-format", "svg", "-o", str(tmp_path / "r.html"))
    assert warehouse("report", "--pictures", tmp_path, *asked, db=measured) == 0
    assert (tmp_path / "energy.svg").read_text().startswith("<svg")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "r.html").stat().st_size > 500_000
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".tmp"] == []


@pytest.mark.parametrize("kind", ["file", "no parent", "picture is a folder", "nothing asked for", "alone"])
def test_what_cannot_be_written_is_one_line(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "energy.svg").mkdir(parents=True)
    places: dict[str, list[str | Path]] = {
        "file": ["--pictures", tmp_path / "file"],
        "no parent": ["--pictures", tmp_path / "none" / "p"],
        "picture is a folder": ["--pictures", tmp_path / "taken"],
        "nothing asked for": [],
        "alone": ["-o", tmp_path / "r.html", "--picture-width", "17"],
    }
    capsys.readouterr()
    assert warehouse("report", *places[kind], db=measured) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warehouse: ")
    assert (tmp_path / "file").read_text() == "mine"
    assert [one.name for one in (tmp_path / "taken").iterdir()] == ["energy.svg"]


def test_a_folder_that_was_made_for_nothing_goes_again(measured: Path, tmp_path: Path) -> None:
    assert warehouse("report", "--pictures", tmp_path / "p", "--study", "none", db=measured) == 2
    assert not (tmp_path / "p").exists()


def test_without_any_chart_there_are_no_pictures(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(db, 5)
    capsys.readouterr()
    assert warehouse("report", "--pictures", tmp_path / "p", db=db) == 0
    assert "0 pictures" in capsys.readouterr().out


def test_an_interval_that_reaches_below_zero_is_drawn_where_means_differ_by_much(tmp_path: Path) -> None:
    """Two cycles have a t interval many times their spread, and a sweep over batch sizes covers a hundredfold."""
    for number, (batch_size, energy_j) in enumerate(
        [(1, 900.0), (1, 1300.0), (8, 100.0), (8, 130.0), (64, 8.0), (64, 9.0)]
    ):
        config = ExperimentConfig(backend="stub", batch_size=batch_size)
        result = make_result(number + 1, config=config, energy_j=energy_j, cycle=number % 2 + 1, study="wide")
        save(tmp_path / "results", result)
    db = tmp_path / "w.duckdb"
    assert warehouse("ingest", tmp_path / "results", db=db) == 0
    below = "SELECT count(*) FROM intervals WHERE metric = 'energy_per_output_token_j' AND t_lower < 0"
    assert rows(db, below)[0][0] > 0
    assert warehouse("report", "--all", "--pictures", tmp_path / "pictures", "--picture-format", "svg", db=db) == 0
    drawn = list((tmp_path / "pictures").glob("*.svg"))
    assert tmp_path / "pictures" / "energy.svg" in drawn
    assert [one.name for one in drawn if "NaN" in one.read_text(encoding="utf-8")] == []
