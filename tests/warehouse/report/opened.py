"""A report in a browser."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from playwright.sync_api import Page

_AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


PICTURES = Path(__file__).parents[3] / ".cache" / "report"
"""Where tests leave what they saw: light, dark, narrow and print; and failed-*, the page on which a test failed."""


NewPage = Callable[..., Page]
"""An empty page of its own, without a network; with the settings of a context of Playwright."""


class Opened:
    """A page, and what went wrong on it.

    Attributes:
        wrong: messages of the console, errors, and whatever it asked of a network.
    """

    def __init__(self, page: Page, report: Path) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("console", lambda one: self.wrong.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else self.wrong.append(asked.url),
        )
        page.goto(report.as_uri())
        page.wait_for_selector("body[data-ready=yes]", timeout=60_000)

    def settle(self) -> None:
        """Until all charts have what was chosen last."""
        self.page.evaluate("updating")

    def tick(self, value: str) -> None:
        self.page.locator("#filters").get_by_role("checkbox", name=value).check()

    def drawn(self, chart: str) -> int:
        return int(self.page.locator(f"#c-{chart}").get_attribute("data-rows") or 0)

    def serious_findings(self) -> list[str]:
        """Of axe, which goes in past the page's policy: `evaluate` runs in the debugger's own world."""
        self.page.evaluate(_AXE + ";0")
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
