"""Energy of prefill and decode against the joules that a scripted GPU really drew in them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from images.contract.job import JobContext
from images.contract.parts import PhaseEnergy
from images.harness.backend import Generation, Request
from images.harness.latency import RequestRecord
from images.harness.measure import measure
from images.harness.meter import Metered
from images.harness.phases import find_phases, split_energy
from tests.gpu_node.gpu import Gpu
from tests.gpu_node.node import Node
from tests.gpu_node.windows import MeasuredWindow, measure_window
from tests.images.harness.fakes import FakeBackend, Phases, answer, config, loaded_model

CALL_COST_S = 30e-6
Times = tuple[float, float, float]
"""Start, first token, last token of a request, in seconds after the window opened."""


def rows(times: Sequence[Times]) -> list[RequestRecord]:
    """Requests that all arrive when the window opens."""
    blank = RequestRecord(0, 0, 8, 4, "length", "", 0.0, None, None, None, None, None, None, None)
    return [
        dataclasses.replace(blank, request_index=index, queue_ms=start * 1e3, ttft_ms=first * 1e3, e2e_ms=last * 1e3)
        for index, (start, first, last) in enumerate(times)
    ]


def batches(count: int, prefill_s: float, decode_s: float, pause_s: float = 0.0) -> list[Times]:
    """One request after the other."""
    each_s = prefill_s + decode_s + pause_s
    return [(at * each_s, at * each_s + prefill_s, at * each_s + prefill_s + decode_s) for at in range(count)]


class Watched:
    """A window in which a GPU draws so much in prefill, so much in decode, and 90 W else.

    Args:
        tick_s: everything happens later, a millisecond after a multiple of it on the node's clock.
    """

    def __init__(
        self,
        node: Node,
        times: Sequence[Times],
        prefill_w: float,
        decode_w: float,
        *,
        interval_s: float = 0.1,
        gpus: Sequence[int] = (0,),
        span_s: tuple[float, float] | None = None,
        tick_s: float = 0.0,
    ) -> None:
        node.call_cost_s = CALL_COST_S
        self._gpus = [node.gpus[gpu] for gpu in gpus]
        self.seconds = max(last for *_, last in times) + tick_s

        def script() -> None:
            self._opened_s = node.clock.now_s()
            later_s = -self._opened_s % tick_s + 0.001 if tick_s else 0.0
            self.times = [(start + later_s, first + later_s, last + later_s) for start, first, last in times]
            for gpu in self._gpus:
                for start, first, last in self.times:
                    for watts, at_s in ((prefill_w, start), (decode_w, first), (90.0, last)):
                        gpu.load(watts - 20.0 * gpu.index, self._opened_s + at_s)

        for gpu in self._gpus:
            gpu.constant(90.0)
        self.window: MeasuredWindow = measure_window(
            node, self.seconds, interval_s=interval_s, gpus=gpus, at_open=script, span_s=span_s
        )
        self.span_s = span_s or (0.0, self.seconds)
        found = split_energy(rows(self.times), self.window.metered, self.span_s)
        assert found is not None
        self.found: PhaseEnergy = found

    @property
    def true_j(self) -> tuple[float, float]:
        """Of prefill and of decode, in the described part."""
        return tuple(  # type: ignore[return-value]
            sum(self._energy_j(gpu, times[phase], times[phase + 1]) for gpu in self._gpus for times in self.times)
            for phase in (0, 1)
        )

    def _energy_j(self, gpu: Gpu, from_s: float, to_s: float) -> float:
        from_s, to_s = (min(max(edge, self.span_s[0]), self.span_s[1]) for edge in (from_s, to_s))
        return gpu.true_energy_j(self._opened_s + from_s, self._opened_s + to_s)


def test_phases_longer_than_the_meters_period_have_the_joules_that_were_drawn_in_them(virtual_node: Node) -> None:
    watched = Watched(virtual_node, batches(4, 1.0, 3.0, pause_s=0.2), 600.0, 300.0, gpus=(0, 1))
    found, (prefill_j, decode_j) = watched.found, watched.true_j
    assert found.note is None
    assert found.prefill_j == pytest.approx(prefill_j, rel=0.003)
    assert found.decode_j == pytest.approx(decode_j, rel=0.003)
    assert found.bound_j is not None
    assert found.bound_j < 0.5 * prefill_j, "a bound that allows everything says nothing"
    assert found.mixed_fraction == 0.0


def test_prefills_shorter_than_the_gap_between_samples_are_not_separable(virtual_node: Node) -> None:
    """Few of 20 ms are met by a sample every 100 ms, and one that is not met looks like decode."""
    found = Watched(virtual_node, batches(20, 0.02, 0.5), 600.0, 300.0).found
    assert (found.prefill_j, found.decode_j) == (None, None)
    assert found.note is not None
    assert found.note.startswith("not separable: the power readings leave a doubt of ")
    assert found.bound_j is not None


def test_a_prefill_that_no_sample_met_is_not_taken_for_one_at_the_power_of_its_neighbours(virtual_node: Node) -> None:
    """All samples show the same power, so only their absence tells of the 5 ms that nobody saw."""
    assert Watched(virtual_node, [(2.0, 2.005, 6.0)], 90.0, 90.0).found.prefill_j is None


def test_the_true_joules_are_within_the_bound_wherever_parts_are_given(virtual_node: Node) -> None:
    gpu, given = virtual_node.gpus[0], []
    for number in range(40):
        random = default_rng([17, number])
        gpu.counter(0.1, 0.0, random.uniform(0.0, 0.1))
        gpu.instant(random.choice([0.0, 0.025, 0.1]))
        gpu.counter_supported = bool(random.uniform() < 0.8)
        prefill_s, decode_s = 10 ** random.uniform(-2.0, 0.3), 10 ** random.uniform(-1.0, 0.6)
        count = max(min(int(8.0 / (prefill_s + decode_s)), 40), 1)
        times = batches(count, prefill_s, decode_s, pause_s=random.choice([0.0, 0.001, 0.05]))
        interval_s = random.choice([0.02, 0.1])
        watched = Watched(virtual_node, times, *random.uniform(150.0, 700.0, 2), interval_s=interval_s)
        found = watched.found
        if found.note is None:
            parts_j = np.array([found.prefill_j, found.decode_j])
            assert np.abs(parts_j - watched.true_j).max() <= found.bound_j
        given.append(found.note is None)
    assert 4 < sum(given) < 36


def test_readings_that_are_always_late_shift_every_change_the_same_way_and_the_bound_holds_that(
    virtual_node: Node,
) -> None:
    """The power reading moves just before each change, so it shows every change a tenth of a second late."""
    virtual_node.gpus[0].instant(0.1)
    watched = Watched(virtual_node, batches(60, 0.4, 0.4), 600.0, 300.0, interval_s=0.02, tick_s=0.1)
    found, (prefill_j, _) = watched.found, watched.true_j
    assert found.prefill_j is not None
    assert found.bound_j is not None
    assert 0.8 * 60 * 0.1 * 300.0 < prefill_j - found.prefill_j <= found.bound_j


def test_the_parts_add_up_to_the_figure_unless_the_methods_disagree(virtual_node: Node) -> None:
    watched = Watched(virtual_node, batches(2, 2.0, 4.0), 600.0, 300.0)
    (device,) = watched.window.metered.devices
    sampled_j = device.energy_j or 0.0

    def split(figure_j: float) -> tuple[float, float]:
        """Both parts, and their bound, if the window's figure were this."""
        metered = dataclasses.replace(
            watched.window.metered, devices=[device.model_copy(update={"energy_j": figure_j})]
        )
        found = split_energy(rows(watched.times), metered, watched.span_s)
        assert found is not None
        return (found.prefill_j or 0.0) + (found.decode_j or 0.0), found.bound_j or 0.0

    (same_j, same_bound_j), (near_j, near_bound_j), (far_j, far_bound_j) = map(
        split, (sampled_j, 1.03 * sampled_j, 1.2 * sampled_j)
    )
    assert [same_j, near_j, far_j] == pytest.approx([sampled_j, 1.03 * sampled_j, sampled_j], rel=1e-3)
    assert near_bound_j - same_bound_j == pytest.approx(0.03 * 2400.0, rel=0.01)
    assert far_bound_j - same_bound_j == pytest.approx(0.2 * 2400.0, rel=0.01)


def test_of_a_part_of_the_window_only_that_part_counts(virtual_node: Node) -> None:
    watched = Watched(virtual_node, batches(3, 2.0, 2.0), 600.0, 300.0, span_s=(5.0, 11.0))
    assert watched.true_j == pytest.approx((600.0 * 3.0, 300.0 * 3.0))
    assert watched.found.prefill_j == pytest.approx(1800.0, rel=0.05)
    assert watched.found.decode_j == pytest.approx(900.0, rel=0.05)


def test_power_that_is_a_mean_over_a_second_separates_no_phases_of_half_a_second(virtual_node: Node) -> None:
    gpu = virtual_node.gpus[0]
    times = batches(8, 0.5, 1.0)
    assert Watched(virtual_node, times, 600.0, 300.0).found.note is None
    gpu.instant_supported = False
    gpu.architecture, gpu.capability_major, gpu.capability_minor = 7, 8, 6
    assert Watched(virtual_node, times, 600.0, 300.0).found.prefill_j is None


def test_requests_that_prefill_while_others_decode_are_not_separable_and_the_share_is_said(virtual_node: Node) -> None:
    times = [(0.0, 1.0, 8.0), (1.0, 3.0, 8.0)]  # for 2 of 8 s the second is in prefill and the first decodes
    metered = Watched(virtual_node, [times[0]], 600.0, 300.0).window.metered
    found = split_energy(rows(times), metered, (0.0, 8.0))
    assert found is not None
    assert found.mixed_fraction == pytest.approx(0.25)
    assert found.prefill_j is None
    assert "in 25% of the busy time" in (found.note or "")


def test_without_the_requests_times_or_a_meter_there_is_no_split(virtual_node: Node) -> None:
    watched = Watched(virtual_node, batches(2, 1.0, 2.0), 600.0, 300.0)
    blind = [dataclasses.replace(row, queue_ms=None) for row in rows(batches(2, 1.0, 2.0))]
    found = split_energy(blind, watched.window.metered, (0.0, 6.0))
    assert found == PhaseEnergy(
        note="not separable: the backend does not say when requests start and when their tokens come"
    )
    assert split_energy(blind, Metered(), (0.0, 6.0)) is None


def test_phases_follow_from_who_waits_for_a_first_token_and_who_has_had_one() -> None:
    found = find_phases(rows([(0.5, 1.0, 4.0), (0.75, 2.0, 3.0), (5.0, 6.0, 6.0)]), (0.0, 7.0))
    assert found is not None
    idle, prefill, decode, mixed = range(4)
    assert found.edges_s.tolist() == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0])
    assert found.kinds.tolist() == [idle, prefill, mixed, decode, idle, prefill, idle]
    assert found.mixed_fraction == pytest.approx(1.0 / 4.5)


class Drawing(FakeBackend):
    """One batch in real time, during which the GPU draws 600 W until the first token and 300 W until the last."""

    gpu: Gpu
    stamps: tuple[float, float, float]

    def run(self, requests: Sequence[Request], /) -> list[Generation]:
        started_s = time.perf_counter()
        self.gpu.load(600.0, started_s)
        time.sleep(0.8)
        first_s = time.perf_counter()
        self.gpu.load(300.0, first_s)
        time.sleep(1.2)
        last_s = time.perf_counter()
        self.gpu.load(90.0, last_s)
        self.stamps = (started_s, first_s, last_s)
        stamped = {"started_s": started_s, "delivery_s": (first_s, last_s), "delivery_tokens": (1, 1)}
        return [answer(request, started_s, (7, 8), **stamped) for request in requests]


def test_a_job_reports_both_parts_and_they_hold_the_truth(gpu_node: Node) -> None:
    gpu = gpu_node.gpus[3]
    gpu.constant(90.0)
    backend = Drawing(loaded=loaded_model(device="a GPU"))
    backend.gpu = gpu
    plan = {"warmup": {"enabled": False}, "baseline": {"enabled": False}, "sample_interval_ms": 20}
    result = measure(
        config({"n_prompts": 2}, plan), JobContext(gpu_uuids=[gpu.uuid]), "exp_test", backend, Phases(), Path()
    ).result
    found = result.extended_metrics
    assert found is not None
    assert found.phase_energy_note is None
    started_s, first_s, last_s = backend.stamps
    parts_j = np.array([found.prefill_energy_j, found.decode_energy_j])
    true_j = [gpu.true_energy_j(started_s, first_s), gpu.true_energy_j(first_s, last_s)]
    assert np.abs(parts_j - true_j).max() <= found.phase_energy_bound_j
    assert found.mixed_phase_fraction == 0.0
