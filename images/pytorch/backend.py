"""transformers on PyTorch: static batches, left padding, every token stamped."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from images.contract.config import ExperimentConfig
from images.contract.job import GpuUnusable, JobContext, JobError
from images.contract.options.pytorch import PytorchOptions
from images.harness.backend import Arrivals, Generation, LoadedModel, MemoryUse, Request
from images.harness.flops import shape_from_config
from images.models.reading import model_commit
from images.models.tokenizer import HubTokenizer
from images.pytorch.device_errors import device_errors
from images.pytorch.effects import SeenCaches, ignored_at_load, ignored_at_work
from images.pytorch.loading import Models, check_options, load_models, weight_bytes
from images.pytorch.streamer import Delivered, StampingStreamer
from images.pytorch.tensor_parallel import Followers, join_group, leave_group


class Backend:
    """
    Args:
        rank: number of this GPU among those of one model; the harness talks to 0.
        meeting: where the ranks meet; rank 0 makes it itself.
    """

    packages: tuple[str, ...] = ("torch", "transformers", "tokenizers", "accelerate", "bitsandbytes")

    def __init__(self, rank: int = 0, meeting: Path | None = None) -> None:
        self._rank = rank
        self._meeting = meeting
        self._followers: Followers | None = None

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._config = config
        self._options = config.pytorch or PytorchOptions()
        self._device = _choose_device(config, self._options.device, context.gpu_uuids or (), self._rank)
        check_options(config, self._options, self._device)
        self._padded, self._positions = 0, 0
        self._delivered = Delivered()
        self._caches = SeenCaches()
        models = self._load_together(config, context)
        self._model, self._assistant, self._eos_ids = models.model, models.assistant, models.ends
        self._weight_bytes = sum(weight_bytes(one) for one in (models.model, models.assistant) if one is not None)
        if self._options.torch_compile and not self._options.cache_is_static:
            self._model.compile(
                mode=self._options.torch_compile_mode,
                fullgraph=self._options.torch_compile_fullgraph,
                dynamic=self._options.torch_compile_dynamic,
            )
        pad_id = models.tokenizer.pad_token_id
        self._pad_id = pad_id if pad_id is not None else min(self._eos_ids, default=0)
        text_config = self._model.config.get_text_config()
        return LoadedModel(
            tokenizer=HubTokenizer(models.tokenizer, text_config.vocab_size),
            device=torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            shape=shape_from_config(text_config.to_dict()),
            parameters=self._model.num_parameters(),
            context_length=getattr(text_config, "max_position_embeddings", None),
            model_commit=model_commit(config),
            observed_settings=_observed(models),
            findings=tuple(ignored_at_load(self._options, self._model, config.gpus_per_process)),
        )

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        self.begin()
        size = self._config.batch_size
        return [
            generation
            for start in range(0, len(requests), size)
            for generation in self.run_batch(requests[start : start + size])
        ]

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        """Batches of what has arrived when the one before is done: it does not join requests to a running batch."""
        self.begin()
        generations: list[Generation] = []
        waiting: list[Request] = []
        while waiting or not arrivals.is_over:
            waiting += arrivals.take(0.0 if waiting else None)
            batch, waiting = waiting[: self._config.batch_size], waiting[self._config.batch_size :]
            if batch:
                generations += self.run_batch(batch)
        return generations

    def delivered(self) -> int | None:
        return self._delivered.tokens

    def drain(self) -> None:
        self._tell("drain")
        if self._device.type == "cuda":
            with device_errors():
                torch.cuda.synchronize(self._device)
        if self._followers is not None:
            self._followers.answers()

    def reset_caches(self) -> bool:
        return True  # every call of generate makes its own cache and drops it, static ones too

    def memory(self) -> MemoryUse:
        """Of all GPUs of the model together."""
        self._tell("memory")
        on_gpu = self._device.type == "cuda"
        own = MemoryUse(
            weights_mb=self._weight_bytes / 1e6,
            # An assistant has a cache of its own that generate does not hand out.
            kv_cache_mb=None if self._assistant is not None else _mb(self._caches.most_bytes),
            peak_mb=torch.cuda.max_memory_allocated(self._device) / 1e6 if on_gpu else _peak_process_memory_mb(),
        )
        if self._followers is None:
            return own
        every = [own, *(use for _, use in self._followers.answers() if isinstance(use, MemoryUse))]
        return MemoryUse(
            weights_mb=_sum([one.weights_mb for one in every]),
            kv_cache_mb=_sum([one.kv_cache_mb for one in every]),
            peak_mb=_sum([one.peak_mb for one in every]),
        )

    def findings(self) -> tuple[str, ...]:
        """What was asked for and, as the work showed, did not happen. Asked once, after the window."""
        return tuple(ignored_at_work(self._options, self._model, self._caches, self._delivered))

    def padding_fraction(self) -> float | None:
        return self._padded / self._positions if self._positions else None

    def close(self) -> None:
        del self._model, self._assistant
        self._part()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def begin(self) -> None:
        """Before the first batch of a pass, on every rank."""
        self._tell("begin")
        torch.manual_seed(self._config.seed)
        self._padded, self._positions = 0, 0

    def run_batch(self, batch: Sequence[Request]) -> list[Generation]:
        """Generate for all of `batch` at once, on every rank."""
        self._tell("batch", batch)
        started = time.perf_counter()
        longest = max(len(request.token_ids) for request in batch)
        padding = [longest - len(request.token_ids) for request in batch]
        self._padded += sum(padding)
        self._positions += longest * len(batch)
        rows = [[self._pad_id] * pad + list(one.token_ids) for pad, one in zip(padding, batch, strict=True)]
        masks = [[0] * pad + [1] * (longest - pad) for pad in padding]
        streamer = StampingStreamer(self._delivered, self._ends(batch[0]), [one.max_output_tokens for one in batch])
        with self._working(), torch.inference_mode():
            made = self._model.generate(
                input_ids=torch.tensor(rows, device=self._device),
                attention_mask=torch.tensor(masks, device=self._device),
                generation_config=self._generation_config(batch),
                assistant_model=self._assistant,
                streamer=streamer,
            )
            outputs = made.sequences[:, longest:].tolist()
        self._caches.see(made.get("past_key_values"))
        return [
            self._generation(request, output, started, streamer) for request, output in zip(batch, outputs, strict=True)
        ]

    def _generation_config(self, batch: Sequence[Request]) -> GenerationConfig:
        """For the whole batch: it runs to the end of its longest output, and rows that want less are cut."""
        sampling, options = self._config.sampling, self._options
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or 0,
            }
        if options.torch_compile and options.cache_is_static:
            chosen["compile_config"] = _compile_config(options)
        else:
            chosen["disable_compile"] = True  # generate compiles with a static cache on a GPU without being asked
        return GenerationConfig(
            max_new_tokens=max(request.max_output_tokens for request in batch),
            eos_token_id=sorted(self._ends(batch[0])) or None,
            pad_token_id=self._pad_id,
            cache_implementation=options.cache_implementation,
            prompt_lookup_num_tokens=options.prompt_lookup_num_tokens,
            return_dict_in_generate=True,
            **chosen,
        )

    def _ends(self, request: Request) -> frozenset[int]:
        return frozenset() if request.ignore_eos else self._eos_ids

    def _generation(
        self, request: Request, output: list[int], started_s: float, streamer: StampingStreamer
    ) -> Generation:
        """Cut after the row's own end token or limit: what follows is padding while longer rows went on."""
        ends = self._ends(request)
        output = output[: request.max_output_tokens]
        count = next((index + 1 for index, token in enumerate(output) if token in ends), len(output))
        times, tokens = _deliveries(streamer, count)
        return Generation(
            request_index=request.index,
            output_ids=tuple(output[:count]),
            finish_reason="stop" if output[count - 1] in ends else "length",
            started_s=started_s,
            delivery_s=times,
            delivery_tokens=tokens,
            cached_input_tokens=0,  # every call of generate starts with an empty cache
        )

    def _load_together(self, config: ExperimentConfig, context: JobContext) -> Models:
        """Every rank reads its part."""
        try:
            if self._rank == 0 and config.gpus_per_process > 1:
                self._followers = Followers(config, context)
                self._followers.answers()  # all have started, so waiting for them in the group ends
                self._meeting = self._followers.meeting
            with self._working():
                if self._meeting is not None:
                    join_group(self._rank, config.gpus_per_process, self._meeting, self._device)
                return load_models(config, self._options, self._device)
        except JobError:
            self._part()
            raise

    def _part(self) -> None:
        if self._followers is not None:
            self._followers.close()
            self._followers = None
            leave_group()

    def _tell(self, *message: object) -> None:
        if self._followers is not None:
            self._followers.tell(*message)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Where another rank failed, this one sees no more than that it is gone: the other's reason is the reason."""
        try:
            with device_errors():
                yield
        except (RuntimeError, GpuUnusable):
            cause = self._followers.failure() if self._followers is not None else None
            if cause is not None:
                raise cause from None
            raise


def _choose_device(config: ExperimentConfig, wanted: str, gpu_uuids: Sequence[str], rank: int) -> torch.device:
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
    if not available or wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.device_count() < config.gpus_per_process:
        raise GpuUnusable(
            f"gpus_per_process is {config.gpus_per_process}, and PyTorch sees {torch.cuda.device_count()} GPUs.",
            "Give the job more GPUs, or lower gpus_per_process.",
        )
    return torch.device("cuda", rank)


def _compile_config(options: PytorchOptions) -> CompileConfig:
    chosen = CompileConfig(
        mode=options.torch_compile_mode or "default",
        fullgraph=options.torch_compile_fullgraph,
        dynamic=options.torch_compile_dynamic,
    )
    chosen._compile_all_devices = True  # it would leave the CPU out
    return chosen


def _observed(models: Models) -> dict[str, str]:
    model = models.model
    observed = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "attn_implementation": str(getattr(model.config, "_attn_implementation", None)),
        "torch_threads": str(torch.get_num_threads()),
        "cuda": str(torch.version.cuda),
    }
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        observed["quantization"] = str(quantizer.quantization_config.quant_method.value)
    if models.assistant is not None:
        if models.assistant_commit is not None:
            observed["assistant_commit"] = models.assistant_commit
        observed["assistant_tokens"] = str(models.assistant.generation_config.num_assistant_tokens)
    return observed


def _deliveries(streamer: StampingStreamer, count: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Times (s) and sizes of the steps that brought a row's first `count` tokens."""
    times: list[float] = []
    tokens: list[int] = []
    for moment_s, brought in zip(streamer.step_s, streamer.step_tokens, strict=True):
        left = count - sum(tokens)
        if left <= 0:
            break
        times.append(moment_s)
        tokens.append(min(brought, left))
    return tuple(times), tuple(tokens)


def _peak_process_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _mb(size: int | None) -> float | None:
    return None if size is None else size / 1e6


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
