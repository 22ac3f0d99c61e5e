"""Power samples: what is stored of them, and the energy that the views compute from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

from images.contract.parts import DeviceEnergy, EnergyBreakdown
from images.harness.counter import Readings
from images.harness.energy import energy_between
from tests.warehouse.results import make_result, rows, samples_table, save
from warehouse.ingest import ingest
from warehouse.intake.landing import Summary

Samples = list[tuple[float, float | None]]
WINDOW_S = 10.0


def sampled(power: Callable[[float], float], seed: int, start_s: float = 0.0, end_s: float = WINDOW_S) -> Samples:
    """`power` (W) about every 100 ms, never on a mark, in the window and once on each side of it."""
    uneven = np.random.default_rng(seed).uniform(0.02, 0.18, 200)
    times = start_s - 0.07 + np.cumsum(uneven)
    inside = times[(times > start_s) & (times < end_s)]
    return [(t, power(t)) for t in [start_s - 0.07, *inside.tolist(), end_s + 0.06]]


def held_trapezoid(samples: Samples, start_s: float, end_s: float) -> float:
    """Energy (J) another way: numpy's trapezoid over a curve that is given a corner at each mark."""
    inside = [(t, p) for t, p in samples if start_s <= t <= end_s and p is not None]
    times: npt.NDArray[np.float64] = np.array([start_s, *(t for t, _ in inside), end_s])
    powers = np.array([inside[0][1], *(p for _, p in inside), inside[-1][1]])
    return float(np.trapezoid(powers, times))


def breakdown(*integrals_j: float | None) -> EnergyBreakdown:
    known = [one for one in integrals_j if one is not None]
    return EnergyBreakdown(
        integral_j=sum(known) if len(known) == len(integrals_j) else None,
        devices=[
            DeviceEnergy(gpu_uuid=f"GPU-{index}", energy_j=one, integral_j=one) for index, one in enumerate(integrals_j)
        ],
    )


def per_gpu(db: Path) -> list[tuple[Any, ...]]:
    return rows(db, "SELECT gpu_index, samples, energy_j FROM energy_from_samples_per_gpu ORDER BY ALL")


def energy_of(root: Path, db: Path, *gpus: Sequence[tuple[float, float | None]], **fields: Any) -> float | None:
    """Energy (J) that the view makes of the samples of one run of 10 s."""
    save(root, make_result(seconds=WINDOW_S, **fields), samples=samples_table(*gpus))
    assert ingest([root], db) == Summary(new=1)
    ((energy,),) = rows(db, "SELECT energy_j FROM energy_from_samples")
    return None if energy is None else float(energy)


CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 250.0,
    "ramp": lambda t: 100.0 + 30.0 * t,
    "square": lambda t: 600.0 if t % 2 < 1 else 90.0,
    "only in the window": lambda t: 500.0 if 0 <= t <= WINDOW_S else 70.0,
}


@pytest.mark.parametrize("name", CURVES)
def test_energy_is_the_integral_of_the_curve(name: str, root: Path, db: Path) -> None:
    samples = sampled(CURVES[name], seed=1)
    energy = energy_of(root, db, samples)
    assert energy == pytest.approx(held_trapezoid(samples, 0.0, WINDOW_S), rel=1e-12)
    truth = {"constant": 2500.0, "ramp": 2500.0, "square": 3450.0, "only in the window": 5000.0}[name]
    assert energy == pytest.approx(
        truth, rel={"constant": 1e-12, "only in the window": 1e-12, "ramp": 1e-3}.get(name, 0.1)
    )


@pytest.mark.parametrize("name", CURVES)
def test_energy_is_what_the_harness_makes_of_the_same_samples(name: str, root: Path, db: Path) -> None:
    samples = sampled(CURVES[name], seed=4)
    without = [(t, math.nan if index % 5 == 2 else p) for index, (t, p) in enumerate(samples)]
    times, powers = np.array(without, dtype=float).T
    readings = Readings(times, np.full_like(times, math.nan), powers)
    stored = energy_between(readings, 0.0, WINDOW_S, gpu_uuid="GPU-0", power_method="instant", traits=None)
    made = EnergyBreakdown(integral_j=stored.integral_j, devices=[stored])
    energy_of(root, db, [(t, None if math.isnan(p or 0) else p) for t, p in without], energy_breakdown=made)
    for view in ("energy_from_samples", "energy_from_samples_per_gpu"):
        assert rows(db, f"SELECT ratio, samples FROM {view}") == [(pytest.approx(1.0, rel=1e-12), stored.samples)]


def test_edges_by_hand(root: Path, db: Path) -> None:
    """3 s at the first sample's 100 W, 2 s from there to 200 W, 5 s at the last one's 200 W."""
    assert energy_of(root, db, [(-1.0, 9e9), (3.0, 100.0), (5.0, 200.0), (11.0, 9e9)]) == 300.0 + 300.0 + 1000.0


def test_a_sample_on_a_mark_is_inside(root: Path, db: Path) -> None:
    assert energy_of(root, db, [(-1.0, 9e9), (0.0, 100.0), (10.0, 300.0), (11.0, 9e9)]) == 2000.0


def test_one_sample_is_held_to_both_marks(root: Path, db: Path) -> None:
    assert energy_of(root, db, [(-1.0, 9e9), (6.0, 100.0), (11.0, 9e9)]) == 1000.0


@pytest.mark.parametrize(
    "samples",
    [[(-1.0, 100.0), (11.0, 100.0)], [(-1.0, 100.0), (1.0, None), (11.0, 100.0)], [(1.0, None), (2.0, None)]],
    ids=["only around", "power only around", "no power at all"],
)
def test_energy_that_nothing_tells_is_null(samples: Samples, root: Path, db: Path) -> None:
    assert energy_of(root, db, samples) is None
    assert per_gpu(db) == [(0, 0, None)]


def test_samples_without_power_are_left_out(root: Path, db: Path) -> None:
    samples = sampled(CURVES["square"], seed=2)
    without = [(t, None if index % 3 == 1 else p) for index, (t, p) in enumerate(samples)]
    energy = energy_of(root, db, without)
    assert energy == pytest.approx(held_trapezoid(without, 0.0, WINDOW_S), rel=1e-12)
    assert rows(db, "SELECT samples FROM energy_from_samples") == [
        (sum(p is not None for t, p in without if 0 <= t <= WINDOW_S),)
    ]


def test_gpus_are_integrated_apart_and_then_summed(root: Path, db: Path) -> None:
    curves = [sampled(curve, seed) for seed, curve in enumerate(CURVES.values())]
    expected = [held_trapezoid(curve, 0.0, WINDOW_S) for curve in curves]
    energy = energy_of(root, db, *curves, energy_breakdown=breakdown(*(2 * one for one in expected)))
    assert energy == pytest.approx(sum(expected), rel=1e-12)
    found = rows(
        db,
        "SELECT gpu_uuid, samples, energy_j, mean_power_w, stored_integral_j, ratio "
        "FROM energy_from_samples_per_gpu ORDER BY gpu_index",
    )
    for index, (curve, one, row) in enumerate(zip(curves, expected, found, strict=True)):
        assert row == (f"GPU-{index}", len(curve) - 2, *(pytest.approx(x) for x in (one, one / 10, 2 * one, 0.5)))
    assert rows(db, "SELECT n_gpus, mean_power_w, stored_integral_j, ratio FROM energy_from_samples") == [
        (4, *(pytest.approx(x) for x in (sum(expected) / 10, 2 * sum(expected), 0.5)))
    ]


def test_runs_do_not_mix(root: Path, db: Path) -> None:
    for number in (1, 2, 3):
        samples = samples_table([(-1.0, 9e9), (2.0 * number, 100.0 * number), (11.0, 9e9)])
        # Without requests, whose primary key would notice, too.
        save(root, make_result(number, seconds=WINDOW_S, n_requests=None), samples=samples)
    ingest([root], db)
    energies = rows(db, "SELECT energy_j FROM energy_from_samples ORDER BY experiment_id")
    assert energies == [(1000.0,), (2000.0,), (3000.0,)]


@pytest.mark.parametrize("known_by", ["energy_breakdown", "environment"])
def test_a_sum_without_one_of_the_gpus_is_null(known_by: str, root: Path, db: Path) -> None:
    whole: Samples = [(1.0, 100.0)]
    fields: dict[str, Any] = {"energy_breakdown": breakdown(1000.0, 1000.0)}
    if known_by == "environment":
        fields = {"environment": {"gpu_uuids": ["GPU-a", "GPU-b"]}}
    assert energy_of(root, db, whole, **fields) is None
    assert rows(db, "SELECT gpu_uuid, energy_j FROM energy_from_samples_per_gpu") == [
        ("GPU-0" if known_by == "energy_breakdown" else "GPU-a", 1000.0)
    ]


def test_one_gpu_without_power_spoils_the_sum_and_not_the_other(root: Path, db: Path) -> None:
    assert energy_of(root, db, [(1.0, 100.0)], [(1.0, None)]) is None
    assert per_gpu(db) == [(0, 1, 1000.0), (1, 0, None)]


@pytest.mark.parametrize(
    ("methodology", "part", "described"),
    [
        ("steady_state", (2.5, 7.25), (2.5, 7.25)),
        ("windowed", (4.0, 4.5), (4.0, 4.5)),
        ("steady_state", None, (0.0, WINDOW_S)),
        ("total", (2.5, 7.25), (0.0, WINDOW_S)),
    ],
)
def test_energy_is_of_the_part_that_the_figures_describe(
    methodology: str, part: tuple[float, float] | None, described: tuple[float, float], root: Path, db: Path
) -> None:
    samples = sampled(CURVES["square"], seed=3)
    energy = energy_of(root, db, samples, measurement_methodology=methodology, steady_state_window=part)
    assert rows(db, "SELECT window_from_s, window_to_s FROM experiments") == [described]
    expected = held_trapezoid(samples, *described)
    assert energy == pytest.approx(expected, rel=1e-12)
    assert rows(db, "SELECT mean_power_w FROM energy_from_samples_per_gpu") == [
        (pytest.approx(expected / (described[1] - described[0])),)
    ]


def test_samples_are_stored_as_they_are(root: Path, db: Path) -> None:
    save(root, make_result(1), samples=samples_table([(-0.1, 71.5), (0.1, None)], [(0.05, 80.0)], temperature_c=None))
    save(root, make_result(2), samples=samples_table([(0.5, 1.0)]))
    save(root, make_result(3))
    assert ingest([root], db) == Summary(new=3)
    columns = "experiment_id, samples.* EXCLUDE (experiment_key)"
    assert rows(db, f"SELECT {columns} FROM samples JOIN experiments USING (experiment_key) ORDER BY ALL") == [
        ("exp_20260102_030405_00000001", 0, -0.1, 71.5, None),
        ("exp_20260102_030405_00000001", 0, 0.1, None, None),
        ("exp_20260102_030405_00000001", 1, 0.05, 80.0, None),
        ("exp_20260102_030405_00000002", 0, 0.5, 1.0, 40.0),
    ]


def test_a_changed_timeseries_replaces_its_samples(root: Path, db: Path) -> None:
    directory = save(root, make_result(1), samples=samples_table([(0.5, 1.0), (0.6, 1.0)]))
    save(root, make_result(2), samples=samples_table([(0.5, 2.0)]))
    ingest([root], db)
    again = save(root / ".scratch", make_result(1), samples=samples_table([(0.5, 3.0)]))
    (again / "timeseries.parquet").replace(directory / "timeseries.parquet")
    assert ingest([root], db) == Summary(updated=1, unchanged=1)
    powers = "SELECT gpu_power_w FROM samples JOIN experiments USING (experiment_key) ORDER BY experiment_id"
    assert rows(db, powers) == [(3.0,), (2.0,)]


def test_a_copy_with_other_samples_is_a_conflict(root: Path, db: Path) -> None:
    save(root, make_result(), samples=samples_table([(0.5, 1.0)]))
    save(root, make_result(), samples=samples_table([(0.5, 3.0)]))
    assert ingest([root], db) == Summary(new=1, quarantined=1)
    assert "other content" in rows(db, "SELECT reason FROM quarantine")[0][0]


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "damaged": (lambda file: file.write_bytes(b"PAR1 not really"), "timeseries.parquet is damaged"),
    "column missing": (
        lambda file: _rewrite(file, "SELECT * EXCLUDE gpu_power_w FROM source"),
        "lacks the columns gpu_power_w",
    ),
    "no time": (
        lambda file: _rewrite(file, "SELECT * REPLACE (NULL::DOUBLE AS timestamp_s) FROM source"),
        "timestamp_s",
    ),
    "NaN": (lambda file: _rewrite(file, "SELECT * REPLACE ('nan'::DOUBLE AS gpu_power_w) FROM source"), "gpu_power_w"),
    "no such GPU": (
        lambda file: _rewrite(file, "SELECT * REPLACE (-1::INTEGER AS gpu_index) FROM source"),
        "gpu_index",
    ),
}


def _rewrite(file: Path, query: str) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE source AS SELECT * FROM read_parquet('{file}')")
        connection.execute(f"COPY ({query}) TO '{file}' (FORMAT parquet)")


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_timeseries_is_quarantined_and_the_rest_lands(name: str, root: Path, db: Path) -> None:
    break_it, reason = BREAKS[name]
    for number in (1, 2, 3):
        directory = save(root, make_result(number), samples=samples_table([(0.5, 1.0 * number)]))
        if number == 2:
            break_it(directory / "timeseries.parquet")
    assert ingest([root], db) == Summary(new=2, quarantined=1)
    assert reason in rows(db, "SELECT reason FROM quarantine")[0][0]
    assert rows(db, "SELECT gpu_power_w FROM samples ORDER BY ALL") == [(1.0,), (3.0,)]
    assert rows(db, "SELECT count(*) FROM experiments") == [(2,)]


def test_a_missing_timeseries_is_one_line_and_the_result_lands(root: Path, db: Path) -> None:
    (save(root, make_result(), samples=samples_table([(0.5, 1.0)])) / "timeseries.parquet").unlink()
    lines: list[str] = []
    assert ingest([root], db, report=lines.append) == Summary(new=1)
    assert [line for line in lines if "timeseries.parquet is missing" in line] == lines
    assert len(lines) == 1
    assert rows(db, "SELECT (SELECT count(*) FROM samples), (SELECT count(*) FROM energy_from_samples)") == [(0, 0)]


def test_a_batch_ends_when_it_is_large(root: Path, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = samples_table([(0.1 * index, 1.0) for index in range(100)])
    moments = (datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(5))
    for number in range(5):
        saved = save(root, make_result(number, n_requests=None), samples=table)
    size = sum(file.stat().st_size for file in saved.iterdir())
    monkeypatch.setattr("warehouse.ingest.BATCH_BYTES", int(1.5 * size))
    assert ingest([root], db, now=lambda: next(moments)) == Summary(new=5)
    batches = "SELECT count(*) FROM ingested_directories GROUP BY ingested_at ORDER BY ingested_at"
    assert rows(db, batches) == [(2,), (2,), (1,)]
    assert rows(db, "SELECT count(*) FROM samples") == [(500,)]


def test_the_views_say_what_their_columns_are(root: Path, db: Path) -> None:
    save(root, make_result())
    ingest([root], db)
    silent = "SELECT column_name FROM duckdb_columns() WHERE comment IS NULL AND table_name LIKE 'energy_from%'"
    assert rows(db, silent) == []
    assert rows(db, "SELECT count(*) FROM duckdb_columns() WHERE table_name LIKE 'energy_from%'") == [(17,)]
