"""pytorch jobs as processes: one that goes well, and the failures that come from outside of Python."""

from __future__ import annotations

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from images.contract.job import ExitCode
from images.contract.result import ExperimentResult
from images.models.tiny_llama import make_model, make_tokenizer
from tests.images.pytorch.hub_server import GATED, hub
from tests.images.stub.jobs import ROOT, Ended, run

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("torch jobs")]

SMALL = {
    "workload": {"n_prompts": 3, "max_output_tokens": 4},
    "measurement": {"warmup": {"window": 2, "max_rounds": 2}},
}
NOBODY = "http://127.0.0.1:9"  # the discard port; nothing listens


def enormous(folder: Path) -> dict[str, Any]:
    """A prompt so long that its first attention mask alone wants 250 GB."""
    model = make_model(1, "eager")
    model.config.max_position_embeddings = 10_000_000
    model.save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    return {
        "model": str(folder / "model"),
        "batch_size": 1,
        "workload": {"source": "synthetic", "n_prompts": 1, "max_input_tokens": 500_000, "max_output_tokens": 1},
        "measurement": {"warmup": {"enabled": False}},
        "pytorch": {"attn_implementation": "eager"},
    }


def too_big(folder: Path) -> dict[str, Any]:
    """A model whose embedding alone wants 500 GB."""
    model = make_model(1, "eager")
    weights = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith(("tokens.weight", "head.weight"))
    }
    model.config.vocab_size = 10**9
    model.save_pretrained(folder / "model", state_dict=weights)
    make_tokenizer().save_pretrained(folder / "model")
    return {**SMALL, "model": str(folder / "model")}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All jobs at once, two at a time: most of each is the import of torch."""
    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("good", "memory", "too big", "gated", "absent", "offline")
    }
    documents: dict[str, dict[str, Any]] = {
        "good": SMALL,
        "memory": enormous(folders["memory"]),
        "too big": too_big(folders["too big"]),
        "gated": {**SMALL, "model": GATED},
        "absent": {**SMALL, "model": "nobody/nothing"},
        "offline": {**SMALL, "model": "nobody/nothing"},
    }
    with hub() as address, ThreadPoolExecutor(2) as pool:

        def one(name: str) -> Ended:
            cache = str(folders[name] / "cache")
            env = {
                "HF_ENDPOINT": address,
                "HF_HOME": cache,
                "HF_TOKEN": "",
                "HF_HUB_OFFLINE": str(int(name == "offline")),
            }
            return run(folders[name], documents[name], backend="pytorch", env=env, preexec_fn=limit_memory)

        return dict(zip(folders, pool.map(one, folders), strict=True))


def test_a_job_runs_the_builtin_model_to_a_result(ended: dict[str, Ended]) -> None:
    job = ended["good"]
    assert job.code == 0, job.stderr
    assert job.errors == []
    result = ExperimentResult.from_json(job.directory)
    assert result.total_flops
    assert result.process_results[0].compute_metrics.flops_method == "architecture"
    assert result.process_results[0].compute_metrics.peak_memory_mb
    assert result.latency_stats is not None
    assert result.latency_stats.ttft_samples == 3
    assert result.environment_snapshot is not None
    assert result.environment_snapshot.device
    assert {"torch", "transformers", "tokenizers"} <= set(result.environment_snapshot.package_versions)
    assert result.extended_metrics is not None
    assert result.extended_metrics.padding_fraction is not None


def test_too_much_for_the_memory_is_its_own_failure_with_advice(ended: dict[str, Ended]) -> None:
    failure = fails(ended["memory"], ExitCode.OUT_OF_MEMORY)
    assert "ran out of memory" in failure
    assert "batch_size" in failure


def test_a_model_that_is_too_big_for_the_memory_is_not_called_damaged(ended: dict[str, Ended]) -> None:
    assert "ran out of memory" in fails(ended["too big"], ExitCode.OUT_OF_MEMORY)


def test_a_gated_model_without_a_token_is_one_line_with_the_token_and_the_licence_page(
    ended: dict[str, Ended],
) -> None:
    line = fails(ended["gated"], ExitCode.MODEL_UNAVAILABLE)
    assert f"the model {GATED} is gated" in line
    assert "HF_TOKEN" in line
    assert f"https://huggingface.co/{GATED}" in line


def test_a_model_that_the_hub_does_not_know_is_told_apart_from_a_gated_one(ended: dict[str, Ended]) -> None:
    line = fails(ended["absent"], ExitCode.MODEL_UNAVAILABLE)
    assert "the model nobody/nothing is not on the hub" in line


def test_offline_a_model_that_is_not_in_the_cache_is_one_line(ended: dict[str, Ended]) -> None:
    line = fails(ended["offline"], ExitCode.MODEL_UNAVAILABLE)
    assert "the model nobody/nothing is not in the local cache and the hub cannot be reached" in line


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    # The real client with its half minute of waiting between tries taken out.
    program = """
import sys, time
time.sleep = lambda seconds: None
from images.pytorch.backend import Backend
from images.contract.config import parse_config
from images.contract.job import JobContext, ModelUnavailable
try:
    Backend().load(parse_config({"model": "nobody/nothing"}), JobContext())
except ModelUnavailable as error:
    print(error)
"""
    env = {"PATH": "", "PYTHONPATH": str(ROOT), "HF_ENDPOINT": NOBODY, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == (
        "the model nobody/nothing is not in the local cache and the hub cannot be reached. "
        "Connect to the hub once, or give a local folder."
    )


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (64 * 2**30, 64 * 2**30))  # refused also where Linux overcommits


def fails(job: Ended, code: ExitCode) -> str:
    """The one error line of a job that ended with `code`."""
    assert job.code == code, job.stderr
    assert "Traceback" not in job.stderr
    (line,) = [line for line in job.stderr.splitlines() if " ERROR " in line]
    assert job.failure.message in line
    assert job.failure.exit_code == code
    return line
