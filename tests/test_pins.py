"""Every version that is pinned can be installed on the oldest Python that this runs on."""

from __future__ import annotations

import re
from importlib.metadata import distributions, metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

_ROOT = Path(__file__).parents[1]
# Distributions stay with the first releases: Debian 12 has 3.11.2.
_OLDEST = "3.11.0"


def _pinned() -> dict[str, str]:
    """Version by package, of the host's commands and of the developers' tools; images prove theirs by being built."""
    return dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (_ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_every_pinned_version_runs_on_the_oldest_python() -> None:
    installed = {one.name.lower() for one in distributions()}
    # Those of `make test-spark` are not everywhere.
    found = {name: metadata(name) for name in _pinned() if name.lower() in installed}
    assert len(found) > 0.9 * len(_pinned())
    assert {name: one["Version"] for name, one in found.items()} == {name: _pinned()[name] for name in found}
    wanted = {name: ", ".join(one.get_all("Requires-Python") or []) for name, one in found.items()}
    assert {name: one for name, one in wanted.items() if not SpecifierSet(one).contains(_OLDEST)} == {}
