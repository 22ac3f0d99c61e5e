"""docs/adding-a-backend.md, followed in a copy of the house: the backend that it makes measures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.generated import DOCS

ROOT = DOCS.parent
PAGE = (DOCS / "adding-a-backend.md").read_text(encoding="utf-8")
NEW = ("images/echo/", "docs/backends-echo.md", "images/contract/options/echo.py")
CONFIG_EDITS = (
    (r"^(BackendName = Literal\[.*)\]$", r'\1, "echo"]'),
    (r"^(BACKENDS: .*)\)$", r'\1, "echo")'),
    (r"^(    stub: StubOptions \| None = None)$", r"\1\n    echo: EchoOptions | None = None"),
    (r'^(    sections = \{.*)\}$', r'\1, "echo": EchoOptions}'),
    (r"^(from images.contract.options.stub import .*)$", r"\1\nfrom images.contract.options.echo import EchoOptions"),
)  # fmt: skip


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:images|runner|warehouse|tests|docs)/[\w./-]+)`", PAGE))
    assert len(named) > 8
    assert sorted(path for path in named if not path.startswith(NEW) and not (ROOT / path).exists()) == []


def test_the_backend_of_the_page_measures(tmp_path: Path) -> None:
    for part in ("images", "runner"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    options, main, backend = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "images/echo").mkdir()
    (tmp_path / "images/echo/__init__.py").touch()
    for file, text in (
        ("images/contract/options/echo.py", options),
        ("images/echo/__main__.py", main),
        ("images/echo/backend.py", backend),
    ):
        (tmp_path / file).write_text(text)
    config = tmp_path / "images/contract/config.py"
    for pattern, replacement in CONFIG_EDITS:
        text, n_edits = re.subn(pattern, replacement, config.read_text(), flags=re.MULTILINE)
        assert n_edits == 1, pattern
        config.write_text(text)
    local = tmp_path / "runner/launchers/local.py"
    local.write_text(local.read_text().replace('"stub": ()}', '"stub": (), "echo": ()}'))

    command = next(line for line in PAGE.splitlines() if "--backend echo" in line).split()[1:]
    ran = subprocess.run(
        [sys.executable, "-m", "runner.cli", *command, "--gpus", "none"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (document,) = tmp_path.glob("results/*/result.json")
    result = json.loads(document.read_text())
    assert result["backend"] == "echo"
    assert result["output_tokens"] == 4 * result["effective_config"]["workload"]["max_output_tokens"]
    assert result["latency_stats"]["itl_mean_ms"] > 1.0
