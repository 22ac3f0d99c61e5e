"""What our part of an image weighs: each is built on a base that has its engine, and nothing else of what it needs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.figures import Figure

_ROOT = Path(__file__).parents[2]
_MOST_MB = 300.0
_BASE = os.environ.get("BASE_IMAGE", "python:3.12-slim-bookworm")
_ENGINES = {"pytorch": "constraints.txt", "vllm": "vllm/constraints.txt"}
"""Engines that can be had without a vendor's registry, with the versions they are pinned to."""
_ENGINE_IN = {"stub": None, "pytorch": "pytorch", "vllm": "vllm", "trt": "pytorch"}
"""By backend; TensorRT-LLM's image has torch and transformers, as PyTorch's does."""
_VENDOR_GB = {"vllm": 10.0, "trt": 16.0}
"""Unverified: about what the vendors' CUDA images are said to take on disk."""
_ENGINE_ALONE = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
COPY ENGINE/requirements.txt CONSTRAINTS /tmp/
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/* \
    && grep -vE '^(numpy|pyarrow|pydantic|nvidia-ml-py)' /tmp/requirements.txt > /tmp/engine.txt \
    && python3 -m pip install -c /tmp/constraints.txt -r /tmp/engine.txt \
    && python3 -m pip uninstall -y torchvision torchaudio torchcodec
"""
"""As vendors' images are: with a compiler, which their engines need, and what the engine itself requires."""


def image_figures(_scratch: Path) -> Iterator[Figure]:
    for engine in (None, *_ENGINES):
        with _base_with(engine) as base:
            for backend in (name for name, needs in _ENGINE_IN.items() if needs == engine):
                yield Figure(
                    f"{backend}: our layers on a base with its engine", "MB", [_added_mb(backend, base)], _MOST_MB
                )
    for backend, gigabytes in _VENDOR_GB.items():
        yield Figure(f"{backend}: the vendor's CUDA image, as said (unverified)", "GB", [gigabytes])


@contextmanager
def _base_with(engine: str | None) -> Iterator[str]:
    if engine is None:
        yield _BASE
        return
    tag = f"joulehouse-bench-engine-{engine}"
    text = _ENGINE_ALONE.replace("ENGINE", engine).replace("CONSTRAINTS", _ENGINES[engine])
    _build(tag, "-", _BASE, text)
    try:
        yield tag
    finally:
        subprocess.run(["docker", "rmi", tag], capture_output=True, check=False)


def _added_mb(backend: str, base: str) -> float:
    tag = f"joulehouse-bench-{backend}"
    _build(tag, f"images/{backend}/Dockerfile", base)
    try:
        return (_size_bytes(tag) - _size_bytes(base)) / 1e6
    finally:
        subprocess.run(["docker", "rmi", tag], capture_output=True, check=False)


def _build(tag: str, dockerfile: str, base: str, text: str | None = None) -> None:
    command = ["docker", "build", "-q", "--build-arg", f"BASE_IMAGE={base}", "-t", tag, "-f", dockerfile, "images"]
    ran = subprocess.run(command, input=text, capture_output=True, text=True, cwd=_ROOT)
    assert ran.returncode == 0, ran.stderr


def _size_bytes(image: str) -> int:
    """Of all its layers."""
    answer = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=True)
    (found,) = json.loads(answer.stdout)
    return int(found["Size"])
