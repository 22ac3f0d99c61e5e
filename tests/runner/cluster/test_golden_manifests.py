"""Whole manifests, as somebody has looked at them: each line that changes is seen to change.

UPDATE_GOLDEN=1 .venv/bin/pytest -n 0 tests/runner/cluster/test_golden_manifests.py writes them anew; look at the
difference before you keep it. What depends on the configurations' contract, not on the manifests, is left out.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from runner.cluster import names
from runner.cluster.render import render_rbac, rules_of
from runner.cluster.sources import reader_pod
from runner.studies.settings import LauncherSettings, Retries, Timeouts
from runner.studies.study import Study
from tests.runner.cluster.cluster_studies import IMAGES, cluster_study, manifests

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("1.36", kubernetes_validate.latest_version())
UPDATE = "UPDATE_GOLDEN=1 .venv/bin/pytest -n 0 tests/runner/cluster/test_golden_manifests.py"
GPUS: dict[str, Any] = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
STUDIES: dict[str, Study] = {
    "block-on-a-claim": cluster_study(
        "a",
        "b",
        cycles=1,
        launcher=LauncherSettings(exclusive=True),
        timeouts=Timeouts(job_s=1800),
        retries=Retries(limit=1),
        kubernetes={
            "token_secret": "hub-token",
            "models_claim": "hub-cache",
            "image_pull_secrets": ["registry", "mirror"],
            "service_account": "bench-runner",
            "gpu_resource": "nvidia.com/h100",
            "cpu": "8",
            "memory": "64Gi",
            "ephemeral_storage": "40Gi",
            "shared_memory": "16Gi",
            "run_as_user": 4711,
            "node_selector": {"gpu": "h100"},
            "tolerations": [GPUS],
            "priority_class": "low",
            "queue": "gpus",
            "labels": {"cost-centre": "42"},
            "keep_s": 3600,
        },
    ),
    "indexed-over-s3": cluster_study(
        "a",
        cycles=3,
        launcher=LauncherSettings(max_parallel=2),
        kubernetes={
            "results": "s3://measurements/gpu",
            "endpoint_url": "http://storage:9000",
            "credentials_secret": "measurements-s3",
            "run_as_user": None,
        },
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_manifests_are_as_they_were_looked_at(name: str) -> None:
    file = GOLDEN / f"{name}.yaml"
    written = yaml.safe_dump_all(_without_the_contract(_documents(STUDIES[name])), sort_keys=False, width=120)
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(written)
    assert written == file.read_text(), f"if that is meant, {UPDATE} writes it down"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", STUDIES)
def test_all_of_them_are_what_a_strict_api_server_takes(name: str, version: str) -> None:
    for document in _documents(STUDIES[name]):
        kubernetes_validate.validate(document, version, strict=True)


def _documents(study: Study) -> list[dict[str, Any]]:
    """All that a run makes in the cluster, and its Role."""
    reader = [reader_pod(study, "reader", IMAGES["stub"])] if study.kubernetes.models_claim else []
    role = yaml.safe_load(render_rbac(study.kubernetes.namespace, rules_of(study.kubernetes)))
    return [*manifests(study), *reader, role]


def _without_the_contract(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = yaml.safe_dump_all(documents, sort_keys=False)
    for document in documents:
        if document["kind"] == "Job":
            about = document["metadata"]
            text = text.replace(about["name"], re.sub(r"[0-9a-f]{8}$", "DIGEST", about["name"]))
            text = text.replace(about["annotations"][names.SETTINGS], "DIGEST")
    kept = list(yaml.safe_load_all(text))
    for document in kept:
        if document["kind"] == "ConfigMap":
            document["data"] = dict.fromkeys(document["data"], "{}")
    # Every mapping in full where it stands.
    plain: list[dict[str, Any]] = json.loads(json.dumps(kept))
    return plain
