"""One study of two backends, from ingest to the verdict: the same work by other engines is held against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from images.contract.config import ExperimentConfig
from images.contract.parts import ExtendedEfficiencyMetrics, LatencyStatistics
from images.contract.result import ExperimentResult
from tests.warehouse.results import make_result, rows, save, warehouse

PYTORCH: dict[str, Any] = {"backend": "pytorch", "pytorch": {"attn_implementation": "sdpa"}}
VLLM: dict[str, Any] = {"backend": "vllm", "vllm": {"enforce_eager": True, "max_num_seqs": 8}}
GPU = {"device": "cuda", "gpu_names": ["H100"], "gpu_uuids": ["GPU-a"]}
CPU = {"device": "cpu", "gpu_uuids": []}


@pytest.mark.parametrize(("environment", "has_energy"), [(GPU, True), (CPU, False)], ids=["gpu", "cpu"])
def test_two_backends_are_compared_in_blocks(
    environment: dict[str, Any], has_energy: bool, root: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cycle in (1, 2, 3):
        common: dict[str, Any] = {"cycle": cycle, "energy_j": 100.0 + cycle if has_energy else None}
        save(root, _result(2 * cycle, PYTORCH, environment, seconds=4.0 + cycle / 10, **common))
        # An engine that stamps no tokens has no gaps.
        vllm = _result(2 * cycle + 1, VLLM, environment, seconds=2.0 + cycle / 20, **common)
        save(root, vllm.model_copy(update={"latency_stats": LatencyStatistics(ttft_mean_ms=9.0, ttft_samples=3)}))
    assert warehouse("ingest", root, db=db) == 0
    assert len(rows(db, "SELECT DISTINCT work_id FROM campaigns WHERE n_cycles = 3")) == 1
    assert rows(db, "SELECT n_compared FROM pareto_front") == ([(2,)] if has_energy else [])

    capsys.readouterr()
    assert warehouse("compare", "pytorch", "vllm", "--study", "engines", "--format", "json", db=db) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    metrics = {metric["metric"]: metric for metric in found["metrics"]}
    speed = metrics["output_tokens_per_second"]
    assert (speed["method"], speed["n_a"], speed["n_b"], speed["confounded"]) == ("paired", 3, 3, None)
    assert speed["ratio"] == pytest.approx(2.0, rel=1e-9)
    assert (metrics["energy_per_output_token_j"]["ratio"] is not None) == has_energy
    assert metrics["itl_mean_ms"]["problem"] == "not measured in B"
    assert (found["different_prompts"], found["different"]) == (False, ["backend", "image"])


def test_goodput_of_two_backends_is_compared_like_any_metric(
    root: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cycle in (1, 2, 3):
        for number, (config, goodput) in enumerate([(PYTORCH, 2.0), (VLLM, 3.0)]):
            metrics = ExtendedEfficiencyMetrics(goodput_requests_per_second=goodput + cycle / 100, tpot_p95_ms=5.0)
            save(root, _result(2 * cycle + number, config, GPU, cycle=cycle, extended_metrics=metrics))
    assert warehouse("ingest", root, db=db) == 0
    capsys.readouterr()
    gate = ["--fail-if", "goodput_requests_per_second < -5%"]
    assert warehouse("compare", "pytorch", "vllm", *gate, "--metric", "tpot_p95_ms", "--format", "json", db=db) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    p95, goodput_found = found["metrics"]
    # Of three requests there is no 95th percentile.
    assert (p95["metric"], p95["ratio"]) == ("tpot_p95_ms", None)
    assert goodput_found["ratio"] == pytest.approx(1.5, rel=0.01)
    assert warehouse("compare", "vllm", "pytorch", *gate, db=db) == 1, "fewer good requests are worse"


def _result(
    number: int, config: dict[str, Any], environment: dict[str, Any], *, cycle: int, **fields: Any
) -> ExperimentResult:
    return make_result(
        number,
        config=ExperimentConfig(**config),
        environment={**environment, "image_id": f"sha256:{config['backend']}"},
        study="engines",
        experiment=str(config["backend"]),
        cycle=cycle,
        block=f"c{cycle:03d}",
        prompts_sha256="5ca1ab1e" * 8,
        **fields,
    )
