"""Writing to a pipe whose reader may have enough before the end, as `| head` has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from warehouse.errors import WarehouseError


@contextmanager
def unless_nobody_reads() -> Iterator[None]:
    """Around all that is written to the standard output: when its reader goes, that is the end and no mistake.

    Raises:
        WarehouseError: it cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise Python complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is not None:  # another file's mistake
            raise
        raise WarehouseError(f"the standard output cannot be written ({error.strerror}).") from None


class PipedConsole(Console):
    """A console that leaves it to `unless_nobody_reads` what a broken pipe means.

    Args:
        width_of_a_file: where nobody looks at a terminal, a table that is cut to 80 columns serves nobody.
    """

    def __init__(self, width_of_a_file: int | None = None) -> None:
        super().__init__(highlight=False)
        if width_of_a_file and not self.is_terminal and not self.is_dumb_terminal and self.width == 80:
            self.width = width_of_a_file

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
