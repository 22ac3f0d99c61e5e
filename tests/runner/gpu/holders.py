"""Runners in processes of their own that lease GPUs, as the tests tell them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from runner.gpu.slots import Lease, Owner, Slots

ROOT = Path(__file__).resolve().parents[3]
UUIDS = [f"GPU-{index}" for index in range(8)]
OWNER = Owner(Path("/out"), "study", "local")
ONE, TWO, THREE = UUIDS[:3]

# Everything is imported before the process becomes somebody else, who may not read this checkout.
CHILD = """
import os, resource, subprocess, sys, time
from pathlib import Path
from tests.runner.gpu.holders import OWNER, UUIDS, race
from runner.gpu.leases import LeaseFolderUnusable
from runner.gpu.slots import Slots, active_leases
os.umask(0o077)
folder, user, *arguments = sys.argv[1:]
if user != "-":
    os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
slots = Slots(UUIDS, Path(folder), OWNER)
def say(text):
    print(text, flush=True)
"""

# Arguments: how many, and which. Where they are named, something runs there.
HOLD = """
lease = slots.lease(int(arguments[0]), only=arguments[1:] or None)
if lease and len(arguments) > 1:
    lease.occupy("experiment", 3, Path("/out/.attempts/one"))
say(len(lease.uuids) if lease else None)
sys.stdin.readline()
"""


class Host:
    """A place for a lease folder that every user can reach, and the runners that use it. A context manager."""

    def __init__(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="leases-"))
        self._place.chmod(0o1777)
        self._started: list[subprocess.Popen[str]] = []
        self.folder = self._place / "leases"
        """Not made yet."""

    def start(self, code: str, *arguments: object, user: int | None = None) -> subprocess.Popen[str]:
        """A runner in a process of its own; it is killed at the end."""
        command = [sys.executable, "-c", CHILD + code, str(self.folder), "-" if user is None else str(user)]
        self._started.append(
            subprocess.Popen(
                [*command, *map(str, arguments)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        return self._started[-1]

    def left(self) -> list[str]:
        """Names of all files but the folder's own lock."""
        return sorted(path.name for path in self.folder.iterdir() if path.name != ".lock")

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        shutil.rmtree(self._place)


def say(process: subprocess.Popen[str]) -> str:
    """The next line that the process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def taken(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def race(slots: Slots, marks: Path, rounds: int, wanted: list[int], seed: int) -> int:
    """Lease and give back; how often nothing was free. A marker that is there already means two holders."""
    rng = random.Random(seed)
    missed = done = 0
    while done < rounds:
        lease = slots.lease(rng.choice(wanted))
        if lease is None:
            missed += 1
            time.sleep(0.002)  # no scheduler asks again at once; those that did would keep a holder from giving back
            continue
        for uuid in lease.uuids:
            os.close(os.open(marks / uuid, os.O_CREAT | os.O_EXCL))
        time.sleep(rng.choice([0.0, 0.001]))
        for uuid in lease.uuids:
            (marks / uuid).unlink()
        lease.release()
        done += 1
    return missed
