"""The schedule of an open loop, and the feed that keeps to it, on the real clock."""

from __future__ import annotations

import math
import statistics
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from images.contract.work import ArrivalProcess
from images.harness.backend import Arrivals, Request
from images.harness.open_loop import Feed, feeding, schedule

Gaps = NDArray[np.float64]


@pytest.fixture(autouse=True)
def clock() -> None:
    """In the place of the standing clock of the other tests: a schedule is kept by a thread that sleeps."""


def gaps(seed: int = 1, count: int = 20_000, **process: Any) -> Gaps:
    return np.diff(schedule(ArrivalProcess(**process), count, seed))


def distance(values: Gaps, others: Gaps) -> float:
    """Largest difference of two samples' distribution functions (Kolmogorov and Smirnov)."""
    both = np.sort(np.concatenate([values, others]))
    shares = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (values, others)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_the_first_request_arrives_at_once_and_times_only_rise() -> None:
    for process in ("fixed", "poisson", "gamma"):
        due_s = schedule(ArrivalProcess(process=process, rate_per_s=3.0), 1000, 1)
        assert due_s[0] == 0.0
        assert (np.diff(due_s) >= 0).all()
        assert len(due_s) == 1000


def test_a_fixed_rate_has_equal_gaps() -> None:
    assert gaps(process="fixed", rate_per_s=8.0, count=100) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("process", "variation"),
    [
        ({"process": "poisson"}, 1.0),
        ({"process": "gamma", "shape": 0.25}, 2.0),
        ({"process": "gamma", "shape": 4.0}, 0.5),
    ],
)
def test_random_gaps_have_the_mean_of_the_rate_and_the_variation_of_their_law(
    process: dict[str, Any], variation: float
) -> None:
    """A gamma law's coefficient of variation is 1 / sqrt(shape); the exponential law is that of shape 1."""
    drawn = gaps(rate_per_s=50.0, **process)
    assert drawn.mean() == pytest.approx(0.02, rel=4 * variation / math.sqrt(len(drawn)))
    assert drawn.std() / drawn.mean() == pytest.approx(variation, rel=0.06)


def test_gamma_of_shape_one_has_the_law_of_poisson_and_another_shape_has_not() -> None:
    poisson = gaps(seed=1, process="poisson", rate_per_s=5.0)
    threshold = 1.95 * math.sqrt(2 / len(poisson))  # exceeded by equal laws once in a thousand
    assert distance(poisson, gaps(seed=2, process="gamma", rate_per_s=5.0, shape=1.0)) < threshold
    assert distance(poisson, gaps(seed=2, process="gamma", rate_per_s=5.0, shape=0.8)) > threshold


def test_a_schedule_comes_back_with_its_seed_and_grows_at_its_end() -> None:
    poisson = ArrivalProcess(process="poisson", rate_per_s=5.0)
    assert schedule(poisson, 50, 1).tolist() == schedule(poisson, 50, 1).tolist()
    assert schedule(poisson, 80, 1)[:50].tolist() == schedule(poisson, 50, 1).tolist()
    assert schedule(poisson, 50, 2)[1:].tolist() != schedule(poisson, 50, 1)[1:].tolist()


def test_a_closed_batch_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="no schedule"):
        schedule(ArrivalProcess(), 3, 1)


def requests(*due_s: float) -> list[Request]:
    return [Request(index, (5,), 4, ignore_eos=False, due_s=due) for index, due in enumerate(due_s)]


def take_all(arrivals: Arrivals) -> list[int]:
    taken = []
    while not arrivals.is_over:
        taken += [request.index for request in arrivals.take(None)]
    return taken


def feed_of(*due_s: float, began_s: float | None = None) -> Feed:
    """One whose thread is the caller: nothing happens before `run`."""
    return Feed(requests(*due_s), time.perf_counter() if began_s is None else began_s)


def test_requests_come_in_the_order_in_which_they_are_due_and_never_before() -> None:
    began_s = time.perf_counter()
    moments: dict[int, float] = {}
    with feeding(requests(0.06, 0.0, 0.03), began_s) as feed:
        while not feed.is_over:
            moments |= {request.index: time.perf_counter() - began_s for request in feed.take(None)}
    assert list(moments) == [1, 2, 0]
    assert all(moments[index] >= due for index, due in enumerate((0.06, 0.0, 0.03)))
    lags_s = [feed.handed_s[index] - began_s - due for index, due in enumerate((0.06, 0.0, 0.03))]
    assert min(lags_s) >= 0.0
    assert statistics.median(lags_s) < 0.03


def test_what_came_while_nobody_took_waits_together_and_in_order() -> None:
    feed = feed_of(0.0, 0.001, 0.001, 0.002)
    feed.run()
    assert not feed.is_over
    assert [request.index for request in feed.take(0.0)] == [0, 1, 2, 3]
    assert feed.is_over


def test_a_take_waits_as_long_as_it_is_told_and_no_longer_than_there_is_something_to_wait_for() -> None:
    later = feed_of(1000.0)
    assert later.take(0.0) == []
    assert later.take(0.02) == []
    assert not later.is_over
    assert feed_of().take(None) == []
    assert feed_of().is_over


def test_take_without_a_limit_wakes_when_a_request_comes() -> None:
    with feeding(requests(0.05), time.perf_counter()) as feed:
        assert [request.index for request in feed.take(None)] == [0]
        assert feed.take(None) == []


def test_a_slow_taker_gets_every_request_once_and_does_not_delay_the_schedule() -> None:
    began_s = time.perf_counter()
    taken = []
    with feeding(requests(*(0.002 * index for index in range(200))), began_s) as feed:
        while not feed.is_over:
            taken += [request.index for request in feed.take(None)]
            time.sleep(0.15)
    assert taken == list(range(200))
    # Handed over one after the other as they were due, not in the three or four looks of the taker.
    assert len(set(feed.handed_s.values())) > 20


def test_several_takers_share_the_requests_without_loss_or_doubling() -> None:
    found: list[list[int]] = [[], [], []]
    with feeding(requests(*(0.001 * index for index in range(150))), time.perf_counter()) as feed:
        takers = [threading.Thread(target=lambda own=own: own.extend(take_all(feed))) for own in found]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(10.0)
    assert sorted(index for own in found for index in own) == list(range(150))


def test_a_taker_that_fails_ends_the_thread_at_once_and_releases_whoever_still_waits() -> None:
    left: list[Feed] = []
    others: list[threading.Thread] = []

    def work_and_fail() -> None:
        with feeding(requests(0.0, 500.0), time.perf_counter()) as feed:
            left.append(feed)
            feed.take(None)
            others.append(threading.Thread(target=take_all, args=(feed,)))
            others[0].start()
            raise RuntimeError("the engine broke")

    with pytest.raises(RuntimeError, match="engine"):
        work_and_fail()
    others[0].join(10.0)
    assert not others[0].is_alive()
    assert left[0].is_over
    assert "arrivals" not in {thread.name for thread in threading.enumerate()}
