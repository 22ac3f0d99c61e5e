"""The command by the name of its module, where nothing is installed."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "runner.cli", "plan", "no-such-study.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("runner: no-such-study.yaml: there is no such file.")
