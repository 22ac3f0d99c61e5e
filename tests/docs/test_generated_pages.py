"""Every command, option, result field, table, view and column is on a page that is written from the code."""

from __future__ import annotations

import re

import pytest

from tests.docs.command_page import command_page, commands
from tests.docs.generated import DOCS, HOW, is_current
from tests.docs.record_pages import relations, result_page, warehouse_page

PAGES = {"commands.md": command_page, "result-reference.md": result_page, "warehouse-reference.md": warehouse_page}


@pytest.mark.parametrize("page", PAGES)
def test_a_reference_page_is_what_the_code_says(page: str) -> None:
    assert is_current(page, PAGES[page]), HOW


def test_no_field_column_or_option_is_without_a_meaning() -> None:
    for page in PAGES:
        assert re.findall(r"^.*\|  \|$", (DOCS / page).read_text(), re.MULTILINE) == []


def test_no_meaning_is_only_a_unit() -> None:
    """A reader knows that ttft_mean_ms is in ms; what it is the mean of is the question."""
    units = r"J|W|s|ms|MB, 10\^6 bytes|MHz|percent|tokens|requests|rounds|FLOP|degrees C"
    assert re.findall(rf"^.*\| (?:{units}) \|$", (DOCS / "result-reference.md").read_text(), re.MULTILINE) == []


def test_every_table_and_every_stored_column_says_what_it_is() -> None:
    assert [one.name for one in relations() if not one.comment] == []
    stored = [(one.name, column) for one in relations() if one.kind != "macro" for column in one.columns]
    assert [(name, column.name) for name, column in stored if not column.comment] == []


def test_the_commands_of_groups_are_there_too() -> None:
    assert {"runner run", "warehouse sql", "warehouse results delete"} <= {name for name, _ in commands()}
