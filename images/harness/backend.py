"""What the harness asks of a backend: token ids in, token ids and times out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from images.contract.config import ExperimentConfig
from images.contract.job import JobContext
from images.harness.flops import ModelShape


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, tokenised and cut."""

    index: int
    token_ids: tuple[int, ...]
    max_output_tokens: int
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one request. Times are `time.perf_counter()` seconds.

    Attributes:
        output_ids: generated ids up to and including the end token, never padding.
        started_s: when work on the request began; None if the backend does not know.
        delivery_s: when each delivery of tokens reached the host; None if the backend stamps none.
        delivery_tokens: tokens in each delivery, same length; they add up to len(output_ids).
    """

    request_index: int
    output_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    started_s: float | None
    delivery_s: tuple[float, ...] | None
    delivery_tokens: tuple[int, ...] | None
    cached_input_tokens: int | None = None


class Tokenizer(Protocol):
    """The model's tokenizer, as far as the harness needs it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def encode_chat(self, text: str) -> list[int]:
        """Ids of `text` as a user's turn in the model's chat template."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What is known once the model is in memory.

    Attributes:
        device: the GPU's name, or cpu.
        observed_settings: what the engine really uses, as far as it says, beside what was asked for.
    """

    tokenizer: Tokenizer
    device: str
    shape: ModelShape | None = None
    parameters: int | None = None
    context_length: int | None = None
    model_commit: str | None = None
    observed_settings: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One inference engine. It raises `JobError`s for what a user can act on."""

    packages: tuple[str, ...]
    """Distributions whose versions belong into the result."""

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel: ...

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        """Work through a closed batch and return one generation per request, in any order."""
        ...

    def delivered(self) -> int | None:
        """Output tokens delivered since load; None where the engine does not tell.

        Asked from another thread at any moment after load, in mid-run too: it returns at once, waits for no lock and
        touches no device.
        """
        ...

    def drain(self) -> None:
        """Return when all work is finished and returned; synchronises the device where it is ours."""
        ...

    def reset_caches(self) -> bool:
        """Forget what earlier requests left behind; False if the backend cannot."""
        ...

    def peak_memory_mb(self) -> float | None:
        """Peak device memory since load (MB, 10^6 bytes); None if the model is not on a device."""
        ...

    def padding_fraction(self) -> float | None:
        """Padded share of the prompt positions computed in the last run; None where nothing is padded."""
        ...

    def close(self) -> None: ...
