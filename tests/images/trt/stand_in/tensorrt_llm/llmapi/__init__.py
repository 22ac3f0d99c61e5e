from .decoding import (
    AutoDecodingConfig,
    DraftTargetDecodingConfig,
    EagleDecodingConfig,
    LookaheadDecodingConfig,
    MedusaDecodingConfig,
    MTPDecodingConfig,
    NGramDecodingConfig,
    SaveHiddenStatesDecodingConfig,
    UserProvidedDecodingConfig,
)
from .llm import LLM
from .llm_args import (
    BuildCacheConfig,
    BuildConfig,
    CudaGraphConfig,
    KvCacheConfig,
    QuantAlgo,
    QuantConfig,
    SchedulerConfig,
)
from .sampling_params import SamplingParams

__all__ = [
    "LLM",
    "AutoDecodingConfig",
    "BuildCacheConfig",
    "BuildConfig",
    "CudaGraphConfig",
    "DraftTargetDecodingConfig",
    "EagleDecodingConfig",
    "KvCacheConfig",
    "LookaheadDecodingConfig",
    "MTPDecodingConfig",
    "MedusaDecodingConfig",
    "NGramDecodingConfig",
    "QuantAlgo",
    "QuantConfig",
    "SamplingParams",
    "SaveHiddenStatesDecodingConfig",
    "SchedulerConfig",
    "UserProvidedDecodingConfig",
]
