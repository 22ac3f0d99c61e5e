"""GPUs that torch for the CPU does not have."""

from __future__ import annotations

import os

import torch

_TOTAL, _FREE = 80_000_000_000, 10_000_000_000


def pretend() -> None:
    """Let torch say that there are GPUs, as many as STAND_IN_GPUS says."""
    count = int(os.environ.get("STAND_IN_GPUS", "0"))
    if not count:
        return
    answers = {
        "is_available": True,
        "device_count": count,
        "get_device_name": "STAND-IN GPU",
        "get_device_capability": (9, 0),
        "mem_get_info": (_FREE, _TOTAL),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
