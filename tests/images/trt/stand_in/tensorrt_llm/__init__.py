"""A stand-in for TensorRT-LLM 1.2, written by hand for the tests of images/trt.

It takes exactly the names that the public LLM API has, refuses others with the errors that the real one raises, and
makes up tokens in real time. It proves how the backend calls and what it makes of the answers; not that the real engine
does what its documentation says.

STAND_IN_GPUS=n pretends that torch sees n GPUs.
"""

from .gpus import pretend
from .llmapi import LLM, SamplingParams

__all__ = ["LLM", "SamplingParams"]

pretend()
