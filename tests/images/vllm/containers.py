"""Jobs in containers, as the docker launcher starts them: no network, no rights, a file system that is read-only."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.images.stub.jobs import Ended

_TIMEOUT_S = 600.0


def run(image: str, folder: Path, document: dict[str, Any]) -> Ended:
    """Run a job on `document` and wait for its end; `folder` is mounted where it is, so that the job can read there."""
    output = folder / "out"
    output.mkdir()
    output.chmod(0o777)
    (folder / "config.json").write_text(json.dumps(document))
    command = [
        *("docker", "run", "--rm", "--init", "--read-only", "--network", "none", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--user", f"{os.getuid() or 12345}:0"),
        *("--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777", "--shm-size", "1g", "-e", "HF_HUB_OFFLINE=1"),
        *("-v", f"{folder}:/given:ro", "-v", f"{output}:/results"),
        *(image, "--config", "/given/config.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    return Ended(done.returncode, done.stderr, output)
