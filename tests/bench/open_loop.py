"""How closely an open loop keeps to its schedule, on the stub, in real time; beside a backend that cannot keep up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.bench.figures import Figure
from tests.images.stub.jobs import run, stub

_RATE_PER_S = 5.0
_SECONDS = 20
_QUICK_S, _SLOW_S = 0.02, 0.25  # per request, in one slot; requests come every 0.2 s


def open_loop_figures(scratch: Path) -> Iterator[Figure]:
    quick, slow = _measured(scratch / "quick", _QUICK_S), _measured(scratch / "slow", _SLOW_S)
    for name, rows in (("quick", quick), ("slow", slow)):
        for percent, target in ((50, 2.0), (99, 20.0)):
            yield _figure(f"{name} backend: lag behind the schedule, p{percent}", rows["lag_ms"], percent, target)
    handed = [[arrival + lag / 1e3 for arrival, lag in zip(rows["arrival_s"], rows["lag_ms"], strict=True)]
              for rows in (quick, slow)]  # fmt: skip
    yield Figure(
        "largest difference between the two in when a request was handed over",
        "ms",
        [1e3 * abs(one - other) for one, other in zip(*handed, strict=True)],
        20.0,
        max,
    )
    for name, rows in (("quick", quick), ("slow", slow)):
        yield _figure(f"{name} backend: latency from the scheduled arrival, p50", rows["e2e_ms"], 50, None)


def _measured(folder: Path, service_s: float) -> dict[str, list[float]]:
    """Columns of requests.parquet, by arrival."""
    folder.mkdir()
    arrivals = {"process": "poisson", "rate_per_s": _RATE_PER_S}
    document: dict[str, Any] = stub(
        {"n_prompts": int(_RATE_PER_S * _SECONDS), "arrivals": arrivals}, service_s=service_s
    )
    ended = run(folder, {**document, "batch_size": 1})
    assert ended.code == 0, ended.stderr
    table = pq.read_table(ended.directory / "requests.parquet").sort_by("arrival_s")
    return {name: table[name].to_pylist() for name in ("arrival_s", "lag_ms", "e2e_ms")}


def _figure(name: str, values: Sequence[float], percent: int, target: float | None) -> Figure:
    return Figure(f"{name} of {len(values)}", "ms", values, target, _percentile(percent))


def _percentile(percent: int) -> Callable[[Sequence[float]], float]:
    return lambda values: float(np.percentile(values, percent))
