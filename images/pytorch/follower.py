"""A further rank of a model over several GPUs, ``python -m images.pytorch.follower CONNECTION``.

`tensor_parallel.py` starts it and says what is spoken. It does what rank 0 does, at the same time, and answers only
what is asked of every GPU.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from images.contract.config import ExperimentConfig
from images.contract.job import JobContext, JobError
from images.harness.lifetime import end_with_parent
from images.pytorch.backend import Backend


def follow(connection: Connection[Any, Any]) -> None:
    """Do what is told until rank 0 is gone."""
    rank, config, context, meeting = connection.recv()
    connection.send(("ready",))
    backend = Backend(rank, Path(meeting))
    try:
        backend.load(ExperimentConfig.model_validate_json(config), JobContext.model_validate_json(context))
        while True:
            word, *work = connection.recv()
            if word == "begin":
                backend.begin()
            elif word == "batch":
                backend.run_batch(*work)
            elif word == "drain":
                backend.drain()
                connection.send(("drained",))
            elif word == "memory":
                connection.send(("memory", backend.memory()))
    except JobError as error:
        connection.send(("failed", type(error).__name__, error.message, error.advice))


if __name__ == "__main__":
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 hears it too, and ends this one
    with suppress(EOFError, OSError):
        follow(Connection(int(sys.argv[1])))
    # Leave at once: whoever else is in the group may be gone.
    os._exit(0)
