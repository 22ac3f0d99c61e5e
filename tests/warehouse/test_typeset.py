"""Tables for papers hold the terminal's figures, and nothing in a name is taken for a command."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from images.contract.config import ExperimentConfig
from tests.warehouse.cookbook_data import write_year
from tests.warehouse.results import make_result, save, save_failure, warehouse
from warehouse.typeset import typeset

HOSTILE = "a|b_c <script>[x](http://y) 100% \\input{z} & $\n# d"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("year")
    write_year(folder / "results")
    assert warehouse("ingest", folder / "results", db=folder / "w.duckdb") == 0
    return folder / "w.duckdb"


def cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in re.split(rf"(?<!\\){re.escape(separator)}", line)]


@pytest.mark.parametrize(("style", "separator"), [("markdown", "|"), ("latex", "&")])
def test_a_row_for_each_campaign_with_the_figures_that_the_terminal_shows(
    db: Path, capsys: pytest.CaptureFixture[str], style: str, separator: str
) -> None:
    assert warehouse("campaign", "--study", "batch-size", db=db) == 0
    terminal = capsys.readouterr().out
    assert warehouse("campaign", "--study", "batch-size", "--format", style, db=db) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "pytorch 32" in line]
    block = terminal[terminal.index("pytorch 32") :]
    figures = re.findall(r"\d[\d.,]* \[[\d.,]+, [\d.,]+\]", row)
    assert len(figures) == 5
    for figure in figures:
        mean, _, interval = figure.partition(" ")
        shown = next(line for line in block.splitlines() if interval in line)
        assert mean in shown.split()
    assert len([line for line in lines if "H100 x1" in line]) == 6
    names = next(line for line in lines if "backend" in line)
    assert len(cells(names, separator)) == len(cells(row, separator))
    assert "study" not in names, "there is one only"


def test_campaigns_that_differ_in_nothing_that_is_shown_are_told_apart_by_their_ids(
    db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warehouse("campaign", "--format", "markdown", db=db) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    names = [tuple(cells(row, "|")[:12]) for row in rows]
    assert len(set(names)) == len(names) > 10


@pytest.mark.parametrize("style", ["markdown", "latex"])
def test_a_comparison_has_its_ratios_and_its_verdicts(db: Path, capsys: pytest.CaptureFixture[str], style: str) -> None:
    asked = ("compare", "pytorch 8", "vllm 8", "--study", "batch-size")
    assert warehouse(*asked, db=db) == 0
    terminal = capsys.readouterr().out
    assert warehouse(*asked, "--format", style, "--fail-if", "ttft_mean_ms > +3%", db=db) == 0
    text = capsys.readouterr().out.replace("\\_", "_")
    (ratio,) = re.findall(r"energy_per_output_token_j .* (\d\.\d{4}) ", terminal)
    (row,) = [line for line in text.splitlines() if "energy per output token (J)" in line and ratio in line]
    assert "[1." in row
    assert [name for name in ("TPOT mean (ms)", "TTFT mean (ms)", "output tokens/s") if f" {name} " not in text] == []
    assert [other for other in ("tokens per second", "TTFT, mean") if other in text] == [], "one name in rows and words"
    assert "% more energy per output token, 95 % interval" in text
    assert re.search(r"gate: \w+: ttft_mean_ms", text)


@pytest.mark.parametrize("style", ["markdown", "latex"])
def test_who_is_who_of_every_pair_is_read_above_its_table(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3, 4):
        config = ExperimentConfig(backend="stub", batch_size=1 + number // 3)
        fields: dict[str, Any] = {"study": ("b", "a_1")[number % 2], "experiment": HOSTILE, "config": config}
        save(tmp_path / "results", make_result(number, prompts_sha256=str(number) * 64, **fields))
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
    capsys.readouterr()
    assert warehouse("compare", "a_1", "b", "--format", style, db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    start = "\\begin{tabular}" if style == "latex" else "| metric"
    before, *after = text.split(start)
    assert len(after) == 2
    for above in (before, after[0]):
        read = [line for line in above.splitlines() if not line.startswith("%")]
        for side, study in (("A", "a\\_1"), ("B", "b")):
            (told,) = [line for line in read if re.search(rf"\b{side}: ", line)]
            assert f"study {study}, " in told
            assert "1 cycle (0 invalid, 0 failed)" in told
            assert style == "markdown" or "\\input{" not in told
        assert any("They did not do the same work." in line for line in read)


@pytest.mark.parametrize("style", ["blocks", "markdown", "latex"])
def test_simulated_energy_is_marked_wherever_it_counts(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        save(tmp_path / "results", make_result(number, environment={"simulated": number == 3}))
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
    capsys.readouterr()
    assert warehouse("campaign", "--all", "--format", style, db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    assert "Energy on simulated GPUs proves nothing." in text
    if style == "blocks":
        return
    separator = "|" if style == "markdown" else "&"
    names, *rows = [cells(line, separator) for line in text.splitlines() if line.count(separator) > 3]
    told = {row[names.index("cycles")].rstrip("\\ "): row[names.index("simulated")] for row in rows if "stub" in row}
    assert told == {"2": "no", "1": "yes"}


@pytest.mark.parametrize("style", ["table", "json", "markdown", "latex"])
def test_a_comparison_of_simulated_gpus_says_so(style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3, 4):
        study, simulated = ("a", "b")[number % 2], {"simulated": True}
        save(tmp_path / "results", make_result(number, study=study, environment=simulated))
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
    capsys.readouterr()
    assert warehouse("compare", "a", "b", "--all", "--format", style, db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    if style == "json":
        assert text.count('"is_simulated": true') == 2
        return
    assert len(re.findall(r"\b[AB](?:  |: ).*(?:  |, )simulated\b", text)) == 2
    assert "Energy on simulated GPUs proves nothing." in text


def test_names_are_text_in_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "results", make_result(experiment=HOSTILE))
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
    capsys.readouterr()
    assert warehouse("campaign", "--format", "markdown", db=tmp_path / "w.duckdb") == 0
    markdown = capsys.readouterr().out
    assert "a\\|b\\_c \\<script\\>\\[x\\](http://y)" in markdown
    assert len({len(cells(line, "|")) for line in markdown.splitlines() if line.startswith("|")}) == 1
    assert warehouse("campaign", "--format", "latex", db=tmp_path / "w.duckdb") == 0
    latex = capsys.readouterr().out
    assert "100\\%" in latex
    assert "\\&" in latex
    assert "\\input{" not in latex


@pytest.mark.parametrize(
    "name", ["![a[b]](http://evil/x.png)", "[a [b] c](http://evil)", "[a][b]", "<http://evil>", "&lt;"]
)
def test_no_name_becomes_a_picture_or_a_link(name: str) -> None:
    text = typeset("markdown", ["model", "energy"], [[name, "1 [0.9, 1.1]"]], [name, "[b]: http://evil"])
    assert "1 [0.9, 1.1]" in text
    page = MarkdownIt().enable("table").render(text)
    assert re.findall(r"<(?:img|a) .*", page) == []
    assert page.count(f">{escape(name)}<") == 2


def test_latex_takes_no_name_for_an_argument_of_the_line_above() -> None:
    """After \\\\ and \\midrule come optional ones, on the next line, too."""
    lines = typeset(
        "latex", ["[names", "e"], [["[2cm] model", "1"], ["* model", "[2, 3]"], ["model", "4"]], []
    ).splitlines()
    starts = [line.split()[0] for line in lines if "&" in line]
    assert starts == ["{}[names", "{}[2cm]", "{}*", "model"]


@pytest.mark.parametrize("style", ["markdown", "latex"])
def test_what_did_not_become_a_cycle_stands_beside_those_that_did(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        save(tmp_path / "results", make_result(number, study="lossy", cycle=number))
    lost: dict[str, Any] = {"measurement_valid": False, "invalid_reasons": ["throttled"]}
    save(tmp_path / "results", make_result(4, study="lossy", cycle=4, **lost))
    for number in (5, 6):
        save_failure(tmp_path / "results", number, study="lossy")
    save(tmp_path / "results", make_result(7, study="whole", cycle=1))
    assert warehouse("ingest", tmp_path / "results", db=tmp_path / "w.duckdb") == 0
    capsys.readouterr()
    assert warehouse("campaign", "--format", style, db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    separator = "|" if style == "markdown" else "&"
    rows = [cells(line, separator) for line in text.splitlines() if line.count(separator) > 3]
    place = rows[0].index("cycles")
    counts = {row[place] for row in rows if any(name in row for name in ("lossy", "whole"))}
    assert counts == {"3 (1 invalid, 2 failed)", "1"}
    assert "Invalid cycles are left out." in text
    assert warehouse("campaign", "--all", "--format", style, db=tmp_path / "w.duckdb") == 0
    text = capsys.readouterr().out
    assert "4 (1 invalid, 2 failed)" in text
    assert "Invalid cycles are among those counted." in text
