"""Text that others wrote, for a terminal."""

from __future__ import annotations

LONGEST_NAME = 200
_CUT = " ... "


def printable(text: object) -> str:
    """One line that no terminal can take for anything but text: what others wrote may hold anything."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def clipped(text: object, longest: int = LONGEST_NAME) -> str:
    """As `printable`, of at most `longest` characters of `text`: its beginning and its end."""
    return printable(cut(str(text), longest))


def cut(text: str, longest: int) -> str:
    """At most `longest` characters of `text`: its beginning and its end."""
    if len(text) <= longest:
        return text
    head = (longest - len(_CUT)) // 2
    return text[:head] + _CUT + text[len(text) - (longest - len(_CUT) - head) :]
