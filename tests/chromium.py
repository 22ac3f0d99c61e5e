"""The Chromium of this machine, as tests use it."""

from __future__ import annotations

import shutil

from playwright.sync_api import Browser, Playwright

ABSENT = "needs Chromium (Debian: apt install chromium)"


def executable() -> str | None:
    """None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def launched(playwright: Playwright) -> Browser:
    """Headless."""
    # Containers run as root, in which Chromium's own sandbox does not start.
    return playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
