"""Charts as files: as large as asked for, with the database's figures, and nothing else in the folder is touched."""

from __future__ import annotations

import re
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
import vl_convert as vlc

from images.contract.config import ExperimentConfig
from tests.warehouse.report.opened import NewPage, Opened
from tests.warehouse.results import make_result, rows, save, warehouse
from warehouse.database import prepare, reading
from warehouse.report.charts import Chart, rank_metric, ranking
from warehouse.report.data import read_report
from warehouse.report.gallery import gallery, static_spec
from warehouse.report.pictures import MOST_WORKS, drawn, pictures_of
from warehouse.report.runs import MOST_TRACES
from warehouse.report.theme import VEGA_LITE

_CHARTS = {
    *("energy", "speed", "ttft", "itl"),
    *("requests-ttft", "requests-tpot", "requests-itl", "requests-e2e", "drift-cycle", "drift-time", "drift-gpu"),
}
_WINDOW = 16
_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pictures") / "new"
    assert warehouse("report", "--pictures", found, db=measured) == 0
    return found


def _several(measured: Path) -> set[str]:
    """Names of the fronts, one of each kind of work, and of the traces, one of each run."""
    works = rows(measured, "SELECT DISTINCT model, work_id FROM cycles")
    fronts = {f"{model.rpartition('/')[2]}-{work_id[:6]}" for model, work_id in works}
    assert len(fronts) == 2
    with reading(measured, 5) as connection:
        data = read_report(connection, measured, [], include_all=False, made_at=_NOW)
    runs = {trace["run"].replace("_", "-") for trace in data.traces}
    assert len(runs) == MOST_TRACES
    return {f"{name}-{of}" for name in ("energy-speed", "energy-ttft") for of in fronts} | {
        f"{name}-{of}" for name in ("power", "temperature") for of in runs
    }


def test_every_chart_is_there_in_both_formats(folder: Path, measured: Path) -> None:
    expected = {f"{name}.{form}" for name in _CHARTS | _several(measured) for form in ("svg", "png")}
    assert {one.name for one in folder.iterdir()} == expected | {"captions.md"}


def test_every_picture_has_a_caption_that_says_what_it_shows(folder: Path, measured: Path) -> None:
    text = (folder / "captions.md").read_text(encoding="utf-8")
    captions = dict(re.findall(r"^## (\S+)\.svg, \S+\.png\n\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    plain = {name: text.replace("\\", "") for name, text in captions.items()}
    assert plain.keys() == {one.stem for one in folder.glob("*.svg")}
    for name, caption in plain.items():
        assert caption.startswith("**")
        assert f"Source: {measured}, study serving; invalid cycles and simulated GPUs left out. joulehouse " in caption
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC\.", caption)
        assert name == "drift-gpu" or re.search(r"\d+ cycles? of \d+ configurations?\.", caption), name
    assert "**Energy per output token, by configuration.** Of 40 configurations the least is" in plain["energy"]
    assert "Of 40 configurations the first 16 are drawn, least energy per output token first." in plain["energy"]
    assert "80 cycles of 16 configurations. Mark and line: mean over cycles with its 95 % interval" in plain["energy"]
    front = next(text for name, text in plain.items() if name.startswith("energy-speed-small-1b-"))
    assert "** org/small-1b, 40 prompts, at most 10 output tokens: 2 of 20 configurations" in front
    assert "100 cycles of 20 configurations." in front
    assert len(re.findall(r"vllm · batch 32", front)) == 2, "both ends of the front by their names"
    for name in (one for one in plain if one.startswith("power-")):
        run = name.removeprefix("power-").replace("-", "_")
        ((label,),) = rows(measured, f"SELECT batch_size FROM experiments WHERE experiment_id = '{run}'")
        assert f"batch {label} · " in plain[name]
        assert f", {run}: the cycle in the middle" in plain[name]


def test_captions_are_in_the_pictures_order_and_the_same_each_time(measured: Path, tmp_path: Path) -> None:
    asked = ("--picture-format", "svg", "--pictures")
    texts = []
    for name in ("one", "two"):
        assert warehouse("report", *asked, tmp_path / name, db=measured) == 0
        texts.append(re.sub(r"[-\d]{10} [\d:]{5} UTC", "", (tmp_path / name / "captions.md").read_text()))
    assert texts[0] == texts[1]
    found = re.findall(r"^## (\w+)", texts[0], flags=re.MULTILINE)
    assert list(dict.fromkeys(found)) == list(dict.fromkeys(("energy", "speed", "ttft", "itl", "energy", "power",
                                                             "temperature", "requests", "drift")))  # fmt: skip


def test_more_kinds_of_work_than_are_drawn_are_told_of(
    root: Path, db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, MOST_WORKS + 3):
        config = ExperimentConfig(backend="stub", model=f"org/m{number:02}")
        save(root, make_result(number, energy_j=30.0, config=config, prompts_sha256="a" * 64))
    assert warehouse("ingest", root, db=db) == 0
    asked = ("--picture-format", "svg", "--pictures")
    assert warehouse("report", *asked, tmp_path / "p", db=db) == 0
    assert f"(fronts of {MOST_WORKS} of {MOST_WORKS + 2} kinds of work" in capsys.readouterr().out
    assert len(list((tmp_path / "p").glob("energy-speed-*.svg"))) == MOST_WORKS
    assert f"fronts of {MOST_WORKS} of {MOST_WORKS + 2}" in (tmp_path / "p" / "captions.md").read_text()


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


@pytest.mark.parametrize("width_cm", [8.5, 11.0, 16.0, 17.0])
def test_all_that_is_drawn_is_on_the_picture(year: Path, width_cm: float) -> None:
    with reading(year, 5) as connection:
        data = read_report(connection, year, [], include_all=False, made_at=_NOW)
    one_of_each = {picture.chart.name: picture for picture in pictures_of(data)}
    found = dict(drawn([*one_of_each.values()], data, width_cm, ("svg",)))
    assert {"drift-gpu.svg", "energy.svg"} <= found.keys()
    assert [name for name, svg in found.items() if _is_something_beyond(svg.decode())] == []


def test_no_legend_or_title_of_a_page_is_cut_off_at_any_width(year: Path, new_page: NewPage) -> None:
    target = year.with_name("report.html")
    assert warehouse("report", "-o", target, db=year) == 0
    opened = Opened(new_page(viewport={"width": 700, "height": 900}), target)
    assert _cut_off(opened) == []
    for width in (500, 360, 1280, 700):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.page.wait_for_timeout(400)
        opened.settle()
        assert _cut_off(opened) == [], width


def _cut_off(opened: Opened) -> list[str]:
    """Charts with a legend above them, or a title that goes on beside their card."""
    found: dict[str, float] = opened.page.evaluate("""
    () => Object.fromEntries([...document.querySelectorAll('.chart:has(svg .role-axis)')].map(host => {
      const box = one => one.getBoundingClientRect();
      const card = box(host.parentElement), {top} = box(host.querySelector('svg'));
      const drawn = [...host.querySelectorAll('svg .role-legend, svg .role-axis-title')].map(box);
      const beyond = drawn.filter(one => one.width).map(
        one => Math.max(top - one.top, card.left - one.left, one.right - card.right));
      return [host.dataset.chart, Math.max(...beyond)];
    }))
    """)
    assert {"drift-gpu", "requests-tpot"} <= found.keys()
    return [name for name, beyond in found.items() if beyond > 0.5]


def _is_something_beyond(svg: str) -> bool:
    """Whether anything is drawn where the picture has ended: with all inside of it left out, all must be clear."""
    size = re.search(r'width="([\d.]+)" height="([\d.]+)" viewBox="0 0 [\d.]+ [\d.]+"', svg)
    assert size is not None
    width, height = float(size[1]), float(size[2])
    around = f'x="-60" y="-60" width="{width + 120}" height="{height + 120}"'
    inside = f'x="-1" y="-1" width="{width + 2}" height="{height + 2}"'
    outside = f'<rect {around} fill="white"/><rect {inside} fill="black"/>'
    head, body = svg[: svg.index(">") + 1], svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    wider = head.replace(
        size[0], f'width="{width + 120}" height="{height + 120}" viewBox="-60 -60 {width + 120} {height + 120}"'
    )
    mask = f'<mask id="outside" maskUnits="userSpaceOnUse" {around}>{outside}</mask>'
    png = vlc.svg_to_png(f'{wider}{mask}<g mask="url(#outside)">{body}</g></svg>', scale=1)
    pixels, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        pixels += png[at + 8 : at + 8 + length] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + length
    # Beside colours, which are all 0, a line says how it was filtered: less than 5.
    return max(zlib.decompress(pixels)) > 4


def test_one_format_and_a_narrow_column(measured: Path, tmp_path: Path) -> None:
    asked = ("--picture-format", "svg", "--picture-width", "8.5")
    assert warehouse("report", "--pictures", tmp_path / "p", *asked, db=measured) == 0
    assert {one.suffix for one in (tmp_path / "p").iterdir()} == {".svg", ".md"}
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
    captions = (tmp_path / "p" / "captions.md").read_text(encoding="utf-8").replace("\\", "")
    caption = captions.partition(f"## {name}-1.svg")[2].partition("## ")[0]
    assert "**B against A, every figure.**" in caption
    assert re.search(r"A: [0-9a-f]{8} .*, 5 cycles .*B: [0-9a-f]{8} .*, 5 cycles ", caption)
    assert "intervals Student's t on logarithms" in caption


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


def test_a_full_disk_is_one_line_and_no_mistake_of_the_call(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert warehouse("report", "-o", "/dev/full", db=measured) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


def test_a_folder_that_was_made_for_nothing_goes_again(measured: Path, tmp_path: Path) -> None:
    assert warehouse("report", "--pictures", tmp_path / "p", "--study", "none", db=measured) == 2
    assert not (tmp_path / "p").exists()


def test_without_any_chart_there_are_no_pictures(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(db, 5)
    capsys.readouterr()
    assert warehouse("report", "--pictures", tmp_path / "p", db=db) == 0
    assert "0 pictures (nothing was measured)" in capsys.readouterr().out
    assert list((tmp_path / "p").iterdir()) == []


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
    with reading(db, 5) as connection:
        data = read_report(connection, db, [], include_all=True, made_at=_NOW)
    for chart in (one for one in gallery(data) if isinstance(one, Chart) and one.name in ("energy", "energy-speed")):
        choices = range(len(data.works)) if chart.by else (0,)
        svgs = [vlc.vegalite_to_svg(static_spec(chart, data, choice=at), vl_version=VEGA_LITE) for at in choices]
        assert sum(_intervals(svg) for svg in svgs) == 3, "an interval each, none of no length"
        assert all(
            re.search(r"axis titled 'energy per output token \(J\) \(log\)' for a log scale", svg) for svg in svgs
        )


def _intervals(svg: str) -> int:
    """How many of a chart's lines in a backend's colour have a length."""
    lines = re.findall(r'<line ([^>]*)stroke="#(?:0068a3|a84600|00704f|993d7f|8a2be2|444444)', svg)
    return len([one for one in lines if re.search(r'[xy]2="-?[1-9]', one)])


def test_a_caption_counts_the_cycles_that_have_its_metric(root: Path, db: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        save(root, make_result(number, energy_j=30.0 + number if number < 3 else None, study="s"))
    assert warehouse("ingest", root, db=db) == 0
    assert warehouse("report", "--picture-format", "svg", "--pictures", tmp_path / "p", db=db) == 0
    text = (tmp_path / "p" / "captions.md").read_text(encoding="utf-8")
    captions = dict(re.findall(r"^## (\S+)\.svg\n\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    expected = {"energy": "2 cycles", "drift-cycle": "2 cycles", "speed": "4 cycles", "requests-ttft": "4 cycles"}
    found = {name: re.findall(r"(\d+ cycles) of 1 configuration\.", captions[name]) for name in expected}
    assert found == {name: [count] for name, count in expected.items()}


def test_without_energy_and_speed_the_order_is_by_the_first_metric_there_is() -> None:
    """As the page's program, which takes the first one that is measured."""
    nothing = dict.fromkeys(("energy_mean", "speed_mean", "itl_mean"))
    campaigns = [nothing | {"c": at, "ttft_mean": ttft} for at, ttft in enumerate((3.0, None, 1.0, 2.0))]
    assert [row["c"] for row in ranking(campaigns)] == [2, 3, 0, 1]
    assert rank_metric(campaigns).key == "ttft"
