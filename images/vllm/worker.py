"""What vLLM's workers are asked, in the processes that hold the model; nothing of it runs in the window.

vLLM mixes the class that `worker_extension_cls` names into its own worker, and calls the methods by name.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from typing import Any

import torch


class WorkerFacts:
    """Answers are plain numbers and text, because they travel between processes."""

    device: Any
    model_runner: Any
    vllm_config: Any

    def joulehouse_memory(self) -> dict[str, float | None]:
        """This worker's share of weights_mb, kv_cache_mb and peak_mb (MB, 10^6 bytes), those of a draft model included.

        The peak is that of the device's allocator, whose record vLLM starts anew once the weights are loaded, or of
        this process on the CPU.
        """
        runner = self.model_runner
        models = [one for one in (runner.get_model(), runner.get_draft_model()) if one is not None]
        weights = _bytes_of(tensor for model in models for tensor in (*model.parameters(), *model.buffers()))
        weights += sum(map(_packed_bytes, {layer for model in models for layer in model.modules()}))
        if self.device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(self.device))
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
        return {
            "weights_mb": weights / 1e6,
            "kv_cache_mb": _bytes_of(_tensors(self.model_runner.kv_caches)) / 1e6,
            "peak_mb": peak / 1e6,
        }

    def joulehouse_settings(self) -> dict[str, str]:
        """What is decided only here, once the model and its attention layers are made."""
        groups = getattr(self.model_runner, "attn_groups", ())
        backends = sorted({one.backend.get_name() for group in groups for one in group})
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device.type)
        return {
            "device": name,
            "attention_backend": "+".join(backends),
            "cudagraph_mode": self.vllm_config.compilation_config.cudagraph_mode.name,
            "torch_threads": str(torch.get_num_threads()),
        }


def _bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Of the storages behind them, each counted once: layers share some."""
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def _packed_bytes(layer: Any) -> int:
    """Of a linear layer's weight where vLLM for the CPU keeps it as oneDNN wants it, and PyTorch sees an empty one."""
    if not hasattr(layer, "cpu_linear") or layer.weight.numel():
        return 0
    rows = getattr(layer, "output_size_per_partition", layer.output_size)
    columns = getattr(layer, "input_size_per_partition", layer.input_size)
    return int(rows * columns * layer.weight.element_size())


def _tensors(nested: Any) -> Iterator[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for one in nested:
            yield from _tensors(one)
