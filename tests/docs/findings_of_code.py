"""What the code can say of a measurement: every warning with its advice, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOLE = "..."
_WARNING = re.compile(r"([a-z]+[a-z_0-9]*): .+\. \S.*\.", re.DOTALL)
_PERCENTILE = {"few_requests_for_" + HOLE: "few_requests_for_p95"}


def texts() -> dict[str, list[str]]:
    """Texts by code, in the order of the codes; `...` stands where a run's own figures and names do."""
    found: dict[str, list[str]] = {}
    for folder in ("images", "runner"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for text in _strings(ast.parse(path.read_text(encoding="utf-8"))):
                match = _WARNING.fullmatch(text)
                if match is not None and text not in found.setdefault(match[1], []):
                    found[match[1]].append(text)
    return dict(sorted(found.items()))


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Constant):
            yield _text(node)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else HOLE
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return HOLE
