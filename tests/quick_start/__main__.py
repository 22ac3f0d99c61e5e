"""`make test-quick-start`: the page's commands, in order, in a container with git, make and python3 only."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.docker_engine import engine_problem
from tests.quick_start.page import PAGE, indented, missing, steps

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://git.example.org/joulehouse.git"
"""What the page clones; git is told that it is this checkout's last commit."""
_IMAGE = "joulehouse-quick-start"
# Debian's python3 has no venv of its own, and git asks for certificates where the address is a real one.
_DOCKERFILE = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates git make python3 python3-venv >/dev/null && rm -rf /var/lib/apt/lists/*
"""
# The next block goes on in the folder where the last one ended, as in one terminal.
_IN_ONE_TERMINAL = 'set -e; cd "$(cat /tmp/folder 2>/dev/null || echo /root)"\n{commands}\npwd > /tmp/folder\n'


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.quick_start", description=__doc__)
    parser.add_argument("--base", default=os.environ.get("BASE_IMAGE") or "debian:bookworm-slim", help="Debian, Ubuntu")
    parser.add_argument("--verbose", action="store_true", help="print what the commands say")
    arguments = parser.parse_args()
    problem = engine_problem()
    if problem is not None:
        print(f"the quick start is tried in a container, and no Docker engine answers: {problem}", file=sys.stderr)
        return 2
    _build(arguments.base)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "joulehouse.git"
        subprocess.run(["git", "clone", "-q", "--bare", ROOT, repository], check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True).stdout
        print(f"of the last commit{'; what is not committed is not in it' if changed else ''}")
        container = _start(repository)
        try:
            return _follow(container, arguments.verbose)
        finally:
            subprocess.run(["docker", "rm", "-f", container], check=True, capture_output=True)


def _build(base: str) -> None:
    command = ["docker", "build", "-q", "--build-arg", f"BASE_IMAGE={base}", "-t", _IMAGE, "-"]
    subprocess.run(command, input=_DOCKERFILE, text=True, check=True, stdout=subprocess.DEVNULL)


def _start(repository: Path) -> str:
    """Name of a container that waits for commands."""
    command = ["docker", "run", "-d", "--init", "-v", f"{repository}:/repository:ro", _IMAGE, "sleep", "3600"]
    container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    for setting in (("url./repository.insteadOf", ADDRESS), ("safe.directory", "*")):
        subprocess.run(["docker", "exec", container, "git", "config", "--global", *setting], check=True)
    return container


def _follow(container: str, verbose: bool) -> int:
    begun = time.monotonic()
    for step in steps(PAGE.read_text(encoding="utf-8")):
        print(*indented(step.commands.splitlines()), sep="\n", flush=True)
        started = time.monotonic()
        script = _IN_ONE_TERMINAL.format(commands=step.commands)
        done = subprocess.run(
            ["docker", "exec", container, "bash", "-c", script],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200,
        )  # fmt: skip
        if verbose or done.returncode != 0:
            print(done.stdout)
        if done.returncode != 0:
            print(f"ended with {done.returncode}", file=sys.stderr)
            return 1
        lacking = missing(step.shown, done.stdout.splitlines())
        if lacking:
            print("the page shows", *indented(lacking), "but the commands said", done.stdout, sep="\n", file=sys.stderr)
            return 1
        print(f"  as shown, {time.monotonic() - started:.0f} s", flush=True)
    print(f"the quick start does what it says, in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
