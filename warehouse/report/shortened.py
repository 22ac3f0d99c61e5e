"""Names that are too long for a label: shorter, and still different."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator

_CUT = "…"
_BETWEEN_WORDS = re.compile(r"[-_/: ]+")
_LENGTHS = (60, 48, 36, 28, 20, 14)
"""Letters that a name may have: less and less."""
# Of a whole name what its beginning has, of what both of its ends may have.
_BEGINNING = 0.6
_SHORTEST_END = 2
"""Letters, such as those of "x1" and "8b"."""


class Names:
    """What each of several names is called: as it is at first, then shorter; no two ever the same."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sorted = sorted(set(names))
        self._called = {name: name for name in self._sorted}
        self._taken = set(self._sorted)
        self._shared = _n_shared(self._sorted[0], self._sorted[-1]) if len(self._sorted) > 1 else 0

    def __getitem__(self, name: str) -> str:
        return self._called[name]

    def shorten(self, name: str) -> bool:
        """Call it less by one step; False if it cannot be told apart then, or is short enough for anything."""
        longest = next((length for length in _LENGTHS if length < len(self._called[name])), None)
        if longest is None:
            return False
        for shorter in self._ways(name, longest):
            if len(shorter) <= longest and shorter not in self._taken:
                self._taken.remove(self._called[name])
                self._taken.add(shorter)
                self._called[name] = shorter
                return True
        return False

    def _ways(self, name: str, longest: int) -> Iterator[str]:
        """What it may be called, the best first."""
        # Where all begin with the same words these go.
        yield _without_beginning(name, self._shared, longest)
        # From the word on in which it differs from the one that is most like it, and as much before as there is room.
        differs = self._differs_at(name)
        starts = [gap.end() for gap in _BETWEEN_WORDS.finditer(name) if gap.start() <= differs]
        end = name[starts[-1] :] if starts else name
        if differs > 0 and len(end) < longest:
            yield _whole_words(name[: longest - len(_CUT) - len(end)]) + _CUT + end
        yield _both_ends(name, longest, whole_words=True)
        yield _both_ends(name, longest, whole_words=False)
        around = max(0, differs - longest // 3)
        there = f"{_CUT if around else ''}{name[around:]}"
        yield there if len(there) <= longest else there[: longest - len(_CUT)] + _CUT
        if longest == _LENGTHS[0]:
            # Hundreds of letters that differ in several places.
            number = f" ({self._sorted.index(name) + 1})"
            yield _both_ends(name, longest - len(number), whole_words=False) + number

    def _differs_at(self, name: str) -> int:
        """How many letters at its beginning it shares with another name, at most."""
        at = bisect_left(self._sorted, name)
        beside = [self._sorted[other] for other in (at - 1, at + 1) if 0 <= other < len(self._sorted)]
        return max((_n_shared(name, other) for other in beside), default=0)


def _n_shared(one: str, other: str) -> int:
    """How many letters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _without_beginning(name: str, shared: int, longest: int) -> str:
    """Without words from the first `shared` letters, as few as it takes; the whole name if that is not enough."""
    for gap in _BETWEEN_WORDS.finditer(name, 0, shared):
        if len(_CUT) + len(name) - gap.end() <= longest and gap.end() < len(name):
            return _CUT + name[gap.end() :]
    return name


def _both_ends(name: str, longest: int, *, whole_words: bool) -> str:
    n_beginning = round((longest - len(_CUT)) * _BEGINNING)
    beginning, end = name[:n_beginning], name[len(name) - (longest - len(_CUT) - n_beginning) :]
    if whole_words:
        beginning = _whole_words(beginning)
        gap = re.search(r"[-_/: .]+", end)
        end = end[gap.end() :] if gap and gap.end() <= len(end) - _SHORTEST_END else end
    return f"{beginning}{_CUT}{end}"


def _whole_words(beginning: str) -> str:
    """Up to its last gap; one without a gap in its second half stays as it is."""
    gaps = [gap for gap in _BETWEEN_WORDS.finditer(beginning) if gap.start() >= len(beginning) / 2]
    return beginning[: gaps[-1].start()] if gaps else beginning
