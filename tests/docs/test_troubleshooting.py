"""Troubleshooting knows every exit code, and every warning and invalid run with what to do about it."""

from __future__ import annotations

import os
import re

from images.contract.job import ExitCode
from tests.docs.findings_of_code import advice
from tests.docs.generated import DOCS, HOW, row, table

PAGE = DOCS / "troubleshooting.md"
BETWEEN = re.compile(r"(?<=<!-- warnings -->\n).*?(?=<!-- end of warnings -->)", re.DOTALL)


def test_every_exit_code_has_a_line_and_a_section() -> None:
    page = PAGE.read_text()
    assert [code for code in ExitCode if f"| {int(code)} |" not in page] == []
    assert [code for code in ExitCode if not re.search(rf"^### {int(code)}: ", page, re.MULTILINE)] == []


def test_the_page_has_the_advice_of_every_warning() -> None:
    if os.environ.get("UPDATE_DOCS") == "1":
        PAGE.write_text(BETWEEN.sub(lambda _: warnings_table(), PAGE.read_text()))
    assert BETWEEN.findall(PAGE.read_text()) == [warnings_table()], HOW


def test_every_warning_and_every_reason_is_known() -> None:
    found = advice()
    assert len(found) > 25
    assert {"short_duration", "few_requests_for_...", "throttled", "preempted", "gpu_memory_in_use"} <= set(found)
    source = (DOCS.parent / "images/harness/findings.py").read_text()
    reasons = set(re.findall(r'codes\.add\("(\w+)"\)', source)) | {"rank_missing"}
    assert len(reasons) > 6
    assert sorted(code for code in reasons if code not in found and f"`{code}`" not in PAGE.read_text()) == []


def warnings_table() -> str:
    rows = [row(f"`{code}`", text) for code, texts in advice().items() for text in texts]
    return "\n".join(table(("code", "what was seen, and what to do"), rows)) + "\n"
