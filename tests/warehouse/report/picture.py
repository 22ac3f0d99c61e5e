"""`make report-picture`: the report of the cookbook's year, as the documentation shows it: its top, and two charts."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import chromium
from tests.warehouse.cookbook_data import write_year
from tests.warehouse.report.opened import Opened
from warehouse.cli import main

_FOLDER = Path(__file__).parents[3] / "docs" / "images"
_WIDTH, _HEIGHT = 1280, 900
# Smaller than on a screen, so that the charts are on it.
_ZOOM = 0.7


def draw(target: Path) -> int:
    """Into `target`, of the page on one study in the light: the top of it, and its first row of charts."""
    if chromium.executable() is None:
        print(f"report-picture: {chromium.ABSENT}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "results").mkdir()
        write_year(folder / "results")
        database, page = folder / "warehouse.duckdb", folder / "report.html"
        main(["ingest", "--db", str(database), str(folder / "results")])
        main(["report", "--db", str(database), "--study", "batch-size", "-o", str(page)])
        # Where it was made is of no use to a reader, and different every time.
        page.write_text(page.read_text(encoding="utf-8").replace(f"{folder}/", ""), encoding="utf-8")
        target.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            browser = chromium.launched(playwright)
            context = browser.new_context(
                viewport={"width": round(_WIDTH / _ZOOM), "height": round(_HEIGHT / _ZOOM)},
                device_scale_factor=_ZOOM,
                color_scheme="light",
                offline=True,
            )
            opened = Opened(context.new_page(), page).page
            opened.screenshot(path=target / "report.png")
            row = [opened.locator(f"#f-{name}").bounding_box() for name in ("energy", "speed")]
            first, last = (box for box in row if box is not None)
            width = last["x"] + last["width"] - first["x"]
            opened.screenshot(
                path=target / "report-charts.png",
                clip={"x": first["x"], "y": first["y"], "width": width, "height": first["height"]},
                full_page=True,
            )
            browser.close()
    for path in sorted(target.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(draw(_FOLDER))
