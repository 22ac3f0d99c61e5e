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
    """One prompt, tokenised and cut.

    Attributes:
        due_s: open loop: when it arrives, in seconds after its pass began; None: with its pass.
    """

    index: int
    token_ids: tuple[int, ...]
    max_output_tokens: int
    ignore_eos: bool
    due_s: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one request. Times are `time.perf_counter()` seconds.

    Attributes:
        output_ids: generated ids up to and including the end token, never padding.
        started_s: when work on the request began; None if the backend does not know.
        delivery_s: when each delivery of tokens reached the host; None if the backend stamps none.
        delivery_tokens: tokens in each delivery, same length; they add up to len(output_ids).
        ends_s: when the first and the last token came, of a backend that knows no more than that.
    """

    request_index: int
    output_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    started_s: float | None
    delivery_s: tuple[float, ...] | None
    delivery_tokens: tuple[int, ...] | None
    cached_input_tokens: int | None = None
    ends_s: tuple[float, float] | None = None

    @property
    def first_token_s(self) -> float | None:
        return self.delivery_s[0] if self.delivery_s else self.ends_s and self.ends_s[0]

    @property
    def last_token_s(self) -> float | None:
        return self.delivery_s[-1] if self.delivery_s else self.ends_s and self.ends_s[1]


class Arrivals(Protocol):
    """Requests of an open loop, handed over when they are due by a thread of the harness's own.

    However slow the engine is, the schedule goes on; what has arrived waits here, and the wait is part of its latency.
    """

    def take(self, timeout_s: float | None) -> list[Request]:
        """What has arrived and was not taken yet, in order of arrival.

        Args:
            timeout_s: how long to wait if there is nothing (s); 0 does not wait, None waits until something comes.

        Returns:
            Nothing if the time is over, or if no more will ever come.
        """
        ...

    @property
    def is_over(self) -> bool:
        """Whether every request has been taken."""
        ...


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
        slots: requests that the engine works on at once; None: batch_size.
        observed_settings: what the engine really uses, as far as it says, beside what was asked for.
        findings: `code: what was seen. What to do.`, such as of an option that did not take effect
            (`not_in_effect`).
    """

    tokenizer: Tokenizer
    device: str
    shape: ModelShape | None = None
    parameters: int | None = None
    context_length: int | None = None
    model_commit: str | None = None
    slots: int | None = None
    observed_settings: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Device memory, or that of the process where the model runs on the CPU; None is not known (MB, 10^6 bytes).

    Attributes:
        weights_mb: of the model, once loaded.
        kv_cache_mb: set aside for, or at most held by, keys and values.
        peak_mb: highest since load.
    """

    weights_mb: float | None = None
    kv_cache_mb: float | None = None
    peak_mb: float | None = None


class Backend(Protocol):
    """One inference engine. It raises `JobError`s for what a user can act on."""

    packages: tuple[str, ...]
    """Distributions whose versions belong into the result."""

    def load(self, config: ExperimentConfig, context: JobContext, /) -> LoadedModel: ...

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        """Work through a closed batch and return one generation per request, in any order."""
        ...

    def serve(self, arrivals: Arrivals, /) -> list[Generation]:
        """Work on requests as they arrive, until all have come and are done; one generation each, in any order."""
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

    def memory(self) -> MemoryUse:
        """Asked once, after the window."""
        ...

    def findings(self) -> tuple[str, ...]:
        """What the work showed not to be as asked, as LoadedModel.findings. Asked once, after the window."""
        ...

    def padding_fraction(self) -> float | None:
        """Padded share of the prompt positions computed in the last run; None where nothing is padded."""
        ...

    def close(self) -> None: ...
