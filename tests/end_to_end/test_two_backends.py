"""One study of two real engines on the CPU, through Docker, to a verdict on which costs less."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.contract.result import ExperimentResult
from tests.end_to_end.test_pipeline import warehouse
from tests.runner.command import runner

STUDY = """
name: engines
cycles: 2
defaults:
  model: builtin:tiny-llama
  dtype: float32
  batch_size: 4
  workload: {n_prompts: 16, max_input_tokens: 48, max_output_tokens: 24}
  measurement: {warmup: {max_rounds: 3}}
experiments:
  - {name: torch, backend: pytorch}
  - {name: vllm, backend: vllm, vllm: {enforce_eager: true, max_model_len: 512}}
"""


@pytest.mark.timeout(1200)
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_a_study_of_two_engines_ends_in_one_table_and_a_comparison(
    tmp_path: Path, pytorch_image: str, vllm_image: str
) -> None:
    study, output, database = tmp_path / "engines.yaml", tmp_path / "results", tmp_path / "w.duckdb"
    study.write_text(STUDY)

    ran = runner("run", study, "--output", output, timeout=900)

    assert ran.code == 0, ran.stderr
    found = [ExperimentResult.from_json(path) for path in output.glob("*/result.json")]
    assert sorted(one.backend for one in found) == ["pytorch"] * 2 + ["vllm"] * 2
    assert len({one.prompts_sha256 for one in found}) == 1
    assert len({(one.input_tokens, one.output_tokens) for one in found}) == 1, "greedy, so the same work"
    assert "4 new" in warehouse("ingest", "--db", database, output)
    table = warehouse("campaign", "--db", database, "--study", "engines")
    rows = [line for line in table.splitlines() if line.strip().startswith("output tokens/s")]
    assert len(rows) == 2
    assert all(row.count("[") == 2 for row in rows), f"intervals expected: {rows}"
    verdict = warehouse("compare", "torch", "vllm", "--db", database)
    assert "output_tokens_per_second" in verdict or "output tokens/s" in verdict
    assert "[" in verdict, "a ratio with its interval"
