"""Options of the backend vllm."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from images.contract.strict import Options, Part


class Speculative(Part):
    """Speculative decoding: tokens are guessed cheaply and checked by the model all at once."""

    method: str | None = Field(
        None, description="such as ngram, draft_model, eagle, eagle3, mtp; null: none, or what vLLM finds in `model`"
    )
    model: str | None = Field(None, description="draft model or head: a hub id or a folder")
    num_speculative_tokens: int | None = Field(None, ge=1, description="tokens guessed at once; null: as `model` says")
    prompt_lookup_max: int | None = Field(
        None, ge=1, description="ngram only: longest match in the text so far (tokens)"
    )
    prompt_lookup_min: int | None = Field(None, ge=1, description="ngram only: shortest match (tokens)")

    @model_validator(mode="after")
    def _says_how(self) -> Self:
        given = (self.num_speculative_tokens, self.prompt_lookup_max, self.prompt_lookup_min)
        if any(value is not None for value in given) and not self.is_on:
            raise ValueError("speculative needs a method or a model")
        return self

    @property
    def is_on(self) -> bool:
        return self.method is not None or self.model is not None


class VllmOptions(Options):
    """vLLM's engine arguments that are swept most; any other goes into `extra`. null is vLLM's own default.

    Values that only vLLM can judge, because they depend on its version, the model or the device, are text here.
    """

    token_times: bool = Field(
        False, description="stamp every delivery of tokens, for ITL, by taking them as the engine streams them"
    )
    gpu_memory_utilization: float | None = Field(None, gt=0.0, le=1.0, description="share of the GPU's memory")
    max_num_seqs: int | None = Field(None, ge=1, description="sequences in one step; null is batch_size")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="tokens in one step")
    enable_chunked_prefill: bool | None = Field(None, description="split long prompts over steps")
    enable_prefix_caching: bool | None = Field(None, description="reuse the KV cache of equal prompt starts")
    kv_cache_dtype: str | None = Field(None, description="such as fp8")
    quantization: str | None = Field(None, description="such as awq, gptq, fp8")
    enforce_eager: bool | None = Field(None, description="no CUDA graphs")
    max_model_len: int | None = Field(None, ge=1, description="longest prompt and output together (tokens)")
    block_size: int | None = Field(None, ge=1, description="of the KV cache (tokens)")
    kv_cache_memory_bytes: int | None = Field(
        None, ge=1, description="size of the KV cache per GPU (bytes) in place of a share; on the CPU 1 GiB if null"
    )
    kv_offloading_size: float | None = Field(None, gt=0.0, description="KV cache kept in host memory as well (GiB)")
    cpu_offload_gb: float | None = Field(None, gt=0.0, description="weights kept in host memory, per GPU (GiB)")
    load_format: str | None = Field(None, description="such as safetensors, dummy, runai_streamer")
    attention_backend: str | None = Field(None, description="such as FLASH_ATTN, FLASHINFER, TRITON_ATTN")
    optimization_level: Literal[0, 1, 2, 3] | None = Field(None, description="vLLM's -O: start-up time against speed")
    compilation_mode: Literal["NONE", "STOCK_TORCH_COMPILE", "DYNAMO_TRACE_ONCE", "VLLM_COMPILE"] | None = Field(
        None, description="how the model is compiled"
    )
    cudagraph_mode: Literal["NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"] | None = Field(
        None, description="which steps are CUDA graphs"
    )
    performance_mode: Literal["balanced", "interactivity", "throughput"] | None = Field(
        None, description="what vLLM's defaults are chosen for"
    )
    async_scheduling: bool | None = Field(None, description="plan the next step while this one runs")
    stream_interval: int | None = Field(None, ge=1, description="tokens in one delivery, with token_times")
    long_prefill_token_threshold: int | None = Field(
        None, ge=1, description="chunked prefill: at most this many tokens of one prompt in a step"
    )
    distributed_executor_backend: Literal["mp", "uni"] | None = Field(
        None, description="one process per GPU, or none of its own"
    )
    disable_custom_all_reduce: bool | None = Field(None, description="tensor parallel: leave summing to NCCL")
    enable_expert_parallel: bool | None = Field(None, description="mixture of experts: spread experts, not their parts")
    speculative: Speculative = Field(Speculative(), description="speculative decoding")
