"""Options of the backend pytorch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from images.contract.strict import Options


class PytorchOptions(Options):
    """transformers on PyTorch."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto is cuda where there is a GPU")
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"] | None
    ) = Field(None, description="None is the model's own choice")
    torch_compile: bool = Field(
        False,
        description="compile the model's forward pass; with a static cache that of single-token steps only, as "
        "transformers does",
    )
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = (
        Field(None, description="needs torch_compile; None is default")
    )
    torch_compile_fullgraph: bool = Field(False, description="fail where the graph would break")
    torch_compile_dynamic: bool | None = Field(
        None, description="true compiles for any shape, false for each shape; None goes over to any at the second"
    )
    quantization: Literal["bnb_8bit", "bnb_4bit"] | None = Field(
        None, description="quantize the weights with bitsandbytes while they are loaded"
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] | None = Field(None, description="None is bitsandbytes' own, fp4")
    bnb_4bit_compute_dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="dtype of 4-bit layers' products; None is bitsandbytes' own, float32"
    )
    bnb_4bit_use_double_quant: bool = Field(False, description="quantize the 4-bit scales too")
    cache_implementation: Literal["dynamic", "static", "offloaded", "offloaded_static"] | None = Field(
        None, description="KV cache; None is the model's own choice, offloaded keeps it in host memory"
    )
    assistant_model: str | None = Field(
        None, min_length=1, description="smaller model that drafts tokens; hub id or local folder; needs batch_size 1"
    )
    assistant_model_revision: str | None = Field(None, description="branch, tag or commit on the hub")
    num_assistant_tokens: int | None = Field(
        None, ge=1, description="tokens drafted by the assistant in one step; None is transformers' own, 20"
    )
    assistant_confidence_threshold: float | None = Field(
        None, ge=0.0, le=1.0, description="the assistant stops drafting below it; None is transformers' own, 0.4"
    )
    prompt_lookup_num_tokens: int | None = Field(
        None, ge=1, description="tokens drafted in one step by looking them up in the prompt; needs batch_size 1"
    )

    @property
    def is_assisted(self) -> bool:
        """Whether tokens are drafted, and several may come in one step."""
        return self.assistant_model is not None or self.prompt_lookup_num_tokens is not None

    @property
    def cache_is_static(self) -> bool:
        return self.cache_implementation in ("static", "offloaded_static")

    @property
    def cache_is_offloaded(self) -> bool:
        return self.cache_implementation in ("offloaded", "offloaded_static")

    @model_validator(mode="after")
    def _each_with_what_it_needs(self) -> Self:
        """A setting that would be ignored is a typing error to be told about."""
        needs = {
            "torch_compile: true": (
                self.torch_compile,
                ("torch_compile_mode", "torch_compile_fullgraph", "torch_compile_dynamic"),
            ),
            "quantization: bnb_4bit": (
                self.quantization == "bnb_4bit",
                ("bnb_4bit_quant_type", "bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant"),
            ),
            "assistant_model": (
                self.assistant_model is not None,
                ("assistant_model_revision", "num_assistant_tokens", "assistant_confidence_threshold"),
            ),
        }
        for needed, (there, names) in needs.items():
            for name in names:
                if not there and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} needs {needed}")
        if self.assistant_model is not None and self.prompt_lookup_num_tokens is not None:
            raise ValueError("assistant_model and prompt_lookup_num_tokens both draft tokens; set one of them")
        if self.is_assisted and self.cache_is_static:
            raise ValueError("drafted tokens can be taken back from a dynamic cache only; leave cache_implementation")
        return self
