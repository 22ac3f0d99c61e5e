"""Options of the backend stub."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from images.contract.strict import Options


class StubOptions(Options):
    """No model: sleeps for a told time and makes up deterministic tokens. For plumbing tests."""

    window_s: float = Field(0.1, ge=0.0, description="length of one pass over the workload (s)")
    service_s: float = Field(0.05, ge=0.0, description="open loop: time that one request takes (s)")
    load_s: float = Field(0.0, ge=0.0, description="time that loading takes (s)")
    noise: float = Field(0.0, ge=0.0, description="relative standard deviation of window_s, from seed and cycle")
    fail: Literal[
        "none", "model_unavailable", "out_of_memory", "gpu_unusable", "measurement_failed", "bug", "killed"
    ] = Field("none", description="way to fail")
    hang: Literal["none", "interruptible", "uninterruptible"] = Field(
        "none", description="never return; uninterruptible ignores SIGTERM, as a call stuck in a driver does"
    )
    when: Literal["load", "warm_up", "window"] = Field("window", description="where fail and hang take effect")
    rank: int | None = Field(None, ge=0, description="process in which fail and hang take effect; null is every one")
    slowdown_per_rank: float = Field(
        0.0, ge=0.0, description="each further process's window is longer by this part of window_s"
    )
