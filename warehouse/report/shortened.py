"""Names that are too long for a label: shorter, and still different."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

_CUT = "…"
_BETWEEN_WORDS = re.compile(r"[-_/: ]+")
# Of a whole name what its beginning has, of what both of its ends may have.
_BEGINNING = 0.6
_SHORTEST_END = 2
"""Letters, such as those of "x1" and "8b"."""


def shortened(names: Iterable[str], longest: int) -> dict[str, str]:
    """What each name is called in at most `longest` letters; no two are called the same.

    Those that are short enough stay. Of the others goes what all begin with, in whole words and only as much as it
    takes; else their middle.
    """
    distinct = list(dict.fromkeys(names))
    shared = _n_shared(distinct)
    ways: Sequence[Callable[[str], str]] = (
        lambda name: _without_beginning(name, shared, longest) or _both_ends(name, longest, whole_words=True),
        lambda name: _both_ends(name, longest, whole_words=True),
        lambda name: _both_ends(name, longest, whole_words=False),
        lambda name: _from(name, shared, longest),
    )
    for way in ways:
        found = {name: name if len(name) <= longest else way(name) for name in distinct}
        if len(set(found.values())) == len(found):
            return found
    numbered = {name: f" ({at})" for at, name in enumerate(distinct, start=1)}
    return {
        name: name if len(name) <= longest else _both_ends(name, longest - len(number), whole_words=False) + number
        for name, number in numbered.items()
    }


def _n_shared(names: Sequence[str]) -> int:
    """Letters that all of several names begin with."""
    if len(names) < 2:
        return 0
    first, last = min(names), max(names)
    return next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))


def _without_beginning(name: str, shared: int, longest: int) -> str | None:
    """Without words from the first `shared` letters; None if that is not enough."""
    for gap in _BETWEEN_WORDS.finditer(name, 0, shared):
        if len(_CUT) + len(name) - gap.end() <= longest and gap.end() < len(name):
            return _CUT + name[gap.end() :]
    return None


def _both_ends(name: str, longest: int, *, whole_words: bool) -> str:
    n_beginning = round((longest - len(_CUT)) * _BEGINNING)
    beginning, end = name[:n_beginning], name[len(name) - (longest - len(_CUT) - n_beginning) :]
    if whole_words:
        # A beginning without words in its second half is kept as it is.
        gaps = [gap for gap in _BETWEEN_WORDS.finditer(beginning) if gap.start() >= len(beginning) / 2]
        beginning = beginning[: gaps[-1].start()] if gaps else beginning
        gap = re.search(r"[-_/: .]+", end)
        end = end[gap.end() :] if gap and gap.end() <= len(end) - _SHORTEST_END else end
    return f"{beginning}{_CUT}{end}"


def _from(name: str, start: int, longest: int) -> str:
    """From where names begin to differ."""
    there = f"{_CUT if start else ''}{name[start:]}"
    return there if len(there) <= longest else there[: longest - len(_CUT)] + _CUT
