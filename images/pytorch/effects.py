"""Whether what was asked for is what happened, by the state of the loaded model and of the caches it made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import Cache, PreTrainedModel

from images.contract.options.pytorch import PytorchOptions
from images.pytorch.streamer import Delivered

_GRAPH_MODES = ("reduce-overhead", "max-autotune")


@dataclass(slots=True)
class SeenCaches:
    """What `generate` made of the KV caches.

    Attributes:
        kind: class of the latest; None: none was seen.
        offloaded: whether it is kept in host memory.
        most_bytes: of keys and values on the device, at the end of a batch, in the largest; None: they cannot be told.
    """

    kind: str | None = None
    offloaded: bool = False
    most_bytes: int | None = None

    def see(self, cache: object) -> None:
        if not isinstance(cache, Cache):
            self.kind = None if cache is None else type(cache).__name__
            return
        self.kind, self.offloaded = type(cache).__name__, bool(cache.offloading)
        size = None if self.offloaded else _cache_bytes(cache)
        self.most_bytes = None if size is None else max(size, self.most_bytes or 0)


def ignored_at_load(options: PytorchOptions, model: PreTrainedModel, gpus: int) -> Iterator[str]:
    """Findings on what the loaded model already shows."""
    used = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if options.attn_implementation not in (None, used):
        yield _finding(f"attn_implementation is {options.attn_implementation}, and the model uses {used}")
    if options.quantization is not None and not _quantized_as(options.quantization, model):
        yield _finding(f"quantization is {options.quantization}, and the model has no such layer")
    if gpus > 1 and not any(_is_sharded(weight) for weight in model.parameters()):
        yield (
            f"not_in_effect: gpus_per_process is {gpus}, and every GPU holds the whole model. Do not quote it as split."
        )


def ignored_at_work(
    options: PytorchOptions, model: PreTrainedModel, caches: SeenCaches, delivered: Delivered
) -> Iterator[str]:
    """Findings on what only work shows: caches, compilation, drafts."""
    asked = options.cache_implementation
    if asked is not None and caches.kind is not None:
        is_static = caches.kind == "StaticCache"
        if is_static != options.cache_is_static or caches.offloaded != options.cache_is_offloaded:
            where = " in host memory" if caches.offloaded else ""
            yield _finding(f"cache_implementation is {asked}, and the model used a {caches.kind}{where}")
    if options.torch_compile:
        yield from _uncompiled(options, model)
    if options.is_assisted and delivered.drafted_steps and not delivered.drafts_taken:
        yield _finding(f"none of the drafted tokens was taken in {delivered.drafted_steps} steps")


def _uncompiled(options: PytorchOptions, model: PreTrainedModel) -> Iterator[str]:
    """By PyTorch's own counters of this process, which compiles nothing else."""
    counters = torch._dynamo.utils.counters
    compiled = getattr(model, "_compiled_call", None) or getattr(model, "_compiled_call_impl", None)
    if compiled is None or not counters["stats"]["unique_graphs"]:
        yield _finding("torch_compile is true, and nothing was compiled")
        return
    over_limit = [reason for reason in counters["unimplemented"] if "recompile limit" in reason]
    if over_limit:
        yield _finding("torch.compile met more shapes than it compiles for, and ran the others uncompiled")
    breaks = sum(counters["graph_break"].values())
    if breaks:
        yield _finding(f"the compiled graph breaks at {breaks} places, and Python runs between its parts")
    if options.torch_compile_mode in _GRAPH_MODES:
        skipped = counters["inductor"]["cudagraph_skips"]
        if model.device.type != "cuda" or skipped:
            why = "there is no GPU" if model.device.type != "cuda" else f"PyTorch skipped {skipped}"
            yield _finding(f"torch_compile_mode is {options.torch_compile_mode}, without CUDA graphs: {why}")


def _finding(seen: str) -> str:
    return f"not_in_effect: {seen}. Do not quote it as such; correct the pytorch section."


def _quantized_as(wanted: str, model: PreTrainedModel) -> bool:
    name = {"bnb_8bit": "Linear8bitLt", "bnb_4bit": "Linear4bit"}[wanted]
    return any(type(module).__name__ == name for module in model.modules())


def _is_sharded(weight: torch.Tensor) -> bool:
    return isinstance(weight, DTensor) and any(placement.is_shard() for placement in weight.placements)


def _cache_bytes(cache: Any) -> int | None:
    """Keys and values of all layers; None if a layer keeps something else, such as a recurrent state."""
    total = 0
    for layer in cache.layers:
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if not isinstance(tensor, torch.Tensor):
                return None
            total += tensor.nbytes
    return total if cache.layers else None
