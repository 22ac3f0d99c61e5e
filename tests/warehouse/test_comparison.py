"""The statistics of a comparison and the gate: ratios, intervals, conditions and decisions."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.stats

from tests.bench.statistics import false_alarms
from warehouse.compare import MetricComparison
from warehouse.comparison.gate import Decision, decide, exit_code, gate_confidence, parse_condition
from warehouse.comparison.ratio import Ratio, paired_ratio, welch_ratio
from warehouse.comparison.words import change_with_interval, figures, gate_line, verdict
from warehouse.errors import WarehouseError

A = [10.0, 11.0, 10.4, 10.9]
B = [9.1, 9.9, 9.6, 9.5]


def test_paired_is_student_t_on_log_ratios() -> None:
    ratio = paired_ratio(A, B)
    expected = scipy.stats.ttest_rel(np.log(B), np.log(A)).confidence_interval(0.95)
    assert ratio.interval() == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert ratio.value == pytest.approx(scipy.stats.gmean(B) / scipy.stats.gmean(A))
    assert (ratio.method, ratio.n) == ("paired", 4)


def test_welch_allows_unequal_spreads_and_numbers() -> None:
    b = [8.0, 9.9, 12.0]
    expected = scipy.stats.ttest_ind(np.log(b), np.log(A), equal_var=False).confidence_interval(0.9)
    ratio = welch_ratio(A, b)
    assert ratio.interval(0.9) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert (ratio.method, ratio.n_a, ratio.n_b, ratio.n) == ("welch", 4, 3, 3)


def test_ratio_of_b_to_a_is_the_inverse_of_a_to_b() -> None:
    there, back = welch_ratio(A, B).interval() or (0, 0), welch_ratio(B, A).interval() or (0, 0)
    assert there == pytest.approx((1 / back[1], 1 / back[0]))


@pytest.mark.parametrize("n", [3, 10])
def test_smallest_detectable_difference_is_shown_in_four_of_five_cases(n: int) -> None:
    """With the spread known, as the estimate takes it to be."""
    spread = 0.02
    rise = Ratio("paired", n, n, 0.0, spread / math.sqrt(n), n - 1.0).detectable()
    assert rise is not None
    draw, shown = np.random.default_rng(n), 0
    for _ in range(2000):
        b = (1 + rise) * np.exp(draw.normal(0, spread, size=n))
        lower, _upper = paired_ratio([1.0] * n, list(b)).interval() or (0, 0)
        shown += lower > 1
    assert shown / 2000 == pytest.approx(0.8, abs=0.03)


def test_constant_samples_give_an_interval_without_width() -> None:
    for ratio in (paired_ratio([2.0] * 3, [3.0] * 3), welch_ratio([2.0] * 3, [3.0] * 3)):
        assert ratio.interval() == (ratio.value, ratio.value)
        assert ratio.value == pytest.approx(1.5)
        assert ratio.detectable() == 0.0
    assert welch_ratio([2.0] * 3, [1.0, 2.0, 4.0]).interval() is not None


def test_two_wild_cycles_do_not_overflow() -> None:
    lower, upper = paired_ratio([1e-300, 1e300], [1e300, 1e-300]).interval() or (1, 1)
    assert (lower, upper) == (0.0, math.inf)
    assert paired_ratio([1.0], [2.0]).interval() is None
    assert welch_ratio([1.0], [2.0, 3.0]).interval() is None


@pytest.mark.parametrize(
    ("text", "rising", "limit"),
    [
        ("energy_per_output_token_j > +3%", True, 1.03),
        (" ttft_p95_ms>10.5 % ", True, 1.105),
        ("output_tokens_per_second < -3%", False, 0.97),
        ("total_energy_j > -2%", True, 0.98),
    ],
)
def test_condition_says_what_is_worse_and_by_how_much(text: str, rising: bool, limit: float) -> None:
    condition = parse_condition(text)
    assert condition.rising is rising
    assert condition.limit == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "energy", "energy > 3", "energy >= 3%", "energy = 3%", "3% > energy", "a > 3% x"])
def test_what_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(WarehouseError, match=r"is not a condition.*energy_per_output_token_j > \+3%") as raised:
        parse_condition(text)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("percent", ["9" * 400, "100001", "1000000"])
def test_a_limit_that_nothing_could_reach_is_refused_in_a_short_line(percent: str) -> None:
    with pytest.raises(WarehouseError, match="give at most 100000 %") as raised:
        parse_condition(f"energy > {percent}%")
    assert raised.value.exit_code == 2
    assert len(str(raised.value)) < 200
    assert parse_condition("energy > 100000%").limit == 1001.0


def test_nothing_can_fall_by_all_of_itself() -> None:
    with pytest.raises(WarehouseError, match="100 % or more"):
        parse_condition("energy < -100%")


def judged(condition: str, log_ratio: float, error: float, n: int = 5, confounded: str | None = None) -> Decision:
    ratio = Ratio("paired", n, n, log_ratio, error, n - 1.0)
    return decide(parse_condition(condition), ratio, confounded, 0.95)


def test_gate_has_three_answers() -> None:
    assert judged("x > +3%", 0.10, 0.01).outcome == "regressed"
    assert judged("x > +3%", 0.00, 0.005).outcome == "within"
    assert judged("x > +3%", 0.03, 0.01).outcome == "inconclusive"
    assert judged("x < -3%", -0.10, 0.01).outcome == "regressed"
    assert judged("x < -3%", 0.10, 0.01).outcome == "within"


def ratio_of(change: float, error: float, n: int = 5) -> Ratio:
    return Ratio("paired", n, n, math.log1p(change), error, n - 1.0)


@pytest.mark.parametrize(
    ("rise", "told"),
    [
        (0.034, "3.4 %"),
        (3.0, "300 %"),
        (18.2, "19.2 times"),
        (190.7, "192 times"),
        (4321.0, "4,320 times"),
        (1e300, ">100,000,000 times"),
        (math.inf, ">100,000,000 times"),
    ],
)
def test_no_change_is_told_with_an_exponent(rise: float, told: str) -> None:
    unit = Ratio("paired", 2, 2, 0.0, 1.0, 1.0).detectable()
    assert unit is not None
    ratio = Ratio("paired", 2, 2, 0.0, math.log1p(rise) / math.log1p(unit), 1.0)
    compared = MetricComparison("total_energy_j", 1.23e-5, 123_456.7, ratio, None, None)
    as_much = " as much" if told.endswith("times") else ""
    assert f"it would have had to be {told}{as_much} (95 % interval" in verdict(compared, 0.95)
    row = figures(compared, ratio, 0.95)
    assert row[5] == told
    assert row[1:3] == ["0.0000123", "123,457"]
    assert [text for text in [*row[1:], verdict(compared, 0.95)] if re.search(r"\de[+-]?\d", text)] == []


@pytest.mark.parametrize(
    ("metric", "change", "error", "expected"),
    [
        (
            "energy_per_output_token_j",
            19.0,
            0.05,
            "B uses 20 times as much energy per output token, 95 % interval 17.4 to 23 times.",
        ),
        ("output_tokens_per_second", 9.5, 0.05, "B gives 10.5 times as many output tokens/s, 95 % interval"),
        ("output_tokens_per_second", 7.0, 0.05, "B gives 700 % more output tokens/s, 95 % interval 596 to 819 %."),
        ("total_energy_j", -0.999, 0.05, "B uses 99.900 % less energy, 95 % interval 99.885 to 99.913 %."),
        ("itl_mean_ms", 99.0, 0.01, "B's mean ITL is 100 times as long, 95 % interval 97.3 to 103 times."),
        ("mean_power_w", 99.0, 0.01, "B's mean power (mean_power_w) is 100 times as high, 95 % interval"),
    ],
)
def test_a_shown_difference_is_told_in_one_measure(metric: str, change: float, error: float, expected: str) -> None:
    compared = MetricComparison(metric, 1.0, 1.0, ratio_of(change, error), None, None)
    assert verdict(compared, 0.95).startswith(expected)


@pytest.mark.parametrize("error", [0.01, 0.3, 0.6, 0.75, 0.9, 1.5, 3.0, 400.0])
@pytest.mark.parametrize("change", [-0.9, 0.0, 0.5, 2.57, 9.9])
def test_all_that_is_told_of_a_change_is_in_one_measure(change: float, error: float) -> None:
    """The sentence, the chart's line and the gate: percent, or all of it factors where some of it is 1000 % or more."""
    ratio = ratio_of(change, error)
    interval, detectable = ratio.interval(), ratio.detectable()
    assert interval is not None
    assert detectable is not None
    compared = MetricComparison("total_energy_j", 1.0, 1.0, ratio, None, None)
    is_shown = not interval[0] <= 1 <= interval[1]
    told = [
        verdict(compared, 0.95).replace("95 % interval", ""),
        change_with_interval(ratio.value, interval, detectable),
    ]
    told += [] if is_shown else [figures(compared, ratio, 0.95)[5]]
    are_many = max(interval[1] - 1, 0 if is_shown else detectable) >= 10
    assert [("times" in text, "%" in text) for text in told] == [(are_many, not are_many)] * len(told)
    gate = gate_line(decide(parse_condition("total_energy_j > +3%"), ratio, None, 0.95)).partition("interval ")[2]
    assert ("times" in gate, "%" in gate) == (interval[1] >= 11, interval[1] < 11)


def test_a_wide_interval_is_told_in_factors_of_two_digits_or_more() -> None:
    assert change_with_interval(3.57, (0.1123, 117.4), 110.9) == "3.57 times (0.11 to 117 times)"
    assert change_with_interval(3.57, (1e-9, math.inf), 110.9) == "3.57 times (<0.001 to >100,000,000 times)"
    assert change_with_interval(0.9, (0.8, 1.0), 0.1) == "-10 % (-20 % to 0 %)"
    assert change_with_interval(1.12, (0.97, 1.29), 0.2) == "+12.0 % (-3.0 % to +29.0 %)"


def test_confounded_never_passes_but_can_fail() -> None:
    assert judged("x > +3%", 0.0, 0.005, confounded="GPU confounded").outcome == "inconclusive"
    assert judged("x > +3%", 0.1, 0.005, confounded="GPU confounded").outcome == "regressed"


def test_fewer_than_three_pairs_decide_nothing() -> None:
    for log_ratio in (0.0, 0.5):
        decision = judged("x > +3%", log_ratio, 1e-9, n=2)
        assert (decision.outcome, decision.reason) == ("inconclusive", "2 pairs; at least 3 are needed")


def test_many_conditions_share_the_chance_of_a_false_alarm() -> None:
    assert gate_confidence(3) == pytest.approx(1 - 0.05 / 3)
    assert false_alarms("paired", 3) <= 0.06
    assert false_alarms("welch", 3) <= 0.06


def test_exit_code_is_that_of_the_worst_answer() -> None:
    bad, good, open_ = judged("x > +3%", 0.1, 0.01), judged("x > +3%", 0, 0.001), judged("x > +3%", 0.03, 0.01)
    assert [exit_code([good, *more], strict=False) for more in ([], [open_], [open_, bad])] == [0, 0, 1]
    assert [exit_code([good, *more], strict=True) for more in ([], [open_], [open_, bad])] == [0, 3, 1]
