"""The two backends give the same tokens for the same prompts, where rounding cannot decide between two of them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

import torch

from images.contract.config import parse_config
from images.harness.backend import LoadedModel
from images.harness.workload import prepare_workload
from images.models.tiny_llama import make_model, make_tokenizer
from images.models.tokenizer import HubTokenizer
from tests.images.vllm.containers import run

pytestmark = [
    pytest.mark.docker,
    pytest.mark.torch,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("vllm jobs"),
]

SMALLEST_GAP = 1e-3
COMMON = {
    "dtype": "float32",
    "batch_size": 8,
    "workload": {"n_prompts": 16, "max_output_tokens": 32},
    "measurement": {"warmup": {"enabled": False}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "pytorch": {},
    "vllm": {"enforce_eager": True, "enable_chunked_prefill": False, "enable_prefix_caching": False},
}
_EOS = 2
Answer = tuple[int, int, str, str]
"""Input tokens, output tokens, why it ended, SHA-256 of the output ids."""


def reported(image: str, folder: Path, backend: str) -> list[Answer]:
    """What the backend's job says of each request."""
    folder.chmod(0o755)
    job = run(image, folder, {"backend": backend, **COMMON, backend: OPTIONS[backend]})
    assert job.code == 0, job.stderr
    rows = pq.read_table(job.directory / "requests.parquet").sort_by("request_index").to_pylist()
    return [(row["input_tokens"], row["output_tokens"], row["finish_reason"], row["output_sha256"]) for row in rows]


def expected() -> tuple[list[Answer], float]:
    """The same by plain greedy decoding, and the smallest distance between the two largest logits on the way."""
    config = parse_config({"backend": "vllm", **COMMON})
    model = make_model(config.seed, None).eval()
    loaded = LoadedModel(HubTokenizer(make_tokenizer(), model.config.vocab_size), "cpu")
    answers, smallest = [], float("inf")
    for request in prepare_workload(config, loaded).requests:
        output: list[int] = []
        while len(output) < request.max_output_tokens and _EOS not in output:
            with torch.inference_mode():
                top = model(torch.tensor([[*request.token_ids, *output]])).logits[0, -1].topk(2)
            smallest = min(smallest, float(top.values[0] - top.values[1]))
            output.append(int(top.indices[0]))
        digest = hashlib.sha256(np.asarray(output, dtype="<i8").tobytes()).hexdigest()
        answers.append((len(request.token_ids), len(output), "stop" if _EOS in output else "length", digest))
    return answers, smallest


def test_pytorch_and_vllm_report_the_same_tokens_request_by_request(
    pytorch_image: str, vllm_image: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    answers, smallest = expected()
    assert smallest >= SMALLEST_GAP
    assert {reason for _, _, reason, _ in answers} == {"stop", "length"}
    images = {"pytorch": pytorch_image, "vllm": vllm_image}
    with ThreadPoolExecutor(2) as pool:
        jobs = {name: pool.submit(reported, images[name], tmp_path_factory.mktemp(name), name) for name in images}
        told = {name: job.result() for name, job in jobs.items()}
    assert told["pytorch"] == answers
    assert told["vllm"] == answers
