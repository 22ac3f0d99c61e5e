"""transformers on PyTorch: static batches, left padding, every token stamped."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from images.contract.config import TINY_LLAMA, ExperimentConfig, PytorchOptions
from images.contract.job import ConfigInvalid, GpuUnusable, JobContext, ModelUnavailable, OutOfMemory
from images.harness.backend import Generation, LoadedModel, Request
from images.harness.flops import shape_from_config
from images.pytorch.hub import reading_model
from images.pytorch.streamer import Delivered, StampingStreamer
from images.pytorch.tiny_llama import make_model, make_tokenizer

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class HubTokenizer:
    """A transformers tokenizer as the harness wants it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model_vocab: int) -> None:
        self._tokenizer = tokenizer
        # Some models have more rows than their tokenizer has tokens, and some tokenizers more tokens.
        self.vocab_size = min(len(tokenizer), model_vocab)
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self.has_chat_template = tokenizer.chat_template is not None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def encode_chat(self, text: str) -> list[int]:
        turns = [{"role": "user", "content": text}]
        rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.encode(rendered, add_special_tokens=False)


class Backend:
    packages: tuple[str, ...] = ("torch", "transformers", "tokenizers")

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._config = config
        self._options = config.pytorch or PytorchOptions()
        if config.gpus_per_process > 1:
            raise ConfigInvalid(
                "backend pytorch cannot split a model over several GPUs yet.", "Leave gpus_per_process at 1."
            )
        self._device = _choose_device(self._options.device, context.gpu_uuids or ())
        self._padded, self._positions = 0, 0
        self._delivered = Delivered()
        with _device_errors():
            tokenizer, self._model = self._make() if config.model == TINY_LLAMA else self._read()
            self._model.eval().to(self._device)
        if self._options.torch_compile:
            if not (os.environ.get("CXX") or shutil.which("g++")):
                raise ConfigInvalid(
                    "pytorch.torch_compile needs a C++ compiler, and there is none.",
                    "Install g++, or use --launcher docker: the image has one.",
                )
            self._model.compile()
        self._eos_ids = _eos_ids(self._model, tokenizer)
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self._eos_ids, default=0)
        # A hub's generation_config.json must not change sampling behind the configuration's back.
        self._model.generation_config = GenerationConfig()
        text_config = self._model.config.get_text_config()
        return LoadedModel(
            tokenizer=HubTokenizer(tokenizer, text_config.vocab_size),
            device=_device_name(self._device),
            shape=shape_from_config(text_config.to_dict()),
            parameters=self._model.num_parameters(),
            context_length=getattr(text_config, "max_position_embeddings", None),
            model_commit=_model_commit(config),
            observed_settings={
                "dtype": str(self._model.dtype).removeprefix("torch."),
                "attn_implementation": str(getattr(self._model.config, "_attn_implementation", None)),
                "torch_threads": str(torch.get_num_threads()),
                "cuda": str(torch.version.cuda),
            },
        )

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        torch.manual_seed(self._config.seed)
        self._padded, self._positions = 0, 0
        size = self._config.batch_size
        with _device_errors(), torch.inference_mode():
            return [
                generation
                for start in range(0, len(requests), size)
                for generation in self._run_batch(requests[start : start + size])
            ]

    def delivered(self) -> int | None:
        return self._delivered.tokens

    def drain(self) -> None:
        if self._device.type == "cuda":
            with _device_errors():
                torch.cuda.synchronize(self._device)

    def reset_caches(self) -> bool:
        return True  # every call of generate makes its own cache and drops it

    def peak_memory_mb(self) -> float | None:
        return torch.cuda.max_memory_allocated(self._device) / 1e6 if self._device.type == "cuda" else None

    def padding_fraction(self) -> float | None:
        return self._padded / self._positions if self._positions else None

    def close(self) -> None:
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _make(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        if self._options.extra:
            raise ConfigInvalid(f"pytorch.extra has no meaning for {TINY_LLAMA}.", "Remove it, or name a real model.")
        model = make_model(self._config.seed, self._options.attn_implementation)
        return make_tokenizer(), model.to(_DTYPES.get(self._config.dtype, torch.float32))

    def _read(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        source = str(self._config.model_path or self._config.model)
        common = {"revision": self._config.model_revision, "trust_remote_code": self._config.trust_remote_code}
        _refuse_doubles(self._options.extra)
        if self._config.model_path is not None and not (self._config.model_path / "config.json").is_file():
            raise ModelUnavailable(
                f"the folder {source} holds no model (there is no config.json in it).", "Correct the path."
            )
        arguments: dict[str, Any] = {"dtype": _DTYPES.get(self._config.dtype, "auto"), **self._options.extra}
        if self._options.attn_implementation is not None:
            arguments["attn_implementation"] = self._options.attn_implementation
        with reading_model(self._config), _device_errors():
            tokenizer = AutoTokenizer.from_pretrained(source, **common)
            return tokenizer, AutoModelForCausalLM.from_pretrained(source, **common, **arguments)

    def _run_batch(self, batch: Sequence[Request]) -> list[Generation]:
        started = time.perf_counter()
        longest = max(len(request.token_ids) for request in batch)
        padding = [longest - len(request.token_ids) for request in batch]
        self._padded += sum(padding)
        self._positions += longest * len(batch)
        rows = [[self._pad_id] * pad + list(one.token_ids) for pad, one in zip(padding, batch, strict=True)]
        masks = [[0] * pad + [1] * (longest - pad) for pad in padding]
        streamer = StampingStreamer(self._delivered, self._ends(batch[0]))
        sequences = self._model.generate(
            input_ids=torch.tensor(rows, device=self._device),
            attention_mask=torch.tensor(masks, device=self._device),
            generation_config=self._generation_config(batch[0]),
            streamer=streamer,
        )
        outputs = sequences[:, longest:].tolist()
        return [
            self._generation(request, output, started, streamer.step_s)
            for request, output in zip(batch, outputs, strict=True)
        ]

    def _generation_config(self, request: Request) -> GenerationConfig:
        """All requests of a batch share the workload's limits, so the first one's stand for all."""
        sampling = self._config.sampling
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or 0,
            }
        return GenerationConfig(
            max_new_tokens=request.max_output_tokens,
            eos_token_id=sorted(self._ends(request)) or None,
            pad_token_id=self._pad_id,
            **chosen,
        )

    def _ends(self, request: Request) -> frozenset[int]:
        return frozenset() if request.ignore_eos else self._eos_ids

    def _generation(self, request: Request, output: list[int], started_s: float, step_s: Sequence[float]) -> Generation:
        """Cut after the row's own end token: what follows is padding while longer rows went on."""
        ends = self._ends(request)
        count = next((index + 1 for index, token in enumerate(output) if token in ends), len(output))
        return Generation(
            request_index=request.index,
            output_ids=tuple(output[:count]),
            finish_reason="stop" if output[count - 1] in ends else "length",
            started_s=started_s,
            delivery_s=tuple(step_s[:count]),
            delivery_tokens=(1,) * count,
            cached_input_tokens=0,  # every call of generate starts with an empty cache
        )


def _refuse_doubles(extra: Mapping[str, Any]) -> None:
    """`extra` may not override what has a field of its own: the result would name the wrong setting."""
    own = {
        "dtype": "dtype",
        "torch_dtype": "dtype",
        "revision": "model_revision",
        "trust_remote_code": "trust_remote_code",
        "attn_implementation": "pytorch.attn_implementation",
    }
    for name in own.keys() & extra.keys():
        raise ConfigInvalid(f"pytorch.extra.{name} has a field of its own.", f"Set {own[name]} instead.")


def _choose_device(wanted: str, gpu_uuids: Sequence[str]) -> torch.device:
    available = torch.cuda.is_available()
    if gpu_uuids and wanted != "cpu" and not available:
        raise GpuUnusable(
            f"the job was given {', '.join(gpu_uuids)}, but PyTorch {torch.__version__} sees no GPU.",
            "Update the driver, or build the image with a CUDA build of torch; --gpus none measures on the CPU.",
        )
    if wanted == "cuda" and not available:
        raise GpuUnusable(
            "pytorch.device is cuda, but PyTorch sees no GPU.", "Give the job a GPU, or set pytorch.device: auto."
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def _model_commit(config: ExperimentConfig) -> str | None:
    """The hub's commit that was just read, which is the name of its folder in the cache; None of any other model."""
    if config.model == TINY_LLAMA or config.model_path is not None:
        return None
    found = try_to_load_from_cache(config.model, "config.json", revision=config.model_revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens as the model's own generation config has them, else the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    chosen = configured if configured is not None else tokenizer.eos_token_id
    if chosen is None:
        return frozenset()
    return frozenset([chosen] if isinstance(chosen, int) else chosen)


@contextmanager
def _device_errors() -> Iterator[None]:
    advice = "Lower batch_size, workload.max_input_tokens or workload.max_output_tokens, or take a smaller dtype."
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the GPU ran out of memory: {error}"[:300], advice) from None
    except RuntimeError as error:
        # PyTorch has no classes of its own for these.
        text = str(error)
        if "can't allocate memory" in text:
            raise OutOfMemory(f"the host ran out of memory: {text}"[:300], advice) from None
        if "CUDA error: out of memory" in text or "ALLOC_FAILED" in text:
            raise OutOfMemory(f"the GPU ran out of memory: {text}"[:300], advice) from None
        if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
            raise GpuUnusable(
                f"the GPU failed: {text.splitlines()[0]}"[:300], "Check nvidia-smi, the driver and other processes."
            ) from None
        raise
