"""``python -m tests.gpu_acceptance.matmul``: matrix products on the first visible GPU, while told to.

Lines on standard input: ``on`` and ``off``; each is answered by the same word once it is so. The end of standard
input ends the process, also when its parent was killed.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Any

_SIZE = 4096
_AT_ONCE = 8


def _say(word: str) -> None:
    print(word, flush=True)


def _open_gpu() -> tuple[Any, Any, Any] | None:
    """torch, a matrix on the GPU and room for a product; None, and the reason is said, where there is no CUDA."""
    try:
        import torch
    except ImportError as error:
        _say(f"this Python has no torch ({error})")
        return None
    if not torch.cuda.is_available():
        _say(f"PyTorch {torch.__version__} sees no GPU")
        return None
    matrix = torch.randn(_SIZE, _SIZE, device="cuda", dtype=torch.float16) / _SIZE**0.5
    product = torch.empty_like(matrix)
    torch.matmul(matrix, matrix, out=product)
    torch.cuda.synchronize()
    return torch, matrix, product


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; this one ends with its input
    opened = _open_gpu()
    if opened is None:
        return
    torch, matrix, product = opened
    _say("ready")
    busy, pending = False, b""
    while True:
        if not busy or select.select([0], [], [], 0)[0]:
            arrived = os.read(0, 4096)
            if not arrived:
                return
            *orders, pending = (pending + arrived).split(b"\n")
            for order in orders:
                busy = order == b"on"
                if busy:
                    torch.matmul(matrix, matrix, out=product)
                torch.cuda.synchronize()
                _say(order.decode())
        if busy:
            for _ in range(_AT_ONCE):
                torch.matmul(matrix, matrix, out=product)
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
