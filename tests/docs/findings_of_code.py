"""What the code can say of a measurement: every warning with its advice, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from images.contract.config import BACKENDS

ROOT = Path(__file__).resolve().parents[2]
HOLE = "..."
_WARNING = re.compile(r"([a-z][a-z_0-9]*(?:\.\.\.)?): (.+\. \S.*\.)", re.DOTALL)
_MADE_IN = ("images/contract", "images/harness", "images/models", *(f"images/{backend}" for backend in BACKENDS))
_OF_THE_RUNNER = ("runner/gpu/settle.py", "runner/execute.py")
_NO_WARNING = {"code"}
"""What the docstrings call one."""


def advice() -> dict[str, list[str]]:
    """Texts by code, in the order of the codes; `...` stands where a run's own figures and names do."""
    found: dict[str, list[str]] = {}
    for path in (source for folder in _MADE_IN for source in sorted((ROOT / folder).rglob("*.py"))):
        for text in _strings(path):
            match = _WARNING.fullmatch(text)
            if match is not None and match[1] not in _NO_WARNING and match[2] not in found.setdefault(match[1], []):
                found[match[1]].append(match[2])
    for code, text in _of_the_runner():
        found.setdefault(code, []).append(text)
    return dict(sorted(found.items()))


def _of_the_runner() -> Iterator[tuple[str, str]]:
    """It says what it sees in one file, and the advice for all of it in another."""
    seen, remark = (list(_strings(ROOT / file)) for file in _OF_THE_RUNNER)
    ending = next(text.removeprefix(HOLE) for text in remark if text.startswith(f"{HOLE} when the job started."))
    for text in seen:
        match = re.fullmatch(r"([a-z]+(?:_[a-z]+)+): (\.\.\. .+)", text)
        if match is not None:
            yield match[1], match[2] + ending


def _strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr | ast.Constant):
            yield _text(node)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else HOLE
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return HOLE
