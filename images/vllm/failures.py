"""What vLLM raises, as failures of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vllm.exceptions import VLLMError

from images.contract.config import ExperimentConfig
from images.vllm.reasons import WRAPPED, Reasons, explain, message_of

# What it lets out of its own accord, pydantic's being a ValueError, and of what it calls.
_RUNNING = (VLLMError, RuntimeError, ValueError, MemoryError)
_LOADING = (*_RUNNING, TypeError, OSError, ImportError, AssertionError, KeyError)


@contextmanager
def engine_errors(config: ExperimentConfig, reasons: Reasons, *, loading: bool) -> Iterator[None]:
    """Turn what vLLM raises into one clear line.

    Args:
        loading: whether the engine is being made, when values it does not take are the configuration's fault.

    Raises:
        JobError: of the kind that fits the reason.
    """
    caught = _LOADING if loading else _RUNNING
    try:
        yield
    except caught as error:
        told = (type(error).__name__, message_of(error))
        kind, message = (_gave_up(error) and reasons.first()) or told
        raise explain(kind, message, config, loading=loading) from None


def _gave_up(error: BaseException) -> bool:
    """Whether it is an engine process that failed, and this one that only says so."""
    return bool(WRAPPED.search(str(error))) or type(error).__name__ == "EngineDeadError"
