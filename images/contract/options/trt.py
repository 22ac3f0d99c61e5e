"""Options of the backend trt."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from images.contract.job import only_json
from images.contract.strict import Options

_Passed = Annotated[dict[str, Any], AfterValidator(only_json)]
_ONLY_PYTORCH = ("kv_cache_dtype", "cuda_graphs", "cuda_graph_batch_sizes", "cuda_graph_padding", "attn_backend")
_ONLY_TENSORRT = ("quant_algo", "kv_cache_quant_algo", "build_config")


class TrtOptions(Options):
    """TensorRT-LLM's LLM arguments that are swept most; any other goes into `extra`.

    In `extra` the parts that have fields of their own here (kv_cache_config, scheduler_config, cuda_graph_config,
    quant_config) may be given too, for what is in them beyond those fields.
    """

    token_times: bool = Field(
        False, description="stamp every delivery of tokens, for ITL, by taking them as the engine streams them"
    )
    engine: Literal["pytorch", "tensorrt"] = Field(
        "pytorch", description="TensorRT-LLM's PyTorch backend, or a TensorRT engine that is built before the window"
    )
    max_batch_size: int | None = Field(None, ge=1, description="requests in one step; null is batch_size")
    max_num_tokens: int | None = Field(None, ge=1, description="tokens in one step")
    max_seq_len: int | None = Field(None, ge=1, description="longest prompt and output together (tokens)")
    max_input_len: int | None = Field(
        None, ge=1, description="longest prompt (tokens); null is workload.max_input_tokens"
    )
    kv_cache_free_gpu_memory_fraction: float | None = Field(
        None, gt=0.0, le=1.0, description="share of the memory left after loading that the KV cache gets"
    )
    kv_cache_max_tokens: int | None = Field(None, ge=1, description="most tokens in the KV cache")
    kv_cache_dtype: str | None = Field(None, description="such as fp8; engine pytorch only")
    enable_block_reuse: bool | None = Field(
        None,
        description="reuse the KV cache of equal prompt starts; null is off, because the cache cannot be emptied "
        "between warm-up, passes and window",
    )
    scheduler_policy: Literal["max_utilization", "guaranteed_no_evict", "static_batch"] | None = Field(
        None, description="how requests are admitted"
    )
    context_chunking_policy: Literal["first_come_first_served", "equal_progress"] | None = Field(
        None, description="which prompts' chunks go first"
    )
    enable_chunked_prefill: bool | None = Field(None, description="split long prompts over steps")
    cuda_graphs: bool | None = Field(None, description="false turns CUDA graphs off; engine pytorch only")
    cuda_graph_batch_sizes: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, min_length=1, description="batch sizes that get a CUDA graph; engine pytorch only"
    )
    cuda_graph_padding: bool | None = Field(
        None, description="round a batch up to the next size that has a CUDA graph; engine pytorch only"
    )
    attn_backend: str | None = Field(None, description="such as TRTLLM, FLASHINFER; engine pytorch only")
    quant_algo: str | None = Field(
        None, description="quantize while building, such as FP8, W4A16_AWQ; engine tensorrt only"
    )
    kv_cache_quant_algo: str | None = Field(None, description="such as FP8, INT8; engine tensorrt only")
    build_config: _Passed = Field(
        default_factory=dict, description="BuildConfig's fields, names and values untouched; engine tensorrt only"
    )
    speculative_config: _Passed = Field(
        default_factory=dict,
        description="decoding_type (such as NGram, MTP, Lookahead) and that configuration's fields, untouched",
    )

    @model_validator(mode="after")
    def _of_this_engine(self) -> Self:
        foreign, other = (_ONLY_TENSORRT, "tensorrt") if self.engine == "pytorch" else (_ONLY_PYTORCH, "pytorch")
        for name in foreign:
            if getattr(self, name) not in (None, {}):
                raise ValueError(f"{name} needs engine: {other}{_INSTEAD.get(name, '')}")
        if self.cuda_graphs is False and (self.cuda_graph_batch_sizes or self.cuda_graph_padding):
            raise ValueError("cuda_graphs is false, so cuda_graph_batch_sizes and cuda_graph_padding have no meaning")
        return self

    @model_validator(mode="after")
    def _names_its_drafter(self) -> Self:
        """One name for it, which versions before and after 1.2 know too, so that it is mounted, fetched and hashed."""
        if "speculative_model" in self.speculative_config:
            raise ValueError("speculative_config: name the model that drafts in speculative_model_dir")
        drafter = self.speculative_config.get("speculative_model_dir")
        if drafter is not None and not (isinstance(drafter, str) and drafter):
            raise ValueError("speculative_config.speculative_model_dir has to be a hub id or a folder")
        return self


_INSTEAD = {
    "quant_algo": "; engine pytorch takes it from the checkpoint, so name a quantized model instead",
    "kv_cache_quant_algo": "; for engine pytorch set kv_cache_dtype",
    "kv_cache_dtype": "; for engine tensorrt set kv_cache_quant_algo",
}
