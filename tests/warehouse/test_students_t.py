"""Student's t against scipy's."""

from __future__ import annotations

import pytest
from scipy import stats

from warehouse.students_t import correlation_by_chance, two_sided_quantile


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_quantiles_are_scipys(confidence: float) -> None:
    for n in (*range(1, 60), 99, 100, 999, 5000):
        expected = float(stats.t.ppf((1 + confidence) / 2, n))
        assert two_sided_quantile(confidence, n) == pytest.approx(expected, rel=1e-12), n


@pytest.mark.parametrize(("confidence", "n"), [(0.0, 5), (1.0, 5), (float("nan"), 5), (0.95, 0)])
def test_what_has_no_quantile_is_refused(confidence: float, n: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        two_sided_quantile(confidence, n)


def test_chance_of_a_correlation_is_scipys() -> None:
    for n in (3, 4, 5, 10, 50):
        t = 0.9 * ((n - 2) / (1 - 0.81)) ** 0.5
        assert correlation_by_chance(0.9, n) == pytest.approx(2 * float(stats.t.sf(t, n - 2)), rel=1e-9)
        assert correlation_by_chance(-0.9, n) == correlation_by_chance(0.9, n)
