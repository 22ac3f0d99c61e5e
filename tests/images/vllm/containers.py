"""Jobs in containers, as the docker launcher starts them: no network, no rights, a file system that is read-only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.images.stub.jobs import Ended

_TIMEOUT_S = 600.0
_ASK = Path(__file__).with_name("ask.py")


def run(image: str, folder: Path, document: dict[str, Any]) -> Ended:
    """Run a job on `document` and wait for its end; `folder` is /given in there, so that the job can read it."""
    (folder / "config.json").write_text(json.dumps(document))
    done = _run(folder, image, "--config", "/given/config.json")
    return Ended(done.returncode, done.stderr, folder / "out")


def ask(image: str, folder: Path, question: dict[str, Any]) -> dict[str, Any]:
    """What a backend answers that has no harness around it (`ask.py`); `folder` is /given in there."""
    shutil.copy(_ASK, folder)
    (folder / "question.json").write_text(json.dumps(question))
    program = ("/given/ask.py", "/given/question.json", "/results/answer.json")
    done = _run(folder, "--entrypoint", "python3", image, *program)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads((folder / "out" / "answer.json").read_text())
    return answer


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    output = folder / "out"
    output.mkdir()
    output.chmod(0o777)
    folder.chmod(0o755)
    command = [
        *("docker", "run", "--rm", "--init", "--read-only", "--network", "none", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--user", f"{os.getuid() or 12345}:0"),
        *("--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777", "--shm-size", "1g", "-e", "HF_HUB_OFFLINE=1"),
        *("-v", f"{folder}:/given:ro", "-v", f"{output}:/results"),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
