"""What is asked of the model, and how it is measured: the parts of a configuration that every backend shares."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from images.contract.strict import Part


class Lengths(Part):
    """How long synthetic prompts, or their outputs, are; never above the workload's maximum."""

    distribution: Literal["fixed", "uniform", "lognormal"] = Field(
        "fixed", description="fixed is the workload's maximum for every request; what the others draw, the seed decides"
    )
    minimum: int = Field(1, ge=1, description="uniform and lognormal only: none is shorter (tokens)")
    median: int | None = Field(None, ge=1, description="lognormal only, which needs it (tokens)")
    sigma: float = Field(1.0, gt=0.0, le=10.0, description="lognormal only: standard deviation of the logarithm")

    @model_validator(mode="after")
    def _each_where_it_counts(self) -> Self:
        if self.distribution != "lognormal" and self.median is not None:
            raise ValueError("median belongs to distribution lognormal; set that, or remove it")
        if self.distribution == "lognormal" and self.median is None:
            raise ValueError("distribution lognormal needs median, in tokens")
        if self.distribution != "lognormal" and self.sigma != Lengths.model_fields["sigma"].default:
            raise ValueError("sigma belongs to distribution lognormal")
        if self.distribution == "fixed" and self.minimum != Lengths.model_fields["minimum"].default:
            raise ValueError("minimum belongs to distributions uniform and lognormal; fixed is the workload's maximum")
        if self.median is not None and self.median < self.minimum:
            raise ValueError(f"median ({self.median}) is below minimum ({self.minimum})")
        return self


class ArrivalProcess(Part):
    """When requests arrive: all at once (closed), or on a schedule that waits for nobody (open loop)."""

    process: Literal["closed", "fixed", "poisson", "gamma"] = Field(
        "closed",
        description="closed hands all requests of a pass over at once; the others, at a fixed rate or with random gaps "
        "(exponential or gamma, from the seed), need rate_per_s",
    )
    rate_per_s: float | None = Field(
        None, ge=1e-3, le=1e5, description="open loop only: mean arrivals per second (requests/s)"
    )
    shape: float = Field(
        1.0,
        ge=1e-2,
        le=1e4,
        description="gamma only: shape of the gaps' distribution; 1 is poisson, less is more bursty, more is steadier",
    )

    @model_validator(mode="after")
    def _each_where_it_counts(self) -> Self:
        if self.process == "closed" and self.rate_per_s is not None:
            raise ValueError("rate_per_s belongs to an open loop; set process to fixed, poisson or gamma, or remove it")
        if self.process != "closed" and self.rate_per_s is None:
            raise ValueError(f"process {self.process} needs rate_per_s, the mean number of arrivals per second")
        if self.process != "gamma" and self.shape != ArrivalProcess.model_fields["shape"].default:
            raise ValueError("shape belongs to process gamma")
        return self

    @property
    def is_open(self) -> bool:
        return self.process != "closed"


class LatencyLimits(Part):
    """What counts as good service; a request within all limits that are set counts towards goodput."""

    ttft_ms: float | None = Field(None, gt=0.0, description="most time from arrival to the first token (ms)")
    tpot_ms: float | None = Field(None, gt=0.0, description="most time per further token (ms)")


class Workload(Part):
    """What is asked of the model."""

    source: str = Field(
        "builtin",
        min_length=1,
        description="builtin (prompts that come with joulehouse), synthetic (random token ids, as "
        "many as input_lengths says), or the path of a .jsonl file with a `prompt` in every line",
    )
    n_prompts: int = Field(100, ge=1, description="requests in one pass")
    max_input_tokens: int = Field(512, ge=1, description="longer prompts are cut at the end (tokens)")
    max_output_tokens: int = Field(128, ge=1, description="most tokens generated per request (tokens)")
    ignore_eos: bool = Field(
        False, description="generate max_output_tokens, or what output_lengths says, even past the end token"
    )
    chat_template: Literal["off", "model"] = Field("off", description="wrap prompts in the model's template")
    add_special_tokens: bool = Field(True, description="let the tokenizer add BOS and the like")
    order: Literal["given", "shuffled", "longest_first"] = Field(
        "given", description="order of the requests; shuffled uses the seed"
    )
    input_lengths: Lengths = Field(Lengths(), description="synthetic only: of the prompts")
    output_lengths: Lengths = Field(Lengths(), description="synthetic only, and with ignore_eos: of the outputs")
    arrivals: ArrivalProcess = ArrivalProcess()

    @model_validator(mode="after")
    def _has_text_for_a_template(self) -> Self:
        if self.source == "synthetic" and self.chat_template == "model":
            raise ValueError("synthetic prompts are token ids, with no text for a chat_template; set it to off")
        return self

    @model_validator(mode="after")
    def _lengths_can_be_had(self) -> Self:
        for name, lengths, most in (
            ("input_lengths", self.input_lengths, self.max_input_tokens),
            ("output_lengths", self.output_lengths, self.max_output_tokens),
        ):
            if lengths == Lengths():
                continue
            if self.source != "synthetic":
                raise ValueError(f"{name} needs source synthetic; the prompts of '{self.source}' have their own")
            if name == "output_lengths" and not self.ignore_eos:
                raise ValueError("output_lengths needs ignore_eos: true; else the end token decides")
            for field in ("minimum", "median"):
                if (getattr(lengths, field) or 0) > most:
                    raise ValueError(
                        f"{name}.{field} ({getattr(lengths, field)}) is above the workload's maximum ({most})"
                    )
        return self


class Sampling(Part):
    """How the next token is chosen; temperature 0 is greedy, and then the others have no effect."""

    temperature: float = Field(0.0, ge=0.0, description="0 is greedy: always the likeliest token")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="sample from the likeliest tokens that add up to this")
    top_k: int | None = Field(None, ge=1, description="sample from this many likeliest tokens; null is all")


class Warmup(Part):
    """Rounds of work before the window, until throughput is steady."""

    enabled: bool = Field(True, description="turn the warm-up off to measure a cold start")
    full_pass: bool = Field(
        True, description="first one unmeasured pass in the shape of every measured batch, so that none is met anew"
    )
    cv_threshold: float = Field(0.05, gt=0.0, description="coefficient of variation that counts as steady")
    window: int = Field(3, ge=2, description="number of latest rounds the coefficient is taken over")
    max_rounds: int = Field(10, ge=1, description="stop here even if not steady")

    @model_validator(mode="after")
    def _can_converge(self) -> Self:
        if self.max_rounds < self.window:
            raise ValueError(
                f"max_rounds ({self.max_rounds}) is below window ({self.window}), so it can never be steady"
            )
        return self


class Baseline(Part):
    """Idle power before load and after the window."""

    enabled: bool = Field(True, description="measure idle power; needs a meter")
    seconds: float = Field(30.0, ge=1.0, description="length of each idle measurement (s)")


class CoolDownGate(Part):
    """Wait until every GPU of the job is cool, before anything else."""

    max_temperature_c: float | None = Field(None, gt=0.0, description="wait for this; null does not wait (degrees C)")
    timeout_s: float = Field(300.0, gt=0.0, description="measure all the same after this time (s)")


class Measurement(Part):
    """How it is measured."""

    methodology: Literal["total", "steady_state", "windowed"] = Field(
        "total", description="which part of the run the figures describe"
    )
    warmup: Warmup = Warmup()
    baseline: Baseline = Baseline()
    sample_interval_ms: int = Field(100, ge=1, description="power sampling interval (ms)")
    energy: Literal["auto", "nvml", "none"] = Field("auto", description="auto uses NVML where it answers")
    min_window_s: float = Field(0.0, ge=0.0, description="repeat whole passes until the window is this long (s)")
    window_skip_s: float = Field(10.0, ge=0.0, description="windowed only: leave out this much at the start (s)")
    window_length_s: float = Field(30.0, gt=0.0, description="windowed only: and describe this much after it (s)")
    cool_down: CoolDownGate = CoolDownGate()
    limits: LatencyLimits = Field(LatencyLimits(), description="what counts towards goodput")
