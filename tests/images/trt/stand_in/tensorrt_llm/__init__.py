"""A stand-in for TensorRT-LLM 1.2, written by hand for the tests of images/trt.

It takes the names that joulehouse uses, refuses others with errors of the kinds that the real one raises, and makes up
tokens in real time. Quantization algorithms, ways of speculative decoding and their fields are all that the public
sources had while 1.2 was made; of other arguments the release may have a few more. It proves how the backend calls and
what it makes of the answers; not that the real engine does what its documentation says.

STAND_IN_GPUS=n pretends that torch sees n GPUs. With STAND_IN_STEPS=n its engine fails after n steps.
"""

from .gpus import pretend
from .llmapi import LLM, SamplingParams

__all__ = ["LLM", "SamplingParams"]

pretend()
