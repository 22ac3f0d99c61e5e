"""Tables for papers and wikis: Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from tabulate import LATEX_ESCAPE_RULES, tabulate

from warehouse.plain_text import printable

Typeset = Literal["markdown", "latex"]
TYPESET: tuple[Typeset, ...] = get_args(Typeset)

_MEANS_SOMETHING = re.compile(r"([\\`*_<>|~&\[\]])")
# Behind the end of a row, LaTeX takes these for an argument of it.
_TAKEN_BY_THE_ROW_ABOVE = re.compile(r"^(\s*)(?=[\[*])", re.MULTILINE)


def typeset(
    style: Typeset,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    n_words: int = 1,
    above: Sequence[str] = (),
) -> str:
    """A table with notes below.

    Args:
        above: lines of text before the table, to be read also in what LaTeX makes of it.
        names: of the columns.
        rows: as many cells as names.
        n_words: columns that hold words; the others, behind them, hold figures, which nobody else wrote.
    """
    align = [*["left"] * n_words, *["right"] * (len(names) - n_words)]
    cells = [[printable(cell) for cell in row] for row in (names, *rows)]
    if style == "markdown":
        # A figure's brackets are those of its interval, and stay readable.
        escaped = [[*map(_in_markdown, row[:n_words]), *row[n_words:]] for row in cells[1:]]
        cells = [[*map(_in_markdown, cells[0])], *escaped]
    # tabulate escapes what LaTeX takes for commands, and nothing for Markdown.
    form = "latex_booktabs" if style == "latex" else "pipe"
    table = tabulate(cells[1:], cells[0], tablefmt=form, colalign=align, disable_numparse=True)
    if style == "latex":
        table = _TAKEN_BY_THE_ROW_ABOVE.sub(r"\1{}", table)
    table = _above(style, above) + table if above else table
    return table if not notes else f"{table}\n\n{typeset_notes(style, notes)}"


def _above(style: Typeset, lines: Sequence[str]) -> str:
    if style == "markdown":
        return typeset_notes(style, lines) + "\n\n"
    escaped = ("".join(LATEX_ESCAPE_RULES.get(letter, letter) for letter in printable(line)) for line in lines)
    # {} for the reason of `_TAKEN_BY_THE_ROW_ABOVE`.
    return "\\par\\noindent " + "\\\\{}\n".join(escaped) + "\\par\\smallskip\\noindent\n"


def typeset_notes(style: Typeset, notes: Sequence[str]) -> str:
    """Lines of text; in LaTeX comments, to be taken into a caption."""
    if style == "latex":
        return "\n".join(f"% {printable(note)}" for note in notes)
    return "\n\n".join(_in_markdown(printable(note)) for note in notes)


def _in_markdown(text: str) -> str:
    return _MEANS_SOMETHING.sub(r"\\\1", text)
