"""One model over several GPUs: further processes that do what this one does, each with its part of every layer.

transformers splits the layers (`tp_plan`), torch.distributed adds up what the parts computed; NCCL on GPUs, Gloo on the
CPU. This process is rank 0: it alone talks to the harness, and tells the others what comes next. `python -m
images.pytorch.follower FD` is one of the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed
from torch.distributed import distributed_c10d

from images.contract.config import ExperimentConfig
from images.contract.job import IncompleteProcesses, JobContext, JobError

_TOGETHER_S = 1800.0
"""Longest that one rank is ahead of another; one that is gone is noticed by its connection and not by waiting."""
_LAST_WORDS_S = 5.0
_ERRORS = {kind.__name__: kind for kind in JobError.__subclasses__()}


def join_group(rank: int, ranks: int, meeting: Path, device: torch.device) -> None:
    """Meet the other ranks; returns when all are there.

    Args:
        meeting: a file that all ranks see and none has made.
    """
    # transformers asks the environment which GPU is its own.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    if device.type == "cpu":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container without a network resolves no name, not its own
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=_TOGETHER_S),
    )


def leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Followers:
    """The processes of ranks 1 and up. None outlives this process, or `close`."""

    def __init__(self, config: ExperimentConfig, context: JobContext) -> None:
        self._folder = TemporaryDirectory(prefix="joulehouse-")
        self.meeting = Path(self._folder.name) / "meeting"
        self._failure: JobError | None = None
        self._failed = threading.Event()
        self._closing = False
        self._processes: dict[Connection[Any, Any], tuple[int, subprocess.Popen[bytes]]] = {}
        self._answers: SimpleQueue[tuple[object, ...] | None] = SimpleQueue()
        for rank in range(1, config.gpus_per_process):
            self._start(rank, config, context)
        threading.Thread(target=self._listen, name="followers", daemon=True).start()

    def tell(self, *message: object) -> None:
        """What every rank does next."""
        for connection, (rank, process) in self._processes.items():
            try:
                connection.send(message)
            except OSError:
                self._fail(_gone(rank, process))

    def answers(self) -> list[tuple[object, ...]]:
        """What each of them answers, in any order.

        Raises:
            JobError: one has failed.
        """
        heard = [self._answers.get() for _ in self._processes]
        if self._failure is not None:
            raise self._failure
        return [answer for answer in heard if answer is not None]

    def failure(self) -> JobError | None:
        """Why one of them failed, if that is why this rank could not go on."""
        self._failed.wait(_LAST_WORDS_S)
        return self._failure

    def close(self) -> None:
        self._closing = True
        for _, process in self._processes.values():
            process.kill()
            process.wait()
        self._folder.cleanup()

    def _start(self, rank: int, config: ExperimentConfig, context: JobContext) -> None:
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "images.pytorch.follower", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._processes[ours] = rank, process
        ours.send((rank, config.model_dump_json(), context.model_dump_json(), str(self.meeting)))

    def _listen(self) -> None:
        """The only reader of all connections, so that a failure is heard while this rank waits for a GPU."""
        listened = dict(self._processes)
        while listened and not self._closing:
            ready = wait(list(listened))
            for connection in [one for one in listened if one in ready]:
                rank, process = listened[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    del listened[connection]
                    self._fail(_gone(rank, process))
                    continue
                if message[0] == "failed":
                    name, text, advice = message[1:]
                    self._fail(_ERRORS.get(name, IncompleteProcesses)(f"on GPU {rank} of its group: {text}", advice))
                else:
                    self._answers.put(message)

    def _fail(self, error: JobError) -> None:
        """Keep the first failure, and wake who waits for that rank: in Python, and inside NCCL."""
        if self._closing or self._failure is not None:
            return
        self._failure = error
        self._failed.set()
        for _ in self._processes:
            self._answers.put(None)
        if torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl":
            distributed_c10d._abort_process_group()


def _gone(rank: int, process: subprocess.Popen[bytes]) -> JobError:
    try:
        ended = f"ended with exit code {process.wait(_LAST_WORDS_S)}"
    except subprocess.TimeoutExpired:
        ended = "stopped answering"
    return IncompleteProcesses(
        f"the process of GPU {rank} of its group {ended}.", "Its last words are in the log; lower batch_size if memory."
    )
