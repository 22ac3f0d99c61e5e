"""LLM for both backends, as far as names, refusals and answers go."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .executor import Executor, RequestOutput
from .llm_args import LlmArgs, TorchLlmArgs, TrtLlmArgs
from .sampling_params import SamplingParams

_MOST_CACHE_TOKENS = 10_000_000
_BUILD_S = 0.2


@dataclass
class LlmBuildStats:
    cache_hitted: bool = False
    cache_info: str | None = None
    build_steps_info: list[tuple[str, float]] = field(default_factory=list)


class _BaseLLM:
    _args_class: type[LlmArgs]
    _shows_end_token: bool

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        for key in kwargs:
            if key not in self._args_class.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        self.args = self._args_class(
            model=str(model),
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        if torch.cuda.device_count() < tensor_parallel_size:
            raise RuntimeError(
                f"Only {torch.cuda.device_count()} GPUs are available, but {tensor_parallel_size} are required."
            )
        self.llm_build_stats = LlmBuildStats()
        self._build_model()

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if not all(isinstance(one, int) for one in inputs):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams or None, but got {type(sampling_params)}")
        if sampling_params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        most = self.args.max_num_tokens
        if most and not self.args.enable_chunked_prefill and len(inputs) > most:
            raise ValueError(
                f"The sum of prompt length ({len(inputs)}), query length (0) should not exceed max_num_tokens ({most})"
            )
        timed = sampling_params.return_perf_metrics and self.args.return_perf_metrics
        return self._executor.submit(inputs, sampling_params, streaming, timed)

    def shutdown(self) -> None:
        self._executor.shutdown()

    def _build_model(self) -> None:
        if (self.args.kv_cache_config.max_tokens or 0) > _MOST_CACHE_TOKENS:
            # From a worker process an error comes wrapped.
            raise RuntimeError("Executor worker returned error") from torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 512.00 GiB. GPU 0 has a total capacity of 79.11 GiB."
            )
        vocab = int(json.loads((Path(self.args.model) / "config.json").read_text())["vocab_size"])
        reuses = self.args.kv_cache_config.enable_block_reuse
        self._executor = Executor(self.args.max_batch_size or 2048, vocab, self._shows_end_token, reuses)


class LLM(_BaseLLM):
    _args_class = TorchLlmArgs
    _shows_end_token = True

    def __init__(self, model: str | Path, **kwargs: Any) -> None:
        foreign = sorted(kwargs.keys() & (TrtLlmArgs.model_fields.keys() - TorchLlmArgs.model_fields.keys()))
        if foreign:
            raise ValueError(
                "The following arguments are specific to TensorRT backend and cannot be used with PyTorch backend: "
                f"{foreign}.\nPlease use 'from tensorrt_llm._tensorrt_engine import LLM' instead."
            )
        super().__init__(model, **kwargs)


class TensorrtLLM(_BaseLLM):
    _args_class = TrtLlmArgs
    _shows_end_token = False
    args: TrtLlmArgs

    def _build_model(self) -> None:
        cache = self.args.enable_build_cache
        if cache:
            key = self.args.model_dump_json(exclude={"enable_build_cache", "workspace"})
            built = Path(cache.cache_root) / f"engine-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
            self.llm_build_stats.cache_hitted = built.exists()
        if not self.llm_build_stats.cache_hitted:
            time.sleep(_BUILD_S)
            self.llm_build_stats.build_steps_info += [
                ("Loading HF model to memory", _BUILD_S / 2),
                ("Building TRT-LLM engine", _BUILD_S),
            ]
            if cache:
                (built / "content").mkdir(parents=True)
        super()._build_model()
