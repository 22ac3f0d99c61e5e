"""The laws that synthetic lengths follow."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from images.contract.work import Lengths
from images.harness.lengths import draw_lengths

COUNT = 20_000


def drawn(lengths: Lengths, most: int = 1000) -> NDArray[np.int64]:
    return np.array(draw_lengths(lengths, most, COUNT, np.random.default_rng(3)))


def test_fixed_is_the_maximum() -> None:
    assert set(drawn(Lengths(), most=7)) == {7}


def test_uniform_takes_every_length_alike_both_ends_included() -> None:
    lengths, counts = np.unique(drawn(Lengths(distribution="uniform", minimum=3), most=6), return_counts=True)
    assert lengths.tolist() == [3, 4, 5, 6]
    assert counts / COUNT == pytest.approx(0.25, abs=0.02)


def test_lognormal_has_the_median_and_the_sigma_it_was_given() -> None:
    lengths = drawn(Lengths(distribution="lognormal", median=5000, sigma=0.5), most=1_000_000)
    assert np.median(lengths) == pytest.approx(5000, rel=0.03)
    assert np.log(lengths).std() == pytest.approx(0.5, rel=0.03)


def test_lognormal_stays_between_minimum_and_maximum_and_keeps_its_median() -> None:
    lengths = drawn(Lengths(distribution="lognormal", minimum=50, median=100, sigma=1.0), most=200)
    assert (lengths.min(), lengths.max()) == (50, 200)
    assert np.median(lengths) == pytest.approx(100, rel=0.03)
    # The normal law's share beyond log(2) standard deviations stands at each end.
    assert [(lengths == edge).mean() for edge in (50, 200)] == pytest.approx([0.244, 0.244], abs=0.02)
