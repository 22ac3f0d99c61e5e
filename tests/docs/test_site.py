"""The documentation as a site: every link leads somewhere, and a page asks nobody else for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.generated import DOCS


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    recipe = re.search(r"-m (sphinx .*) docs \.cache/docs", (DOCS.parent / "Makefile").read_text())
    assert recipe is not None
    options = recipe[1].replace(".cache/doctrees", str(target / "doctrees")).split()
    command = [sys.executable, "-m", *options, str(source), str(target / "html")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    built = build(DOCS, target)
    assert built.returncode == 0, built.stdout + built.stderr
    return target / "html"


def test_every_page_is_built(site: Path) -> None:
    assert {path.stem for path in DOCS.glob("*.md")} <= {path.stem for path in site.glob("*.html")}


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Links that a reader follows may lead anywhere; scripts, styles, fonts and pictures may not."""
    fetched = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//"
    )
    assert [page.name for page in site.glob("*.html") if fetched.search(page.read_text())] == []
    styles = re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import\s+(?:url\()?[\"']?(?:https?:)?//")
    assert [page.name for page in site.rglob("*.css") if styles.search(page.read_text())] == []


def test_a_dead_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text((DOCS / "conf.py").read_text())
    (tmp_path / "index.md").write_text("# Start\n\n[nowhere](gone.md)\n")
    assert build(tmp_path, tmp_path / "out").returncode != 0
    (tmp_path / "index.md").write_text("# Start\n\n[nowhere](index.md#gone)\n")
    assert build(tmp_path, tmp_path / "out").returncode != 0
    (tmp_path / "index.md").write_text("# Start\n\n[somewhere](index.md#start)\n")
    assert build(tmp_path, tmp_path / "out").returncode == 0
