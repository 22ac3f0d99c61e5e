"""Summary views: who is in them, and that their figures are right."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import correlation, linear_regression
from typing import Any

import duckdb
import numpy as np
import pytest
from duckdb import DuckDBPyConnection

from images.contract.config import BackendName, ExperimentConfig
from images.contract.parts import ExtendedEfficiencyMetrics, LatencyStatistics
from images.contract.result import ExperimentResult
from images.contract.work import ArrivalProcess, Lengths, Sampling, Workload
from tests.warehouse.results import CONFIG, START, make_result, rows, save, save_failure
from warehouse.ingest import ingest
from warehouse.intervals import METRICS, PERCENTILES
from warehouse.schema import create_all

GPU = {"gpu_names": ["Test GPU"], "gpu_uuids": ["GPU-a"], "device": "cuda"}
OUTPUT_TOKENS = 30
ENDLESS: dict[str, Any] = {"source": "synthetic", "ignore_eos": True}


def ingested(root: Path, db: Path, *results: ExperimentResult) -> Path:
    for result in results:
        save(root, result)
    ingest([root], db)
    return db


def test_every_column_of_every_view_and_every_macro_says_what_it_is() -> None:
    connection = duckdb.connect()
    create_all(connection)
    silent = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
    assert connection.execute(silent).fetchall() == []
    objects = """
        SELECT view_name, comment FROM duckdb_views() WHERE NOT internal
        UNION ALL SELECT function_name, comment FROM duckdb_functions() WHERE NOT internal
    """
    described = dict(connection.execute(objects).fetchall())
    assert {"runs", "campaigns", "cost", "carbon"} <= described.keys()
    assert all(described.values())


def test_a_columns_own_comment_is_not_overwritten_by_that_of_its_namesake() -> None:
    connection = duckdb.connect()
    create_all(connection)
    comments = "SELECT table_name, comment FROM duckdb_columns() WHERE column_name = 'ttft_mean_ms' ORDER BY ALL"
    found = dict(connection.execute(comments).fetchall())
    assert found["runs"] == found["cycles"] == found["experiments"]
    assert found["campaigns"].startswith("mean over the cycles")


def test_only_runs_that_count_are_in_a_summary(root: Path, db: Path) -> None:
    common: dict[str, Any] = {"environment": GPU, "study": "s"}
    lost: dict[str, Any] = {"measurement_valid": False, "invalid_reasons": ["gpu_lost"]}
    warned: dict[str, Any] = {"measurement_warnings": ["throttled: hot. Cool it.", "throttled: hot again. Cool it."]}
    ingested(
        root,
        db,
        make_result(1, energy_j=30.0, cycle=1, **warned, **common),
        make_result(2, energy_j=60.0, cycle=2, **common),
        make_result(3, energy_j=6e6, cycle=3, **lost, **warned, **common),
        make_result(4, energy_j=6e7, cycle=4, environment=GPU | {"simulated": True}, study="s", **warned),
        # The newer run of cycle 5 replaces the older one.
        make_result(5, energy_j=6e8, cycle=5, **warned, **common),
        make_result(6, energy_j=90.0, cycle=5, **common),
    )
    assert rows(db, "SELECT n_cycles, n_invalid, n_superseded, energy_per_output_token_j FROM campaigns") == [
        (3, 1, 1, 60 / OUTPUT_TOKENS)
    ]
    assert rows(db, "SELECT n_samples, mean FROM energy WHERE metric = 'total_energy_j'") == [(3, 60.0)]
    assert rows(db, "SELECT code, n_warned, n_cycles FROM warning_counts") == [("throttled", 1, 3)]
    assert rows(db, "SELECT first, last FROM drift_over_time WHERE metric LIKE 'energy%'") == [(1.0, 3.0)]
    assert rows(db, "SELECT cycle, reason FROM invalid_runs") == [(3, "gpu_lost")]
    assert rows(db, "SELECT n_campaigns, n_cycles, n_invalid, n_superseded, n_simulated FROM studies") == [
        (2, 3, 1, 1, 1)
    ]


def test_an_invalid_run_without_a_reason_is_still_in_the_list(root: Path, db: Path) -> None:
    ingested(root, db, make_result(measurement_valid=False))
    assert rows(db, "SELECT reason FROM invalid_runs") == [(None,)]


def test_campaigns_show_the_stored_intervals(root: Path, db: Path) -> None:
    ingested(root, db, *(make_result(n, energy_j=30.0 + n, study="s", environment=GPU) for n in (1, 2, 3)))
    for metric in ("energy_per_output_token_j", "output_tokens_per_second", "ttft_mean_ms", "itl_mean_ms",
                   "total_energy_j", "mean_power_w"):  # fmt: skip
        shown = rows(db, f"SELECT {metric}, {metric}_t_lower, {metric}_t_upper FROM campaigns")
        assert shown == rows(db, f"SELECT mean, t_lower, t_upper FROM intervals WHERE metric = '{metric}'")
        assert shown[0][0] is not None


def test_each_metric_is_in_one_of_the_views_by_kind(root: Path, db: Path) -> None:
    every = dict.fromkeys([*METRICS, *PERCENTILES], 1.0)
    latency = LatencyStatistics(**{"ttft_samples": 200, "itl_samples": 200} | every)
    extended = ExtendedEfficiencyMetrics(**every)
    ingested(
        root, db, make_result(energy_j=30.0, energy_adjusted_j=20.0, latency_stats=latency, extended_metrics=extended)
    )
    stored = {name for (name,) in rows(db, "SELECT metric FROM intervals")}
    kinds = [
        [name for (name,) in rows(db, f"SELECT metric FROM {view}")] for view in ("energy", "throughput", "latency")
    ]
    assert stored == {*METRICS, *PERCENTILES}
    assert sorted(name for names in kinds for name in names) == sorted(stored)
    assert {name.split("_")[0] for name in kinds[2]} == {"ttft", "itl", "tpot", "e2e"}


def test_failures_count_beside_the_campaigns_of_their_configuration(root: Path, db: Path) -> None:
    other = CONFIG.model_copy(update={"batch_size": 64})
    results = [
        make_result(1, study="s"),
        make_result(2, study="s", environment=GPU),  # the same on other hardware
        make_result(3),  # and without a study
        make_result(4, study="s", config=other, environment={"simulated": True}),
    ]
    never = {"study": "s", "measurement_config_hash": "f" * 16, "config": None}
    save_failure(root, 1, study="s")
    save_failure(root, 2, study="s", error_class="TimedOut", exit_code=14)
    save_failure(root, 3, study="s", experiment_id=results[0].experiment_id)  # put together later
    save_failure(root, 4)
    save_failure(root, 5, study="s", measurement_config_hash=other.measurement_config_hash())
    save_failure(root, 6, message="earlier", **never)
    save_failure(root, 7, message="later", time=START + timedelta(hours=1), **never)
    save_failure(root, 8, study="broken", measurement_config_hash=None)
    ingested(root, db, *results)
    assert rows(db, "SELECT study, hardware, n_failed FROM campaigns ORDER BY ALL") == [
        ("s", "CPU, Test CPU", 2),
        ("s", "Test GPU", 2),
        (None, "CPU, Test CPU", 1),
    ]
    assert rows(
        db, "SELECT study, measurement_config_hash, n_failed, last_message FROM failed_campaigns ORDER BY 1"
    ) == [
        ("broken", None, 1, "no memory"),
        ("s", "f" * 16, 2, "later"),
    ]
    assert rows(db, "SELECT study, n_failed, n_cycles FROM studies ORDER BY 1") == [
        ("broken", 1, 0),
        ("s", 5, 2),
        (None, 1, 1),
    ]
    mine = f"measurement_config_hash = '{CONFIG.measurement_config_hash()}' AND study = 's'"
    assert rows(db, f"SELECT error_class, exit_code, n_failed FROM failure_summary WHERE {mine} ORDER BY ALL") == [
        ("OutOfMemory", 12, 1),
        ("TimedOut", 14, 1),
    ]


def test_cost_is_gpu_hours_and_energy_with_the_intervals_carried_over(root: Path, db: Path) -> None:
    # 15 and 10 tokens/s on two GPUs, 2 and 3 J per token; and the same without a GPU.
    two = GPU | {"gpu_names": ["Test GPU"] * 2, "gpu_uuids": ["GPU-a", "GPU-b"]}
    ingested(
        root,
        db,
        make_result(1, seconds=2.0, energy_j=60.0, study="gpu", environment=two),
        make_result(2, seconds=3.0, energy_j=90.0, study="gpu", environment=two),
        make_result(3, seconds=2.0, study="cpu", environment={"device": "cpu", "gpu_names": [], "gpu_uuids": []}),
    )
    prices = "price_per_gpu_hour := 2.7, price_per_kwh := 0.36, pue := 1.5"
    parts = "gpu_cost_per_million_output_tokens", "energy_cost_per_million_output_tokens"
    gpu, energy = 1e6 / 12.5 * 2 / 3600 * 2.7, 2.5e6 / 3.6e6 * 1.5 * 0.36
    assert rows(
        db, f"SELECT {', '.join(parts)}, cost_per_million_output_tokens FROM cost({prices}) WHERE study = 'gpu'"
    ) == [pytest.approx((gpu, energy, gpu + energy), rel=1e-12)]
    # t bounds of two cycles are 12.706 x 0.5 off the energy, and so far off the rate that it may be 0.
    bounds = rows(
        db,
        f"SELECT {parts[0]}_t_lower, {parts[0]}_t_upper, {parts[1]}_t_lower, {parts[1]}_t_upper, "
        f"cost_per_million_output_tokens_upper FROM cost({prices}) WHERE study = 'gpu'",
    )[0]
    per_joule = 1e6 / 3.6e6 * 1.5 * 0.36
    assert bounds[0] == pytest.approx(1e6 / (12.5 + 2.5 * 12.7062) * 2 / 3600 * 2.7, rel=1e-4)
    assert bounds[2:4] == pytest.approx([(2.5 - 6.3531) * per_joule, (2.5 + 6.3531) * per_joule], rel=1e-4)
    assert (bounds[1], bounds[4]) == (None, None)
    assert rows(db, f"SELECT {', '.join(parts)} FROM cost({prices}) WHERE study = 'cpu'") == [(None, None)]


def test_what_is_not_given_is_not_known(root: Path, db: Path) -> None:
    ingested(root, db, make_result(seconds=2.0, energy_j=60.0, environment=GPU))
    figures = (
        "gpu_cost_per_million_output_tokens, energy_cost_per_million_output_tokens, cost_per_million_output_tokens"
    )
    ((gpu, energy, both),) = rows(db, f"SELECT {figures} FROM cost(price_per_gpu_hour := 3)")
    assert (gpu, energy, both) == (pytest.approx(1e6 / 15 / 3600 * 3), None, None)
    free = rows(db, f"SELECT {figures} FROM cost(price_per_gpu_hour := 3, price_per_kwh := 0, pue := 1)")
    assert free == [(gpu, 0.0, gpu)]
    assert rows(db, "SELECT gco2_per_million_output_tokens FROM carbon(gco2_per_kwh := 400)") == [(None,)]
    assert rows(db, "SELECT gco2_per_million_output_tokens FROM carbon(gco2_per_kwh := 400, pue := 1.25)") == [
        (pytest.approx(2e6 / 3.6e6 * 1.25 * 400),)
    ]


def with_campaigns(figures: Sequence[tuple[str, float | None, float | None, float | None]]) -> DuckDBPyConnection:
    """Campaigns 0, 1, ... that did the work `prompts`, with energy per output token, tokens/s and TTFT."""
    connection = duckdb.connect()
    create_all(connection)
    for number, (prompts, *values) in enumerate(figures):
        connection.execute(
            """
            INSERT INTO campaign_groups BY NAME SELECT
                $1::VARCHAR AS campaign_id, 'h' AS measurement_config_hash, $3 AS work_id, 'x' AS hardware,
                false AS is_simulated, 'stub' AS backend, 'm' AS model, 1 AS n_cycles,
                0 AS n_invalid, 0 AS n_superseded, 0 AS n_energy_bounds,
                1 AS n_gpu_sets, $2::TIMESTAMPTZ AS first_start, first_start AS last_end
            """,
            [number, START, prompts],
        )
        names = ("energy_per_output_token_j", "output_tokens_per_second", "ttft_mean_ms")
        for metric, value in zip(names, values, strict=True):
            if value is not None:
                row = [str(number), metric, value]
                connection.execute(
                    "INSERT INTO intervals BY NAME SELECT $1 AS campaign_id, $2 AS metric, 'u' AS unit, "
                    "1 AS n_samples, $3 AS mean, 0 AS std, 0.95 AS confidence",
                    row,
                )
    return connection


def test_pareto_fronts_are_those_of_a_search_through_all_pairs() -> None:
    rng = np.random.default_rng(7)
    # From few values, so that there are many ties, whole duplicates as well.
    figures = [
        (
            f"prompts {rng.integers(3)}",
            None if rng.random() < 0.1 else float(rng.integers(1, 9)),
            None if rng.random() < 0.1 else float(rng.integers(1, 9)),
            None if rng.random() < 0.1 else float(rng.integers(1, 9)),
        )
        for _ in range(150)
    ]

    def beaten(one: int, other: int, at: int, sign: int) -> bool:
        a, b = figures[one], figures[other]
        if a[0] != b[0] or b[1] is None or b[at] is None:
            return False
        mine, its = (a[1], sign * a[at]), (b[1], sign * b[at])  # type: ignore[operator]
        return all(x >= y for x, y in zip(mine, its, strict=True)) and mine != its  # type: ignore[operator]

    def front(at: int, sign: int) -> set[int]:
        measured = [n for n, one in enumerate(figures) if one[1] is not None and one[at] is not None]
        return {n for n in measured if not any(beaten(n, other, at, sign) for other in measured)}

    found = with_campaigns(figures).execute(
        "SELECT campaign_id::INTEGER, on_throughput_front, on_ttft_front FROM pareto_front"
    )
    fronts = found.fetchall()
    assert {number for number, throughput, _ in fronts if throughput} == front(2, -1)
    assert {number for number, _, ttft in fronts if ttft} == front(3, 1)
    assert 5 < len(fronts) < 75


def test_only_the_same_work_is_compared(root: Path, db: Path) -> None:
    poisson = [ArrivalProcess(process="poisson", rate_per_s=rate) for rate in (2.0, 3.0)]
    other_work = [
        CONFIG.model_copy(update={"workload": Workload(max_output_tokens=7)}),
        CONFIG.model_copy(update={"workload": Workload(ignore_eos=True)}),
        CONFIG.model_copy(update={"workload": Workload(output_lengths=Lengths(distribution="uniform"), **ENDLESS)}),
        *(CONFIG.model_copy(update={"workload": Workload(arrivals=arrivals)}) for arrivals in poisson),
        CONFIG.model_copy(update={"sampling": Sampling(temperature=1.0)}),
        CONFIG.model_copy(update={"model": "org/other"}),
    ]
    backends: list[BackendName] = ["stub", "pytorch", "vllm", "trt"]
    same_work = [ExperimentConfig(backend=backend, dtype="float32", batch_size=2) for backend in backends]
    results = [
        make_result(number, energy_j=30.0 * number, config=config, prompts_sha256="p", environment=GPU)
        for number, config in enumerate([*same_work, *other_work], start=1)
    ]
    # Of before there was a choice of arrivals and lengths.
    of_old = same_work[0].model_dump(mode="json")
    of_old["workload"] = {name: of_old["workload"][name] for name in ("n_prompts", "max_output_tokens", "ignore_eos")}
    windowed: dict[str, Any] = {"measurement_methodology": "windowed", "steady_state_window": (0.0, 1.0)}
    ingested(
        root,
        db,
        *results,
        make_result(97, energy_j=300.0, prompts_sha256="p", study="old", environment=GPU, effective_config=of_old),
        make_result(98, energy_j=300.0, prompts_sha256="q", environment=GPU),
        make_result(99, energy_j=300.0, prompts_sha256="p", environment=GPU | {"driver_version": "1"}, **windowed),
        make_result(100, energy_j=300.0, environment=GPU | {"driver_version": "2"}),  # nobody knows what was asked
    )
    # Of all only those that did the same work as the first do what another one does for less.
    alone, together = len(other_work) + 2, len(same_work) + 1
    assert rows(db, "SELECT n_compared, count(*) FROM pareto_front GROUP BY ALL ORDER BY ALL") == [
        (1, alone),
        (together, 1),
    ]
    unknown = "SELECT count(*) FROM campaign_groups WHERE work_id IS NULL"
    assert rows(db, unknown) == [(1,)]


def test_drift_is_the_least_squares_line_over_time(root: Path, db: Path) -> None:
    minutes, joules = [10, 70, 100, 250], [30.0, 36.0, 33.0, 45.0]
    ingested(
        root,
        db,
        *(
            make_result(minute, energy_j=energy, study="s", cycle=cycle, environment=GPU)
            for cycle, (minute, energy) in enumerate(zip(minutes, joules, strict=True))
        ),
        *(make_result(minute, energy_j=30.0, study="two", cycle=minute, environment=GPU) for minute in (1, 2)),
    )
    drift = "slope_per_hour, relative_change, correlation, n_samples FROM drift_over_time WHERE metric ="
    hours, values = [minute / 60 for minute in minutes], [energy / OUTPUT_TOKENS for energy in joules]
    assert rows(db, f"SELECT {drift} 'energy_per_output_token_j' AND study = 's'") == [
        pytest.approx((linear_regression(hours, values).slope, 0.5, correlation(hours, values), 4), rel=1e-9)
    ]
    # Nothing changes, or only two points: there is no correlation to speak of.
    assert rows(db, f"SELECT {drift} 'output_tokens_per_second' AND study = 's'") == [(0.0, 0.0, None, 4)]
    assert rows(db, f"SELECT {drift} 'energy_per_output_token_j' AND study = 'two'") == [(0.0, 0.0, None, 2)]
    # All on one GPU: there are no fellows to be unlike.
    assert rows(db, "FROM drift_by_gpu") == []


def test_campaigns_can_be_told_apart_by_any_field(root: Path, db: Path) -> None:
    configs = [CONFIG.model_copy(update={"workload": Workload(n_prompts=n)}) for n in (5, 6)]
    ingested(root, db, *(make_result(n, config=config) for n, config in enumerate(configs)))
    assert rows(db, "SELECT value, n_cycles FROM campaigns_by('workload.n_prompts') ORDER BY ALL") == [
        ("5", 1),
        ("6", 1),
    ]
    assert rows(db, "SELECT DISTINCT value FROM campaigns_by('no.such.field')") == [(None,)]
