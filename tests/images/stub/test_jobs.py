"""A stub job that goes well: what it leaves, and that it is what the contract says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from images.contract.config import parse_config
from images.contract.files import REQUESTS_SCHEMA, DirectoryName, parse_directory_name
from images.contract.job import JobContext
from images.contract.result import ExperimentResult
from images.contract.scheduling import Scheduling
from images.harness.measure import measure
from images.stub.backend import Backend
from tests.images.harness.fakes import Phases
from tests.images.stub.jobs import Ended, run, stub

SCHEDULING = {
    "placement": "any",
    "order": "shuffled",
    "seed": 7,
    "position": 3,
    "neighbours": [{"gpu_uuids": ["GPU-1"], "study": "other", "pid": 17, "seen": "2026-03-01T12:00:00Z"}],
    "adaptive": {"metric": "total_energy_j", "half_width": 0.02, "confidence": 0.95, "min": 5, "max": 20, "n": 9},
}
CONTEXT = {
    "study": "s",
    "experiment": "Batch 4",
    "cycle": 2,
    "attempt": 3,
    "block": "b",
    "scheduling": SCHEDULING,
    "launcher": "local",
    "git_revision": "abc",
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("job")
    context = folder / "context.json"
    context.write_text(json.dumps(CONTEXT))
    return run(folder, stub(), "--context", str(context))


def test_a_job_that_goes_well_leaves_one_directory_and_nothing_else(done: Ended) -> None:
    assert done.code == 0
    assert done.errors == []
    assert sorted(path.name for path in done.directory.iterdir()) == ["requests.parquet", "result.json"]
    assert done.directory.name.startswith("batch-4-stub-")
    config_hash = parse_config(stub()).measurement_config_hash()
    assert parse_directory_name(done.directory.name) == DirectoryName(config_hash[:8], 2, failed=False)


def test_its_result_loads_and_carries_the_context_it_was_given(done: Ended) -> None:
    result = ExperimentResult.from_json(done.directory)
    names = ("study", "experiment", "cycle", "attempt", "block")
    assert {name: getattr(result, name) for name in names} == {name: CONTEXT[name] for name in names}
    assert result.scheduling == Scheduling.model_validate(SCHEDULING)
    assert result.environment_snapshot is not None
    assert (result.environment_snapshot.launcher, result.environment_snapshot.git_revision) == ("local", "abc")
    assert result.measurement_config_hash == parse_config(stub()).measurement_config_hash()
    assert result.effective_config == parse_config(stub()).model_dump(mode="json")


def test_its_requests_have_exactly_the_schema_and_agree_with_the_result(done: Ended) -> None:
    result = ExperimentResult.from_json(done.directory)
    assert result.requests == "requests.parquet"
    table = pq.read_table(done.directory / "requests.parquet")
    assert table.schema.equals(REQUESTS_SCHEMA)
    assert table.num_rows == 3
    assert sum(table["output_tokens"].to_pylist()) == result.output_tokens
    assert sum(table["input_tokens"].to_pylist()) == result.input_tokens
    gaps = [len(row) for row in table["itl_ms"].to_pylist()]
    assert gaps == [count - 1 for count in table["output_tokens"].to_pylist()]


def measured(**changes: Any) -> ExperimentResult:
    context = JobContext(cycle=changes.pop("cycle", 1))
    chosen = parse_config({**stub(**changes.pop("options", {})), **changes})
    return measure(chosen, context, "exp_test", Backend(), Phases(), Path()).result


def test_the_window_lasts_as_long_as_it_is_told() -> None:
    seconds = measured(options={"window_s": 0.2, "load_s": 0.1}).total_inference_time_sec
    assert 0.2 <= seconds < 0.3


def test_noise_depends_on_seed_and_cycle_and_on_nothing_else() -> None:
    def window_s(**changes: Any) -> float:
        return measured(options={"window_s": 0.1, "noise": 0.3}, **changes).total_inference_time_sec

    first = window_s()
    assert window_s() == pytest.approx(first, abs=0.02)
    assert abs(window_s(cycle=4) - first) > 0.02
    assert abs(window_s(seed=1) - first) > 0.02


def test_tokens_are_the_same_in_every_run_and_end_at_the_end_token_or_the_limit(tmp_path: Path) -> None:
    rows = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ended = run(tmp_path / name, stub({"n_prompts": 40, "max_output_tokens": 8}))
        rows.append(pq.read_table(ended.directory / "requests.parquet").to_pylist())
    assert [row["output_sha256"] for row in rows[0]] == [row["output_sha256"] for row in rows[1]]
    assert len({row["output_sha256"] for row in rows[0]}) == 40
    ends = {(row["finish_reason"], row["output_tokens"] == 8) for row in rows[0]}
    assert ends == {("stop", False), ("length", True)}


def test_full_length_is_generated_when_the_end_token_is_ignored(tmp_path: Path) -> None:
    ended = run(tmp_path, stub({"n_prompts": 20, "max_output_tokens": 8, "ignore_eos": True}))
    table = pq.read_table(ended.directory / "requests.parquet")
    assert set(table["output_tokens"].to_pylist()) == {8}
    assert set(table["finish_reason"].to_pylist()) == {"length"}


def test_noise_comes_from_seed_and_cycle_and_comes_back_with_them() -> None:
    def window_s(cycle: int) -> float:
        config = parse_config({"backend": "stub", "stub": {"window_s": 0.4, "noise": 0.5}})
        measured = measure(config, JobContext(cycle=cycle), "exp_test", Backend(), Phases(), Path())
        return measured.result.total_inference_time_sec

    first, third = window_s(1), window_s(3)
    assert first - third > 0.1
    assert window_s(1) == pytest.approx(first, abs=0.04)
