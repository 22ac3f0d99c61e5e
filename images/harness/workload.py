"""The requests: made once from the tokenised prompts, so that every backend gets the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from images.contract.config import ExperimentConfig
from images.contract.job import ConfigInvalid, MeasurementFailed
from images.harness.backend import LoadedModel, Request, Tokenizer
from images.harness.lengths import draw_lengths
from images.harness.open_loop import schedule
from images.harness.prompts import tokenised_prompts

_WARMUP_STREAM, _OUTPUTS_STREAM = 1, 5  # keep these random numbers apart from each other's and all others of the seed


@dataclass(frozen=True, slots=True)
class PreparedWorkload:
    """Requests in the order they are handed over, and the hash of their prompts.

    Attributes:
        prompts_sha256: of each prompt's length and token ids, as little-endian 64-bit integers, in that order. It names
            what goes in: workloads that differ in outputs, arrivals or sampling only have the same one.
        cut_prompts: how many of them were longer than max_input_tokens.
    """

    requests: tuple[Request, ...]
    prompts_sha256: str
    cut_prompts: int


def prepare_workload(config: ExperimentConfig, loaded: LoadedModel) -> PreparedWorkload:
    """Render, tokenise, cut and order the prompts, and say when each request arrives.

    Raises:
        ConfigInvalid: no or malformed prompts, too few for n_prompts, or too long for the model.
    """
    requests, cut_prompts = _requests_of_pass(config, loaded, number=0)
    digest = hashlib.sha256()
    for request in requests:
        digest.update(np.asarray([len(request.token_ids), *request.token_ids], dtype="<i8").tobytes())
    return PreparedWorkload(_on_schedule(requests, config), digest.hexdigest(), cut_prompts)


def share_of(workload: PreparedWorkload, index: int, config: ExperimentConfig) -> PreparedWorkload:
    """What process `index` of `config.num_processes` works on: every n-th request, counted from 0 again.

    The hash stays that of all requests. In an open loop each request stays due when it was.

    Raises:
        ConfigInvalid: there are fewer requests than processes.
    """
    if len(workload.requests) < config.num_processes:
        raise ConfigInvalid(
            f"workload.n_prompts is {len(workload.requests)}, fewer than num_processes ({config.num_processes}).",
            "Raise workload.n_prompts, or lower num_processes.",
        )
    return replace(workload, requests=_share(workload.requests, index, config))


def prepare_passes(
    workload: PreparedWorkload, config: ExperimentConfig, loaded: LoadedModel, index: int, count: int
) -> list[tuple[Request, ...]]:
    """The requests of process `index` in each of `count` passes, `workload` being the first.

    Every pass has prompts of its own where the source has that many, so that no cache serves it.
    """
    later = [_share(_requests_of_pass(config, loaded, number)[0], index, config) for number in range(1, count)]
    return [workload.requests, *later]


def warmup_pass(measured: Sequence[Request], config: ExperimentConfig, tokenizer: Tokenizer) -> list[Request]:
    """All measured lengths, of inputs and outputs, in their order: every batch shape of the window, with other tokens.

    Compilers and kernel libraries prepare themselves for each shape they meet.
    """
    return _disguised(measured, measured, config, tokenizer, stream=0)


def warmup_round(
    measured: Sequence[Request], config: ExperimentConfig, tokenizer: Tokenizer, index: int
) -> list[Request]:
    """One round of steady work: the lengths of the largest batch, with other tokens in each round."""
    return _disguised(largest_batch(measured, config), measured, config, tokenizer, stream=1 + index)


def largest_batch(measured: Sequence[Request], config: ExperimentConfig) -> Sequence[Request]:
    """The measured batch with the most prompt positions, padding included; of equal ones that with the most output."""
    batches = [measured[start : start + config.batch_size] for start in range(0, len(measured), config.batch_size)]
    return max(batches, key=_size)


def _size(batch: Sequence[Request]) -> tuple[int, int]:
    longest = max(len(request.token_ids) for request in batch)
    return len(batch) * longest, sum(request.max_output_tokens for request in batch)


def _disguised(
    shape: Sequence[Request], measured: Sequence[Request], config: ExperimentConfig, tokenizer: Tokenizer, stream: int
) -> list[Request]:
    """Random prompts of the lengths in `shape`, all of them there at once, also where the window is an open loop.

    The first token differs from every measured prompt's first token, so nothing that is cached here
    can serve the window. Output runs to its full length, so that rounds are alike.
    """
    generator = np.random.default_rng([config.seed, _WARMUP_STREAM, stream])
    allowed = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    firsts = np.setdiff1d(allowed, sorted({request.token_ids[0] for request in measured}))
    if firsts.size == 0:
        raise MeasurementFailed(
            "the measured prompts begin with every token there is, so no warm-up prompt can differ from them.",
            "Set workload.n_prompts lower, or measurement.warmup.enabled: false.",
        )
    requests = []
    for index, request in enumerate(shape):
        ids = generator.choice(allowed, size=len(request.token_ids))
        ids[0] = generator.choice(firsts)
        requests.append(Request(index, tuple(ids.tolist()), request.max_output_tokens, ignore_eos=True))
    return requests


def _requests_of_pass(config: ExperimentConfig, loaded: LoadedModel, number: int) -> tuple[tuple[Request, ...], int]:
    """In the order they are handed over, and how many prompts were cut.

    A prompt keeps its output length wherever it stands.
    """
    workload = config.workload
    prompts, cut = tokenised_prompts(config, loaded.tokenizer, number)
    generator = np.random.default_rng([config.seed, _OUTPUTS_STREAM, number])
    outputs = draw_lengths(workload.output_lengths, workload.max_output_tokens, len(prompts), generator)
    _check_fit(prompts, outputs, config, loaded)
    requests = tuple(
        Request(index, tuple(prompts[at]), outputs[at], workload.ignore_eos)
        for index, at in enumerate(_order(prompts, config))
    )
    return requests, cut


def _check_fit(
    prompts: Sequence[Sequence[int]], outputs: Sequence[int], config: ExperimentConfig, loaded: LoadedModel
) -> None:
    if any(not ids for ids in prompts):
        raise ConfigInvalid("a prompt has no tokens.", "Set workload.add_special_tokens: true or remove empty prompts.")
    needed, longest, output = max(
        (len(ids) + output, len(ids), output) for ids, output in zip(prompts, outputs, strict=True)
    )
    if loaded.context_length is not None and needed > loaded.context_length:
        own_limit = _own_limit(config)
        raise ConfigInvalid(
            f"the longest request, a prompt of {longest} tokens and up to {output} output tokens, needs {needed} "
            f"positions; {own_limit or f'the model {config.model}'} has {loaded.context_length}.",
            "Lower workload.max_input_tokens or workload.max_output_tokens"
            f"{f', or raise {own_limit}' if own_limit else ''}.",
        )


def _own_limit(config: ExperimentConfig) -> str | None:
    """The option that limits positions further than the model does, if it is set."""
    if config.vllm is not None and config.vllm.max_model_len is not None:
        return "vllm.max_model_len"
    if config.trt is not None and config.trt.max_seq_len is not None:
        return "trt.max_seq_len"
    return None


def _order(prompts: Sequence[Sequence[int]], config: ExperimentConfig) -> list[int]:
    """Positions in `prompts`, in the order in which they are handed over."""
    positions = list(range(len(prompts)))
    if config.workload.order == "shuffled":
        # Those of the first synthetic prompts, too, whose draws say nothing about their places.
        return [positions[at] for at in np.random.default_rng([config.seed]).permutation(len(prompts))]
    if config.workload.order == "longest_first":
        return sorted(positions, key=lambda at: len(prompts[at]), reverse=True)
    return positions


def _on_schedule(requests: tuple[Request, ...], config: ExperimentConfig) -> tuple[Request, ...]:
    """Open loop: when each arrives, in its order; all processes share one schedule."""
    arrivals = config.workload.arrivals
    if not arrivals.is_open:
        return requests
    due_s = schedule(arrivals, len(requests), config.seed).tolist()
    return tuple(replace(request, due_s=due) for request, due in zip(requests, due_s, strict=True))


def _share(requests: Sequence[Request], index: int, config: ExperimentConfig) -> tuple[Request, ...]:
    share = requests[index :: config.num_processes]
    return tuple(replace(request, index=at) for at, request in enumerate(share))
