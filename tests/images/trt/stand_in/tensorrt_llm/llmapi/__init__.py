from .llm import LLM
from .llm_args import (
    BuildCacheConfig,
    BuildConfig,
    CudaGraphConfig,
    KvCacheConfig,
    LookaheadDecodingConfig,
    NGramDecodingConfig,
    QuantAlgo,
    QuantConfig,
    SaveHiddenStatesDecodingConfig,
    SchedulerConfig,
)
from .sampling_params import SamplingParams

__all__ = [
    "LLM",
    "BuildCacheConfig",
    "BuildConfig",
    "CudaGraphConfig",
    "KvCacheConfig",
    "LookaheadDecodingConfig",
    "NGramDecodingConfig",
    "QuantAlgo",
    "QuantConfig",
    "SamplingParams",
    "SaveHiddenStatesDecodingConfig",
    "SchedulerConfig",
]
