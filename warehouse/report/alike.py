"""What all configurations of a report have in common, which most of their names leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_UNKNOWN = (None, "unknown", "unknown hardware")
_WORDS: Mapping[str, Callable[[Any], str]] = {
    "model": lambda value: f"model {value}",
    "hardware": str,
    "simulated": lambda value: "simulated" if value else "",
    "backend": str,
    "dtype": lambda value: f"dtype {value}",
    "batch": lambda value: f"batch {value}",
    "processes": lambda value: f"{value} processes" if value > 1 else "",
}
"""In the order in which they are told."""


def in_common(campaigns: Sequence[Mapping[str, Any]]) -> str | None:
    """Model, hardware, backend and so on, as far as they are the same for all; None if there is no such thing."""
    same = {name: campaigns[0][name] for name in _WORDS if len({row[name] for row in campaigns}) == 1}
    told = [_WORDS[name](value) for name, value in same.items() if value not in _UNKNOWN]
    if not any(told):
        return None
    whose = "The configuration" if len(campaigns) == 1 else "All configurations"
    return f"{whose}: {' · '.join(filter(None, told))}"
