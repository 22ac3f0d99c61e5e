"""The page of the quick start is read as its reader would, and what it shows is held against what was said."""

from __future__ import annotations

import re

import pytest

from tests.quick_start.__main__ import ADDRESS
from tests.quick_start.page import PAGE, missing, steps

README = PAGE.parents[1] / "README.md"
SHOWN = ["3 cycles (0 invalid, 0 failed)", "...", " output tokens/s   3,570   302   [2,820, 4,321]   3"]


def test_the_page_begins_with_the_clone_and_shows_what_every_measuring_command_says() -> None:
    found = steps(PAGE.read_text(encoding="utf-8"))
    assert found[0].commands.startswith(f"git clone {ADDRESS}\n")
    assert len(found) >= 6
    assert [step.commands for step in found[1:] if not step.shown] == []


def test_the_output_in_the_readme_is_that_of_the_page() -> None:
    table = re.search(r"^```\n(pytorch .*?)^```$", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert table is not None
    (run,) = (step for step in steps(PAGE.read_text(encoding="utf-8")) if step.commands == "make run\n")
    assert missing(table[1].splitlines(), run.shown) == []


def test_measured_figures_may_differ() -> None:
    said = ["set-up", "3 cycles (0 invalid, 0 failed)", "warnings: x", " output tokens/s   98   1.5   [-2, 43]   3"]
    assert missing(SHOWN, said) == []
    assert (
        missing(
            [" TTFT mean (ms)   1,051   86   [839, 1,264]   3"], [" TTFT mean (ms)   742.0   46   [626.4, 857]   3"]
        )
        == []
    )
    shown = " output_tokens_per_second   1,623.3   3.0434   [1.6568, 5.5906]        122 %   3 pairs"
    busy = " output_tokens_per_second    399.64   16.681     [-0.3, 844.4]   173 times   3 pairs"
    assert missing([shown], [busy]) == []
    assert missing([shown], [busy.replace("3 pairs", "3 cycles")]) != []


@pytest.mark.parametrize(
    "said",
    [
        ["2 cycles (0 invalid, 1 failed)", " output tokens/s   98   1.5   [-2, 43]   3"],
        ["3 cycles (0 invalid, 0 failed)", " output tokens/s   98   1.5   3"],
        ["3 cycles (0 invalid, 0 failed)", " tokens/s   98   1.5   [-2, 43]   3"],
        [" output tokens/s   98   1.5   [-2, 43]   3", "3 cycles (0 invalid, 0 failed)"],
    ],
    ids=["another count", "a column less", "another name", "another order"],
)
def test_counts_names_columns_and_order_may_not(said: list[str]) -> None:
    assert missing(SHOWN, said) != []


def test_a_line_that_is_shown_but_never_said_is_told() -> None:
    assert missing(["a new line of the page"], ["something else"]) == ["a new line of the page"]


def test_output_without_commands_is_a_mistake_of_the_page() -> None:
    with pytest.raises(ValueError, match="without commands"):
        steps("```text\nhello\n```\n")
