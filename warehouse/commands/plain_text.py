"""Text that others wrote, for a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """One line that no terminal can take for anything but text: what others wrote may hold anything."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))
