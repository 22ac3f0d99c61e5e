"""What an engine's processes log becomes the failure of the job; the messages are vLLM's, PyTorch's and NCCL's own."""

from __future__ import annotations

import json
import logging
from logging.config import dictConfig
from pathlib import Path
from typing import Any

import pytest

from images.contract.config import parse_config
from images.contract.job import ConfigInvalid, GpuUnusable, JobError, MeasurementFailed, ModelUnavailable, OutOfMemory
from images.vllm.reasons import Reasons, explain

CONFIG = parse_config({"backend": "vllm", "model": "some/model"})
DEFAULT: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"vllm": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "loggers": {"vllm": {"handlers": ["vllm"], "level": "INFO", "propagate": False}},
}


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 224.00 MiB.", OutOfMemory),
        (
            "ValueError",
            "To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, "
            "which is larger than the available KV cache memory (1.20 GiB).",
            OutOfMemory,
        ),
        ("ValueError", "No available memory for the cache blocks.", OutOfMemory),
        (
            "ValueError",
            "Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.92)",
            OutOfMemory,
        ),
        ("RuntimeError", "Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}", OutOfMemory),
        ("AcceleratorError", "CUDA error: no kernel image is available for execution on the device", GpuUnusable),
        ("DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp:94, unhandled system error", GpuUnusable),
        ("ValueError", "World size (2) is larger than the number of available GPUs (1) in this node.", GpuUnusable),
        ("ValueError", "awq quantization is currently not supported in cpu", ConfigInvalid),
        ("SafetensorError", "Error while deserializing header: incomplete metadata", ModelUnavailable),
        ("RuntimeError", "Cannot find any model weights with `some/model`", ModelUnavailable),
        (
            "RuntimeError",
            "Engine core initialization failed. Failed core proc(s): {'EngineCore': 1}",
            MeasurementFailed,
        ),
    ],
)
def test_the_words_of_the_engine_decide_the_exit_code(kind: str, message: str, expected: type[JobError]) -> None:
    error = explain(kind, message, CONFIG, loading=True)
    assert type(error) is expected
    assert message.rstrip(".") in error.message
    assert error.advice


def test_an_engine_that_fails_in_mid_run_is_no_fault_of_the_configuration() -> None:
    assert type(explain("ValueError", "negative dimensions", CONFIG, loading=False)) is MeasurementFailed


def test_the_first_exception_that_is_logged_is_the_reason_and_those_that_pass_it_on_are_not(tmp_path: Path) -> None:
    reasons = Reasons(tmp_path, DEFAULT)
    assert reasons.first() is None
    dictConfig(_read(reasons.log_config))
    engine = logging.getLogger("vllm.engine")
    for error in (RuntimeError("WorkerProc initialization failed"), ValueError("no such\nthing"), OSError("later")):
        try:
            raise error
        except type(error):
            engine.exception("EngineCore failed to start.")
    engine.error("this one has no exception")
    assert reasons.first() == ("ValueError", "no such thing")


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document
