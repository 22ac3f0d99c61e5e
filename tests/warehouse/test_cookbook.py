"""Every query of docs/cookbook.md gives the columns that the page says, and the right numbers."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from scipy import stats

from images.contract.result import ExperimentResult
from tests.warehouse.cookbook_data import GPUS, OUTPUT_TOKENS, Year, write_year
from tests.warehouse.results import warehouse

PAGE = (Path(__file__).parents[2] / "docs/cookbook.md").read_text(encoding="utf-8")
RECIPE = re.compile(r"^```sql\n(?P<sql>.+?)\n```\n\nGives (?P<columns>`.+?)\.$", re.DOTALL | re.MULTILINE)


def recipes() -> dict[str, tuple[str, list[str]]]:
    """SQL and columns by the heading they stand under; a second one under it has a 2 behind it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        for number, match in enumerate(RECIPE.finditer(section), start=1):
            name = heading if number == 1 else f"{heading} {number}"
            found[name] = match["sql"], re.findall(r"`(\w+)`", match["columns"])
    return found


RECIPES = recipes()
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    folder = tmp_path_factory.mktemp("cookbook")
    written = write_year(folder / "results")
    assert warehouse("ingest", written.root, db=folder / "w.duckdb") == 0
    return written


@pytest.fixture
def answer(year: Year, capsys: pytest.CaptureFixture[str]) -> Any:
    """Gives a recipe's rows."""

    def ask(name: str) -> Rows:
        capsys.readouterr()
        assert warehouse("sql", RECIPES[name][0], "--format", "json", db=year.root.parent / "w.duckdb") == 0
        rows: Rows = json.loads(capsys.readouterr().out)
        return rows

    return ask


def t_bounds(values: Sequence[float]) -> tuple[float, float]:
    margin = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return fmean(values) - margin, fmean(values) + margin


def per_token(results: Sequence[ExperimentResult]) -> list[float]:
    return [result.total_energy_j / OUTPUT_TOKENS for result in results if result.total_energy_j is not None]


def test_every_query_on_the_page_is_a_recipe() -> None:
    assert len(RECIPES) == len(re.findall(r"^```sql$", PAGE, re.MULTILINE)) >= 12


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_rows_with_the_columns_that_the_page_says(name: str, answer: Any) -> None:
    rows = answer(name)
    assert rows
    assert list(rows[0]) == RECIPES[name][1]


def test_energy_by_batch_size_is_the_mean_over_cycles_with_students_interval(year: Year, answer: Any) -> None:
    rows = answer("How does energy per token depend on the batch size?")
    assert [(row["backend"], row["batch_size"], row["n_cycles"]) for row in rows] == [
        ("pytorch", 1, 3), ("pytorch", 8, 3), ("pytorch", 32, 3), ("vllm", 1, 3), ("vllm", 8, 4), ("vllm", 32, 3)
    ]  # fmt: skip
    for row in rows:
        values = per_token(year.of("batch-size", backend=row["backend"], batch_size=row["batch_size"]))
        assert row["energy_per_output_token_j"] == pytest.approx(fmean(values), rel=1e-12)
        bounds = row["energy_per_output_token_j_t_lower"], row["energy_per_output_token_j_t_upper"]
        assert bounds == pytest.approx(t_bounds(values), rel=1e-9)


def test_the_limit_on_ttft_holds_for_the_upper_bound(year: Year, answer: Any) -> None:
    within = {}
    for backend in ("pytorch", "vllm"):
        for batch_size in (1, 8, 32):
            results = year.of("batch-size", backend=backend, batch_size=batch_size)
            upper = t_bounds([10 * result.total_inference_time_sec for result in results])[1]
            if upper < 20:
                within[backend, batch_size] = fmean(per_token(results))
    rows = answer("Which configuration takes least energy within a limit on TTFT?")
    assert 3 < len(within) < 6
    assert [(row["backend"], row["batch_size"]) for row in rows] == sorted(within, key=lambda key: within[key])[:3]


def test_goodput_is_the_mean_over_cycles_of_each_rate(year: Year, answer: Any) -> None:
    rows = answer("How many requests per second are served well enough?")
    assert [(row["rate_per_s"], row["backend"], row["n_cycles"]) for row in rows] == [
        (2.0, "pytorch", 3), (2.0, "vllm", 3), (4.0, "pytorch", 3), (4.0, "vllm", 3)
    ]  # fmt: skip
    for row in rows:
        values = [
            float(result.extended_metrics.goodput_requests_per_second)  # type: ignore[union-attr,arg-type]
            for result in year.of("open-loop", backend=row["backend"])
            if result.effective_config["workload"]["arrivals"]["rate_per_s"] == row["rate_per_s"]
        ]
        assert row["goodput_requests_per_second"] == pytest.approx(fmean(values), rel=1e-12)
        bounds = row["goodput_requests_per_second_t_lower"], row["goodput_requests_per_second_t_upper"]
        assert bounds == pytest.approx(t_bounds(values), rel=1e-9)
    latest = answer("How many requests per second are served well enough? 2")
    assert [row["schedule_lag_p99_ms"] for row in latest] == [7.5, 7.0, 6.5, 6.0, 5.5]


def test_energy_of_phases_is_over_the_cycles_in_which_they_are_separable(year: Year, answer: Any) -> None:
    phases: dict[str, list[Any]] = {"16 tokens": [], "64 tokens": []}
    for result in year.of("lengths"):
        if result.extended_metrics and result.extended_metrics.prefill_energy_j is not None:
            phases[str(result.experiment)].append(result.extended_metrics)
    rows = answer("Does prefill or decode take the energy?")
    assert [(row["experiment"], row["metric"], row["n_samples"]) for row in rows] == [
        (name, f"{phase}_energy_j", len(phases[name])) for name in phases for phase in ("decode", "prefill")
    ]
    for row in rows:
        values = [getattr(one, row["metric"]) for one in phases[row["experiment"]]]
        assert row["mean"] == pytest.approx(fmean(values), rel=1e-12)
        assert (row["t_lower"], row["t_upper"]) == pytest.approx(t_bounds(values), rel=1e-9)
    by_token = answer("Does prefill or decode take the energy? 2")
    assert [(row["n_cycles"], row["n_separable"], row["why_not"]) for row in by_token] == [
        (3, 2, "not separable: mixed"),
        (3, 3, None),
    ]
    for row in by_token:
        separable = phases[row["experiment"]]
        prefill, decode = ([getattr(one, f"{phase}_energy_j") for one in separable] for phase in ("prefill", "decode"))
        assert row["prefill_energy_per_input_token_j"] == pytest.approx(fmean(prefill) / (2 * OUTPUT_TOKENS), rel=1e-9)
        assert row["decode_energy_per_output_token_j"] == pytest.approx(fmean(decode) / OUTPUT_TOKENS, rel=1e-9)
        assert row["largest_bound_ratio"] == pytest.approx(
            max(one.phase_energy_bound_j / min(one.prefill_energy_j, one.decode_energy_j) for one in separable),
            rel=1e-9,
        )


def test_cost_and_carbon_are_those_of_the_window(year: Year, answer: Any) -> None:
    for row in answer("What does a million output tokens cost?"):
        results = year.of("batch-size", backend=row["backend"], batch_size=row["batch_size"])
        rates = [OUTPUT_TOKENS / result.total_inference_time_sec for result in results]
        gpu = 1e6 / fmean(rates) / 3600 * 2.50
        electricity = fmean(per_token(results)) * 1e6 / 3.6e6 * 1.2 * 0.30
        assert row["gpu_cost_per_million_output_tokens"] == pytest.approx(gpu, rel=1e-9)
        assert row["energy_cost_per_million_output_tokens"] == pytest.approx(electricity, rel=1e-9)
        assert row["cost_per_million_output_tokens"] == pytest.approx(gpu + electricity, rel=1e-9)
        slowest, quickest = t_bounds(rates)
        lowest, highest = (bound * 1e6 / 3.6e6 * 1.2 * 0.30 for bound in t_bounds(per_token(results)))
        assert row["cost_per_million_output_tokens_lower"] == pytest.approx(
            1e6 / quickest / 3600 * 2.50 + lowest, rel=1e-9
        )
        assert row["cost_per_million_output_tokens_upper"] == pytest.approx(
            1e6 / slowest / 3600 * 2.50 + highest, rel=1e-9
        )
    for row in answer("How much CO2 is that?"):
        results = year.of("batch-size", backend=row["backend"], batch_size=row["batch_size"])
        bounds = row["gco2_per_million_output_tokens_t_lower"], row["gco2_per_million_output_tokens_t_upper"]
        factor = 1e6 / 3.6e6 * 1.2 * 380
        assert row["gco2_per_million_output_tokens"] == pytest.approx(fmean(per_token(results)) * factor, rel=1e-9)
        assert bounds == pytest.approx([bound * factor for bound in t_bounds(per_token(results))], rel=1e-9)


def test_what_was_left_out_says_why(year: Year, answer: Any) -> None:
    rows = answer("Which runs were left out, and why?")
    assert [(row["cycle"], row["reason"]) for row in rows] == [
        (4, "foreign_process, sampling_gap"),
        (1, "simulated GPU"),
        (5, "superseded by a newer run of its cycle"),
    ]
    assert len(year.others) == 3


def test_a_driver_is_held_against_the_one_before_it(year: Year, answer: Any) -> None:
    rows = answer("Did a new driver change anything?")
    old, new = (
        fmean(per_token([one for one in year.of("drivers") if one.environment_snapshot.driver_version == driver]))  # type: ignore[union-attr]
        for driver in ("570.86.15", "580.65.06")
    )
    assert [row["driver_version"] for row in rows] == ["570.86.15", "580.65.06"]
    assert [row["change"] for row in rows] == pytest.approx([0.0, new / old - 1], rel=1e-9)


def test_a_gpus_ratio_is_over_the_mean_of_its_campaigns(year: Year, answer: Any) -> None:
    campaigns: dict[Any, list[ExperimentResult]] = defaultdict(list)
    for result in year.counting:
        # Those of the study of lengths all ran on one GPU, and one campaign on none.
        if result.study != "lengths" and result.total_energy_j is not None:
            driver = result.environment_snapshot.driver_version if result.environment_snapshot else None
            campaigns[result.study, result.measurement_config_hash, driver].append(result)
    ratios: dict[str, list[float]] = defaultdict(list)
    for results in campaigns.values():
        mean = fmean(per_token(results))
        for result, value in zip(results, per_token(results), strict=True):
            ratios[result.environment_snapshot.gpu_uuids[0]].append(value / mean)  # type: ignore[union-attr,index]
    rows = answer("Is one GPU unlike its fellows?")
    assert {row["gpu_uuid"]: row["n_samples"] for row in rows} == {gpu: len(found) for gpu, found in ratios.items()}
    assert {row["gpu_uuid"]: row["mean_ratio"] for row in rows} == pytest.approx(
        {gpu: fmean(found) for gpu, found in ratios.items()}, rel=1e-9
    )
    assert rows[0]["gpu_uuid"] == max(GPUS, key=lambda gpu: GPUS[gpu])


def test_energy_from_samples_is_the_stored_one(year: Year, answer: Any) -> None:
    ratios = [row["ratio"] for row in answer("Is the stored energy what the samples say?")]
    assert ratios == pytest.approx([1.0] * 10, rel=1e-9)


def test_tokens_per_joule_are_sums_over_sums(year: Year, answer: Any) -> None:
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in year.counting:
        if result.total_energy_j is not None:
            sums[result.start_time.strftime("%Y-%m"), result.backend].append(result.total_energy_j)
    rows = answer("Do we get more tokens from a joule than we used to?")
    assert {(row["month"][:7], row["backend"]): row["output_tokens_per_joule"] for row in rows} == pytest.approx(
        {key: len(found) * OUTPUT_TOKENS / sum(found) for key, found in sums.items()}, rel=1e-9
    )
