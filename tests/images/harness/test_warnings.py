"""Warm-up's verdict and the warnings that need no meter: each is provoked, and absent where it should be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from images.contract.findings import find_warnings
from images.contract.job import ConfigInvalid, JobContext
from images.contract.parts import WarmupResult
from images.contract.result import ExperimentResult
from images.harness.measure import measure
from tests.images.harness.fakes import FakeBackend, Phases, WordTokenizer, config, loaded_model

STEADY = WarmupResult(converged=True, final_cv=0.01, target_cv=0.05, iterations_completed=3, max_rounds=10)
CLEAN: dict[str, Any] = {
    "window_s": 60.0,
    "n_requests": 200,
    "stamped_requests": 200,
    "warmup": STEADY,
    "caches_emptied": True,
    "cached_input_tokens": None,
    "has_chat_template": False,
    "cut_prompts": 0,
    "no_meter": "there is none",
    "no_baseline": None,
}


def found(workload: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    return find_warnings(config(workload), **{**CLEAN, **changes})


def codes(warnings: Sequence[str]) -> set[str]:
    return {warning.split(":")[0] for warning in warnings}


def run(backend: FakeBackend, warmup: dict[str, Any], **rest: Any) -> ExperimentResult:
    chosen = config(measurement={"warmup": {"full_pass": False, **warmup}}, **rest)
    return measure(chosen, JobContext(gpu_uuids=[]), "exp_test", backend, Phases(), Path()).result


def test_a_clean_run_warns_of_nothing_but_the_missing_meter() -> None:
    assert codes(found()) == {"no_energy_meter"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"window_s": 59.9}, "short_duration"),
        ({"n_requests": 29}, "low_sample_count"),
        ({"stamped_requests": 199}, "few_requests_for_p99"),
        ({"warmup": None}, "not_warmed_up"),
        ({"warmup": STEADY.model_copy(update={"converged": False})}, "not_warmed_up"),
        ({"caches_emptied": False}, "warm_cache"),
        ({"cached_input_tokens": 1}, "warm_cache"),
        ({"has_chat_template": True}, "no_chat_template"),
        ({"cut_prompts": 1}, "prompts_cut"),
    ],
)
def test_each_condition_gives_its_own_warning_and_no_other(changes: dict[str, Any], code: str) -> None:
    assert codes(found(**changes)) == {"no_energy_meter", code}


@pytest.mark.parametrize(
    "changes",
    [
        {"n_requests": 30},
        {"cached_input_tokens": 0},
        {"stamped_requests": 0},  # nothing to quote, so nothing to warn of
        {"workload": {"source": "synthetic"}, "has_chat_template": True},
        {"workload": {"chat_template": "model"}, "has_chat_template": True},
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_say(changes: dict[str, Any]) -> None:
    assert codes(found(**changes)) == {"no_energy_meter"}


@pytest.mark.parametrize(
    ("stamped", "expected"),
    [(1, {"p95", "p99"}), (39, {"p95", "p99"}), (40, {"p99"}), (199, {"p99"}), (200, set())],
)
def test_a_percentile_needs_its_number_of_requests(stamped: int, expected: set[str]) -> None:
    flagged = {code.rpartition("_")[2] for code in codes(found(stamped_requests=stamped)) if "few_requests" in code}
    assert flagged == expected


def test_every_warning_is_a_code_what_was_seen_and_what_to_do() -> None:
    everything = found(
        window_s=1.0, n_requests=1, stamped_requests=1, warmup=None, caches_emptied=False, has_chat_template=True
    )
    assert len(codes(everything)) == len(everything) == 8
    assert [one for one in everything if not re.fullmatch(r"[a-z0-9_]+: [^\n]+\. [A-Z][^\n]+\.", one)] == []


def test_the_warnings_of_a_real_run_are_in_its_result() -> None:
    backend = FakeBackend(loaded=loaded_model(tokenizer=WordTokenizer(has_chat_template=True)), empties_caches=False)
    assert codes(run(backend, {"enabled": False}).measurement_warnings) == {
        "no_energy_meter",
        "short_duration",
        "low_sample_count",
        "few_requests_for_p95",
        "few_requests_for_p99",
        "not_warmed_up",
        "warm_cache",
        "no_chat_template",
        "prompts_cut",
    }


def test_warm_up_stops_as_soon_as_the_last_rounds_agree() -> None:
    backend = FakeBackend(seconds=[0.06, 0.03, 0.01, 0.01, 0.01])
    result = run(backend, {"cv_threshold": 0.001, "window": 3, "max_rounds": 20})
    warmup = result.warmup_result
    assert warmup is not None
    assert warmup.converged
    assert warmup.iterations_completed == len(warmup.tokens_per_second) == 5
    assert warmup.final_cv == pytest.approx(0.0, abs=1e-9)
    assert (warmup.target_cv, warmup.max_rounds) == (0.001, 20)
    assert len(backend.batches) == 5 + 1
    assert "not_warmed_up" not in codes(result.measurement_warnings)


def test_warm_up_gives_up_at_the_cap_and_says_so() -> None:
    result = run(FakeBackend(seconds=[0.03, 0.01, 0.03, 0.01, 0.01]), {"cv_threshold": 0.05, "max_rounds": 4})
    warmup = result.warmup_result
    assert warmup is not None
    assert not warmup.converged
    assert warmup.iterations_completed == 4
    warning = next(one for one in result.measurement_warnings if one.startswith("not_warmed_up"))
    assert "after 4 rounds" in warning
    assert "target 0.05" in warning


def test_a_warm_up_that_could_never_be_steady_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"max_rounds \(2\) is below window \(3\)"):
        config(measurement={"warmup": {"window": 3, "max_rounds": 2}})


def test_every_batch_shape_of_the_window_was_met_in_the_warm_up() -> None:
    backend = FakeBackend()
    result = run(backend, {"full_pass": True, "cv_threshold": 9.0}, batch_size=4)
    first_pass, *rounds, window = backend.batches
    assert [len(one.token_ids) for one in first_pass] == [len(one.token_ids) for one in window]
    assert {one.token_ids[0] for one in first_pass}.isdisjoint({one.token_ids[0] for one in window})
    assert result.warmup_excluded_samples == len(first_pass) + sum(map(len, rounds))
    assert result.warmup_result is not None
    assert result.warmup_result.iterations_completed == len(rounds)


def test_warm_up_turned_off_runs_nothing_and_has_no_verdict() -> None:
    backend = FakeBackend()
    result = run(backend, {"enabled": False})
    assert len(backend.batches) == 1
    assert result.warmup_result is None
    assert result.warmup_excluded_samples == 0


@pytest.mark.parametrize(("batch_size", "per_round"), [(4, 4), (100, 6)])
def test_excluded_samples_are_the_requests_that_warm_up_really_made(batch_size: int, per_round: int) -> None:
    backend = FakeBackend()
    result = run(backend, {"max_rounds": 3, "cv_threshold": 9.0}, batch_size=batch_size)
    made = sum(len(batch) for batch in backend.batches[:-1])
    assert result.warmup_excluded_samples == made == 3 * per_round


def test_excluded_samples_are_right_also_where_a_last_batch_of_one_is_the_largest(tmp_path: Any) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c d e f g h"}\n')
    backend = FakeBackend()
    workload = {"source": str(prompts), "n_prompts": 3, "add_special_tokens": False}
    result = run(backend, {"max_rounds": 3, "cv_threshold": 9.0}, workload=workload, batch_size=2)
    assert result.warmup_excluded_samples == sum(len(batch) for batch in backend.batches[:-1]) == 3
