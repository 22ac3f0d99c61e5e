"""How long synthetic prompts and their outputs are."""

from __future__ import annotations

import numpy as np

from images.contract.work import Lengths


def draw_lengths(lengths: Lengths, most: int, count: int, generator: np.random.Generator) -> list[int]:
    """Lengths of `count` prompts or outputs, each from `lengths.minimum` to `most` (tokens).

    fixed: `most`. uniform: every length alike, both ends included. lognormal: median x exp(sigma x z) with z standard
    normal, rounded to whole tokens; what falls outside is set to the nearer end. So the median is the one asked for,
    and the mean below the exp(sigma^2 / 2) x median of the uncut distribution.

    Args:
        most: the workload's maximum (tokens).
    """
    if lengths.distribution == "uniform":
        drawn = generator.integers(lengths.minimum, most, endpoint=True, size=count)
    elif lengths.distribution == "lognormal" and lengths.median is not None:
        spread = np.exp(lengths.sigma * generator.standard_normal(count))
        drawn = np.clip(np.rint(lengths.median * spread), lengths.minimum, most).astype(np.int64)
    else:
        drawn = np.full(count, most)
    return [int(length) for length in drawn]
