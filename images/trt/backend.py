"""TensorRT-LLM through its LLM API: its own batching; token ids in, token ids and its own times out."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.contract.options.trt import TrtOptions
from images.harness.backend import Arrivals, Generation, LoadedModel, MemoryUse, Request
from images.harness.flops import shape_from_config
from images.models.reading import model_commit
from images.models.tokenizer import HubTokenizer
from images.trt.arguments import asked_for, llm_arguments, not_in_effect, observed
from images.trt.builds import build_facts, kept_engines
from images.trt.device import device_name, memory_in_use_mb, require_gpus, require_number_formats
from images.trt.engine import LLM, _tensorrt_engine
from images.trt.errors import engine_errors
from images.trt.generating import Deliveries, generation, sampling_params
from images.trt.model import drafter_commit, drafter_folder, open_model

_LOOK_AGAIN_S = 0.5
"""A thread waits for arrivals no longer than this at a time, so that none outlives a job that is being ended."""


class Backend:
    packages: tuple[str, ...] = ("tensorrt_llm", "tensorrt", "torch", "transformers", "tokenizers")

    def load(self, config: ExperimentConfig, _context: JobContext, /) -> LoadedModel:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        require_gpus(config.gpus_per_process)
        require_number_formats(config)
        self._config = config
        self._options = config.trt or TrtOptions()
        self._delivered = 0
        self._folder = tempfile.TemporaryDirectory(prefix="trt-", ignore_cleanup_errors=True)
        self._model = open_model(config, Path(self._folder.name))
        drafter = drafter_folder(config, Path(self._folder.name) / "drafter")
        commit, drafters_commit = model_commit(config), drafter_commit(config)
        make = _tensorrt_engine.LLM if self._options.engine == "tensorrt" else LLM
        with engine_errors(loading=True):
            arguments = llm_arguments(config, self._model.source, drafter)
            asked = asked_for(arguments)
            with kept_engines(config, commit, drafters_commit) as keeping:
                self._llm = make(**arguments, **keeping)
        used = self._llm.args
        text_config = self._model.text_config
        limits = [getattr(text_config, "max_position_embeddings", None), self._options.max_seq_len]
        return LoadedModel(
            tokenizer=HubTokenizer(self._model.tokenizer, text_config.vocab_size),
            device=device_name(),
            shape=shape_from_config(text_config.to_dict()),
            context_length=min((limit for limit in limits if limit), default=None),
            model_commit=commit,
            slots=used.max_batch_size,
            observed_settings={
                "engine": self._options.engine,
                **observed(used),
                **build_facts(config, self._llm),
                **({} if drafters_commit is None else {"drafter_commit": drafters_commit}),
            },
            findings=tuple(not_in_effect(asked, used)),
        )

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        return self.serve(_AllAtOnce(requests))

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        return asyncio.run(self._stream(arrivals)) if self._options.token_times else self._collect(arrivals)

    def delivered(self) -> int | None:
        return self._delivered

    def drain(self) -> None:
        return None  # every call returns when all its requests are done

    def reset_caches(self) -> bool:
        """There is no call for it; without reuse of blocks nothing is left behind."""
        return not self._options.enable_block_reuse

    def memory(self) -> MemoryUse:
        """The weights lie in the engine's own process, which does not say how much of the whole they are."""
        return MemoryUse(peak_mb=memory_in_use_mb())

    def findings(self) -> tuple[str, ...]:
        return ()

    def padding_fraction(self) -> float | None:
        return None

    def close(self) -> None:
        self._llm.shutdown()
        self._folder.cleanup()

    def _collect(self, arrivals: Arrivals) -> list[Generation]:
        """Hand over what comes, then wait for each; the engine says when tokens came."""
        running: list[tuple[Request, Any]] = []
        while not arrivals.is_over:
            running += [(request, self._submit(request, streaming=False)) for request in arrivals.take(None)]
        done = []
        for request, result in running:
            with engine_errors(loading=False):
                result.result()
            done.append(self._generation(request, result, None))
            self._delivered += len(done[-1].output_ids)
        return done

    async def _stream(self, arrivals: Arrivals) -> list[Generation]:
        """Follow every request's deliveries as they come."""
        running: list[asyncio.Task[Generation]] = []
        while not arrivals.is_over:
            taken = arrivals.take(0.0) or await asyncio.to_thread(arrivals.take, _LOOK_AGAIN_S)
            running += [asyncio.create_task(self._follow(request)) for request in taken]
        return await asyncio.gather(*running)

    async def _follow(self, request: Request) -> Generation:
        deliveries = Deliveries()
        result = self._submit(request, streaming=True)
        with engine_errors(loading=False):
            async for partial in result:
                self._delivered += deliveries.add(len(partial.outputs[0].token_ids), time.perf_counter())
        return self._generation(request, result, deliveries)

    def _submit(self, request: Request, *, streaming: bool) -> Any:
        params = sampling_params(
            request, self._config.sampling, self._model.end_ids, self._model.pad_id, self._config.seed
        )
        with engine_errors(loading=False):
            return self._llm.generate_async(list(request.token_ids), params, streaming=streaming)

    def _generation(self, request: Request, result: Any, deliveries: Deliveries | None) -> Generation:
        cached: int | None = 0
        if self._options.enable_block_reuse:
            # The TensorRT backend does not count them.
            cached = getattr(result, "cached_tokens", None) if self._options.engine == "pytorch" else None
        return generation(request, result, self._model.end_ids, deliveries, cached)


class _AllAtOnce:
    """A closed batch, as arrivals."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = list(requests)

    def take(self, _timeout_s: float | None) -> list[Request]:
        taken, self._requests = self._requests, []
        return taken

    @property
    def is_over(self) -> bool:
        return not self._requests
