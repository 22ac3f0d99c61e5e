"""Text that others wrote, for a terminal."""

from __future__ import annotations

LONGEST_NAME = 200
_CUT = " ... "


def printable(text: object) -> str:
    """One line that no terminal can take for anything but text: what others wrote may hold anything."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def clipped(text: object, longest: int = LONGEST_NAME) -> str:
    """As `printable`, of at most `longest` characters of `text`: its beginning and its end."""
    whole = str(text)
    if len(whole) > longest:
        head = (longest - len(_CUT)) // 2
        whole = whole[:head] + _CUT + whole[len(whole) - (longest - len(_CUT) - head) :]
    return printable(whole)
