"""Why vLLM gave up, in one line.

Its engine runs in processes of its own, and all that the first one hears of them is that they are gone; the reason is
in their log. So a handler of ours writes every logged exception into a file, which is read when the engine fails.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from copy import deepcopy
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, GpuUnusable, JobError, MeasurementFailed, ModelUnavailable, OutOfMemory
from images.harness.lifetime import end_with_parent

_LONGEST = 400
_TELLS_NOTHING = ("ValueError", "ValidationError", "RuntimeError", "TypeError", "VLLMValidationError")
_MEMORY = re.compile(
    r"out of memory|can.t allocate memory|cannot allocate memory|No available memory for the cache blocks"
    r"|larger than the (available|maximum).* KV cache|KV cache is needed|is less than (desired|requested)|ALLOC_FAILED"
    r"|EngineCore\S*: -9\b",
    re.IGNORECASE,
)
_DEVICE = re.compile(
    r"CUDA error|CUDA driver|NCCL error|no CUDA GPUs|Failed to infer device type|invalid device ordinal"
    r"|unhandled (cuda|system) error|No CUDA-capable|world size \(\d+\) is larger than",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"Cannot find any model weights|safetensors|checkpoint|shape mismatch|size of tensor", re.IGNORECASE
)
WRAPPED = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|EngineCore encountered")


class ReasonsHandler(logging.Handler):
    """Appends logged exceptions to a file, one JSON object a line; works in every process of the engine.

    It is the first of our code to run in them, so it also sees to it that none outlives the job, however that ends.
    """

    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = Path(path)
        if parent_process() is not None:
            end_with_parent()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        line = json.dumps({"kind": type(error).__name__, "message": message_of(error)})
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")


class Reasons:
    """The file of logged exceptions, and the logging configuration that fills it.

    Args:
        folder: an empty folder that lives as long as the engine.
        default: vLLM's own logging configuration (`logging.config.dictConfig`'s schema), which is kept.
    """

    def __init__(self, folder: Path, default: Mapping[str, Any]) -> None:
        self._path = folder / "reasons.jsonl"
        self.log_config = folder / "logging.json"
        logging_config: dict[str, Any] = deepcopy(dict(default))
        logging_config["handlers"]["vllm"]["stream"] = "ext://sys.stderr"  # where the job logs
        handler = {"class": f"{__name__}.{ReasonsHandler.__name__}", "path": str(self._path)}
        logging_config["handlers"]["reasons"] = handler
        logging_config["loggers"]["vllm"]["handlers"] = [*logging_config["loggers"]["vllm"]["handlers"], "reasons"]
        self.log_config.write_text(json.dumps(logging_config))

    def first(self) -> tuple[str, str] | None:
        """Class and message of the exception that came first; those that follow only pass it on."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        said = [json.loads(line) for line in lines if line.endswith("}")]
        chosen = next((one for one in said if not WRAPPED.search(one["message"])), said[0] if said else None)
        return None if chosen is None else (chosen["kind"], chosen["message"])


def explain(kind: str, message: str, config: ExperimentConfig, *, loading: bool) -> JobError:
    """The failure that an exception of vLLM's is, by its class and its words: it has hardly any classes of its own.

    Args:
        loading: whether the engine is being made, when values it does not take are the configuration's fault.
    """
    said = message if kind in _TELLS_NOTHING else f"{kind}: {message}"
    said = said[:_LONGEST].rstrip(".")
    if kind in ("OutOfMemoryError", "MemoryError") or _MEMORY.search(message):
        return OutOfMemory(
            f"vLLM ran out of memory: {said}.",
            "Lower batch_size or vllm.max_model_len, set vllm.gpu_memory_utilization to what is free, or take a "
            "smaller model or dtype.",
        )
    if kind == "AcceleratorError" or _DEVICE.search(message):
        return GpuUnusable(f"vLLM cannot use the GPU: {said}.", "Check nvidia-smi, the driver and gpus_per_process.")
    if not loading:
        return MeasurementFailed(f"vLLM's engine failed: {said}.", "Its log stands above; run it again.")
    if kind in ("SafetensorError", "EOFError") or (kind in ("RuntimeError", "KeyError") and _MODEL.search(message)):
        return ModelUnavailable(f"the model {config.model} is damaged: {said}.", "Get it again.")
    if WRAPPED.search(message):
        return MeasurementFailed(f"vLLM's engine did not start: {said}.", "Its log stands above.")
    return ConfigInvalid(f"vLLM refuses: {said}.", "Correct the vllm section, model or dtype.")


def message_of(error: BaseException) -> str:
    """In one line. pydantic's own text has the whole input in it, the message alone is what vLLM says."""
    problems = getattr(error, "errors", None)
    if callable(problems):
        try:
            return "; ".join(_problem(one) for one in problems())
        except (TypeError, KeyError):
            pass
    return " ".join(str(error).split()) or type(error).__name__


def _problem(problem: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    message = " ".join(str(problem["msg"]).removeprefix("Value error, ").split())
    return f"{path}: {message}" if path else message
