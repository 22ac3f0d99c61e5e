"""The comparison on a report: the ratios and the words of `warehouse compare`, drawn and listed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from images.contract.config import ExperimentConfig
from tests.warehouse.report.opened import Opened
from tests.warehouse.report.pages import Page
from tests.warehouse.results import make_result, rows, save, warehouse
from warehouse.report.comparing import CONFOUNDED, MOST_PAIRS, NOT_SHOWN, PAIRED, SHOWN, WELCH, domain

_ENGINES = ("backend=pytorch", "backend=vllm", "--study", "batch-size")
_PICTURES = Path(__file__).parents[3] / ".cache" / "report"


def reported(db: Path, *arguments: str) -> Path:
    target = db.with_name("compared.html")
    assert warehouse("report", "-o", target, "--compare", *arguments, db=db) == 0
    return target


def told(capsys: pytest.CaptureFixture[str], db: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert warehouse("compare", *arguments, db=db) == 0
    return capsys.readouterr().out


class _Items(HTMLParser):
    """Texts of the list items in each pair's words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.items: list[str] = []
        self._words = self._item = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "ul":
            self._words = (dict(attrs).get("class") or "").startswith("verdicts")
        if tag == "li" and self._words:
            self.items.append("")
            self._item = True

    def handle_endtag(self, tag: str) -> None:
        self._item = self._item and tag != "li"

    def handle_data(self, data: str) -> None:
        if self._item:
            self.items[-1] += data


def test_ratios_and_words_are_those_of_compare(year: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = reported(year, *_ENGINES)
    expected = json.loads(told(capsys, year, *_ENGINES, "--format", "json"))["comparisons"]
    metrics = [one for pair in expected for one in pair["metrics"]]
    found = Page(target)
    ratios = found.table("ratios")
    assert len(expected) == 3
    assert sorted(row["ratio"] for row in ratios) == pytest.approx(
        sorted(one["ratio"] for one in metrics if one["lower"] is not None), rel=1e-5
    )
    assert sorted(row["lo"] for row in ratios) == pytest.approx(
        sorted(one["lower"] for one in metrics if one["lower"] is not None), rel=1e-5
    )
    assert sorted(_Items(target).items) == sorted(one["verdict"] for one in metrics)
    text = " ".join(found.text.split())
    for line in told(capsys, year, *_ENGINES).splitlines():
        if line.startswith(("A  ", "B  ", "   4 cycles", "they differ", "Without a counterpart")):
            assert " ".join(line.removeprefix("A  ").removeprefix("B  ").split()) in text


def test_a_figure_is_called_the_same_in_the_chart_and_in_words(year: Path) -> None:
    """A column alone only where it has no other name, or has to be typed."""
    target = reported(year, *_ENGINES)
    found = Page(target)
    drawn = {(row["metric"], row["column"]) for row in found.table("ratios")}
    assert ("ITL mean", "itl_mean_ms") in drawn
    items = _Items(target).items
    assert "ITL mean (itl_mean_ms): no difference, every cycle is the same." in items
    for name, column in drawn:
        assert not [one for one in items if column in one and f"{name} ({column})" not in one]


def test_the_pair_with_the_lowest_energy_is_first(year: Path) -> None:
    found = Page(reported(year, *_ENGINES)).table("ratios")
    energy = [row["ratio"] for row in found if row["metric"] == "energy per output token"]
    assert energy == sorted(energy)
    speed = Page(reported(year, *_ENGINES, "--metric", "output_tokens_per_second")).table("ratios")
    assert [row["ratio"] for row in speed] == sorted((row["ratio"] for row in speed), reverse=True)


def test_each_outcome_has_its_name(year: Path) -> None:
    found = Page(reported(year, *_ENGINES)).table("ratios")
    assert {row["outcome"] for row in found} == {SHOWN, NOT_SHOWN, CONFOUNDED}
    assert {row["method"] for row in found} == {WELCH}
    assert {row["pair_label"] for row in found if row["outcome"] == CONFOUNDED} == {"batch 8"}


def test_cycles_of_one_block_are_pairs(root: Path, db: Path) -> None:
    gpu = {"gpu_names": ["H100"], "gpu_uuids": ["GPU-a"], "image_id": "sha256:1"}
    for number, (cycle, batch) in enumerate(product((1, 2, 3), (1, 2)), start=1):
        config = ExperimentConfig(backend="stub", batch_size=batch)
        energy_j = (30.0 + cycle) / batch * (1 + number / 1000)
        fields: dict[str, Any] = {"study": "s", "cycle": cycle, "block": f"c{cycle:03d}", "environment": gpu}
        save(root, make_result(number, energy_j=energy_j, config=config, **fields))
    assert warehouse("ingest", root, db=db) == 0
    target = reported(db, "batch_size=1", "batch_size=2", "--metric", "energy_per_output_token_j")
    (row,) = Page(target).table("ratios")
    assert (row["method"], row["units"], row["outcome"]) == (PAIRED, "3 pairs", SHOWN)
    assert "B uses 50 % less energy per output token, 95 % interval" in Page(target).text
    assert "All are of pairs of one block." in Page(target).text
    assert next(iter(Page(target).charts)) == "compare", "one pair needs no chart of pairs"
    assert "compare-pairs" not in Page(target).charts


def test_far_ticks_and_changes_are_factors(root: Path, db: Path, tmp_path: Path) -> None:
    for number, (cycle, batch) in enumerate(product((1, 2, 3), (1, 2)), start=1):
        config = ExperimentConfig(backend="stub", batch_size=batch)
        energy_j = 10.0 * 40 ** (batch - 1) * (1 + number / 100)
        save(root, make_result(number, energy_j=energy_j, config=config, study="s", cycle=cycle))
    assert warehouse("ingest", root, db=db) == 0
    metric = ("--metric", "total_energy_j")
    (row,) = Page(reported(db, "batch_size=1", "batch_size=2", *metric)).table("ratios")
    assert re.fullmatch(r"40(\.\d)? times \([\d.]+ to [\d.]+ times\)", row["change"])
    assert row["line"] == f"energy · {row['change']}"
    assert warehouse("report", "--pictures", tmp_path, "--compare", "batch_size=1", "batch_size=2", *metric, db=db) == 0
    (drawn,) = tmp_path.glob("compare-*.svg")
    ticks = set(re.findall(r">([^<>]*(?: times| %|as A))<", drawn.read_text(encoding="utf-8")))
    assert {"as A", "10 times"} <= ticks
    assert [tick for tick in ticks if re.fullmatch(r"\+[\d,]{5,} %|\+900 %", tick)] == []


def test_the_rest_is_on_the_campaigns_of_both_sides_alone(year: Path) -> None:
    found = Page(reported(year, "driver_version=570.86.15", "study=drivers,driver_version=580.65.06"))
    assert {row["study"] for row in found.table("campaigns")} == {"drivers"}
    assert len(found.table("campaigns")) == 2
    assert "CUDA out of memory" not in found.text
    assert "no answer for 600 s" not in found.text, "a failure of the same settings in another study"
    assert "foreign_process" not in found.text
    assert "no answer for 600 s" in Page(reported(year, *_ENGINES)).text
    assert "CUDA out of memory" not in Page(reported(year, *_ENGINES)).text, "of a configuration that is on no side"


def test_other_work_is_told(root: Path, db: Path) -> None:
    for number in range(1, 7):
        of_a = number % 2 == 1
        result = make_result(
            number,
            energy_j=30.0 + number,
            study="s",
            experiment="base" if of_a else "new",
            cycle=(number + 1) // 2,
            config=ExperimentConfig(backend="stub", batch_size=1 if of_a else 2),
            prompts_sha256=("a" if of_a else "b") * 64,
        )
        save(root, result)
    assert warehouse("ingest", root, db=db) == 0
    assert "different_prompts: the prompts of A and B are not the same." in Page(reported(db, "base", "new")).text


def test_confidence_and_metrics_are_those_asked_for(year: Path) -> None:
    wide = Page(reported(year, *_ENGINES, "--confidence", "0.99", "--metric", "total_energy_j"))
    (metric,) = {row["metric"] for row in wide.table("ratios")}
    assert metric == "energy"
    assert "99 % interval" in wide.text


def test_an_axis_stays_readable_beside_an_interval_without_end() -> None:
    low, high = domain([{"ratio": 0.9, "lo": 1e-9, "hi": 1e9}, {"ratio": 1.2, "lo": 1.1, "hi": 1.3}])
    assert 0.2 < low < 0.9
    assert 1.3 < high < 5
    assert domain([{"ratio": 1.0, "lo": 1.0, "hi": 1.0}])[0] < 1 < domain([{"ratio": 1.0, "lo": 1.0, "hi": 1.0}])[1]


def test_more_pairs_than_are_shown_are_told_of(root: Path, db: Path) -> None:
    n_pairs = MOST_PAIRS + 2
    for number, (batch, study, cycle) in enumerate(product(range(1, n_pairs + 1), ("base", "new"), (1, 2)), start=1):
        config = ExperimentConfig(backend="stub", batch_size=batch)
        energy_j = 30.0 + cycle + (batch if study == "new" else 0)
        save(root, make_result(number, energy_j=energy_j, config=config, study=study, cycle=cycle))
    assert warehouse("ingest", root, db=db) == 0
    found = Page(reported(db, "study=base", "study=new"))
    assert f"These are {MOST_PAIRS} of {n_pairs} pairs" in " ".join(found.text.split())
    assert len({row["pair"] for row in found.table("ratios")}) == MOST_PAIRS
    assert len(found.table("campaigns")) == 2 * n_pairs


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["--compare", "nobody", "vllm"], "no campaign is called 'nobody'"),
            (["--compare", "backend=vllm", "backend=vllm"], "A and B both mean"),
            (["--compare", "backend=pytorch", "backend=vllm", "--study", "nothing"], "there is no study 'nothing'"),
            (["--compare", "backend=pytorch", "backend=vllm", "--metric", "x"], "there is no metric 'x'"),
            (["--compare", "backend=pytorch", "backend=vllm", "--study", "a", "--study", "b"], "one --study at most"),
            (["--metric", "total_energy_j"], "--metric says something about --compare only"),
        ],
    )
    def test_it_is_one_line(
        self, year: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
    ) -> None:
        target = tmp_path / "r.html"
        capsys.readouterr()
        assert warehouse("report", "-o", target, *arguments, db=year) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert part in line
        assert not target.exists()

    def test_an_unknown_selector_is_compares_own_line(self, year: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert warehouse("compare", "nobody", "vllm", db=year) == 2
        own = capsys.readouterr().err
        assert warehouse("report", "-o", year.with_name("x.html"), "--compare", "nobody", "vllm", db=year) == 2
        assert capsys.readouterr().err == own

    @pytest.mark.parametrize(
        ("asked", "part"),
        [
            ("ttft", "did you mean ttft_mean_ms or "),
            ("energy_per_token", "energy_per_output_token_j"),
            ("Output_Tokens_Per_Sec", "did you mean output_tokens_per_second or "),
            ("x", "there is energy_per_output_token_j, for example."),
            ("m" * 500, "there is energy_per_output_token_j, for example."),
        ],
    )
    def test_an_unknown_metric_is_a_short_line_with_near_names(
        self, year: Path, capsys: pytest.CaptureFixture[str], asked: str, part: str
    ) -> None:
        capsys.readouterr()
        lines = []
        for command in (["compare"], ["report", "-o", year.with_name("x.html"), "--compare"]):
            assert warehouse(*command, "backend=pytorch", "backend=vllm", "--metric", asked, db=year) == 2
            lines += capsys.readouterr().err.splitlines()
        line, same = lines
        assert (line, part in line) == (same, True)
        assert line.endswith("`warehouse schema runs` lists all columns.")
        assert len(line) < 300


HOSTILE = "</script><img src=x onerror=alert(1)>\u202e"


def test_names_are_text_whatever_they_hold(root: Path, db: Path) -> None:
    for number in range(1, 7):
        batch = 1 + number % 2
        config = ExperimentConfig(backend="stub", batch_size=batch)
        save(root, make_result(number, energy_j=30.0 + number, study=f"{batch}{HOSTILE}", config=config))
    assert warehouse("ingest", root, db=db) == 0
    target = reported(db, f"study=1{HOSTILE}", f"study=2{HOSTILE}")
    found = Page(target)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 4
    assert "img" not in tags
    assert "\u202e" not in target.read_text(encoding="utf-8")
    assert "<img src=x" in found.text


@pytest.mark.browser
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["light", "dark", "narrow"])
def test_it_is_drawn_chosen_and_read_by_all(browser: Browser, year: Path, kind: str) -> None:
    target = reported(year, *_ENGINES)
    settings: dict[str, Any] = {"viewport": {"width": 360 if kind == "narrow" else 1280, "height": 900}}
    settings |= {"color_scheme": "dark"} if kind == "dark" else {}
    with browser.new_context(**settings, offline=True) as context:
        opened = Opened(context.new_page(), target)
        page = opened.page
        _PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=_PICTURES / f"compare-{kind}.png", full_page=True)
        assert opened.serious_findings() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
        assert (opened.drawn("compare"), opened.drawn("compare-pairs")) == (5, 3)
        expect(page.locator("[data-pair]:visible h3")).to_have_text("In words: batch 1")
        page.locator("#pair").select_option(index=2)
        opened.settle()
        expect(page.locator("[data-pair]:visible h3")).to_have_text("In words: batch 8")
        expect(page.locator("#s-compare")).to_contain_text("GPU confounded")
        assert page.evaluate("views.compare.data('ratios').every(row => row.pair === 2)")
        page.locator("#ratio").select_option(label="TTFT mean")
        opened.settle()
        assert page.evaluate("new Set(views['compare-pairs'].data('ratios').map(row => row.metric)).size") == 1
        page.locator("#filters").get_by_role("checkbox", name="vllm").check()
        opened.settle()
        assert opened.drawn("compare") == 5, "the page's filters leave a comparison alone"
        assert page.locator(".whole:visible").count() > 5
        page.locator("#c-compare .mark-symbol.role-mark path").first.hover(force=True)
        expect(page.locator("#vg-tooltip-element")).to_contain_text("95 % interval")
        assert opened.wrong == []


def test_the_means_are_those_of_the_database(year: Path) -> None:
    found = Page(reported(year, *_ENGINES, "--metric", "energy_per_output_token_j")).table("ratios")
    means = rows(
        year,
        "SELECT avg(energy_per_output_token_j) AS mean FROM cycles WHERE study = 'batch-size' GROUP BY campaign_id "
        "HAVING mean IS NOT NULL ORDER BY mean",
    )
    shown = sorted(float(row[side]) for row in found for side in ("mean_a", "mean_b"))
    assert shown == pytest.approx([mean for (mean,) in means], rel=1e-4)
