"""Processes that save results, some of them killed: python -m tests.images.contract.writers MODE FOLDER NUMBER NUMBER.

A process of its own, so that it can fork cheaply; pytest's has threads.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from types import FrameType
from typing import Any

from images.contract import files, result
from tests.images.contract import make

fork = multiprocessing.get_context("fork")


def save_one(output_dir: Path, **changes: Any) -> None:
    """All with one name: the name has no experiment_id in it."""
    made = make.result_with_sidecars(**changes)
    made.save(output_dir, timeseries=make.timeseries(), requests=make.requests())


def race(output_dir: Path, writers: int, saves: int) -> None:
    """`writers` processes save `saves` results each, from one starting shot."""
    barrier = fork.Barrier(writers)
    processes = [fork.Process(target=_save_many, args=(output_dir, barrier, index, saves)) for index in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def kill_at_every_line(root: Path, _: int, __: int) -> None:
    """One writer per line that saving executes in the contract, killed just before that line."""
    exit_code, line = -signal.SIGKILL, 0
    while exit_code == -signal.SIGKILL:
        line += 1
        process = fork.Process(target=_die_at_line, args=(root / f"{line:04d}", line))
        process.start()
        process.join()
        assert process.exitcode is not None
        exit_code = process.exitcode
    assert exit_code == 0


def kill_at_random(output_dir: Path, kills: int, seed: int) -> None:
    """Writers that save in a loop, each killed at some moment of one of its next saves."""
    chance = random.Random(seed)
    for _ in range(kills):
        saved_one = fork.Event()
        process = fork.Process(target=_save_forever, args=(output_dir, saved_one))
        process.start()
        assert saved_one.wait(60)
        time.sleep(chance.uniform(0.0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def _save_many(output_dir: Path, barrier: Barrier, writer: int, saves: int) -> None:
    barrier.wait()
    for number in range(saves):
        save_one(output_dir, experiment_id=f"{writer}-{number}")


def _save_forever(output_dir: Path, saved_one: Event) -> None:
    while True:
        save_one(output_dir)
        saved_one.set()


def _die_at_line(output_dir: Path, line: int) -> None:
    watched = {files.__file__, result.__file__}
    seen = 0

    def on_line(_: FrameType, event: str, __: Any) -> Any:
        nonlocal seen
        seen += event == "line"
        if seen == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    made = make.result_with_sidecars()
    tables = {"timeseries": make.timeseries(), "requests": make.requests()}
    sys.settrace(lambda frame, *_: on_line if frame.f_code.co_filename in watched else None)
    made.save(output_dir, **tables)
    sys.settrace(None)


MODES: dict[str, Callable[[Path, int, int], None]] = {
    "race": race,
    "kill_at_every_line": kill_at_every_line,
    "kill_at_random": kill_at_random,
}

if __name__ == "__main__":
    mode, folder, first, second = sys.argv[1:]
    MODES[mode](Path(folder), int(first), int(second))
