"""What our part of an image weighs: each is built on a base that already has its engine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Figure

_ROOT = Path(__file__).parents[2]
_MOST_MB = 300.0
_ENGINE_IN = {"stub": "stub", "pytorch": "pytorch", "vllm": "vllm", "trt": "pytorch"}
"""By backend, the image of ours that serves as the vendor's: TensorRT-LLM's own cannot be had without its registry, and
PyTorch's has torch and transformers as it has."""
_VENDOR_GB = {"vllm": 10.0, "trt": 16.0}
"""Unverified: about what the vendors' CUDA images are said to take on disk."""


def image_figures(_scratch: Path) -> Iterator[Figure]:
    for backend in ("stub", "pytorch", "vllm"):
        _build(backend, f"joulehouse-{backend}", os.environ.get("BASE_IMAGE"))
    for backend, engine in _ENGINE_IN.items():
        base, tag = f"joulehouse-{engine}", f"joulehouse-bench-{backend}"
        _build(backend, tag, base)
        try:
            added_mb = (_size_bytes(tag) - _size_bytes(base)) / 1e6
        finally:
            subprocess.run(["docker", "rmi", tag], capture_output=True, check=False)
        yield Figure(f"{backend}: our layers on a base with its engine", "MB", [added_mb], _MOST_MB)
    for backend, gigabytes in _VENDOR_GB.items():
        yield Figure(f"{backend}: the vendor's CUDA image, as said (unverified)", "GB", [gigabytes])


def _build(backend: str, tag: str, base: str | None) -> None:
    arguments = ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    command = ["docker", "build", "-q", *arguments, "-t", tag, "-f", f"images/{backend}/Dockerfile", "images"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT)
    assert ran.returncode == 0, ran.stderr


def _size_bytes(image: str) -> int:
    """Of all its layers."""
    answer = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=True)
    (found,) = json.loads(answer.stdout)
    return int(found["Size"])
