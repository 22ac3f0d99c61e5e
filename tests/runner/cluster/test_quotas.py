"""Quotas: everything of them that a study's Jobs and pods count against."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster.quotas import check_quotas
from runner.studies.settings import LauncherSettings
from runner.view.checks import Check
from tests.runner.cluster.cluster_studies import cluster_study, jobs, pod

GPU = "requests.nvidia.com/gpu"
N_JOBS = 3


def check(
    hard: dict[str, str], used: dict[str, str] | None = None, spec: dict[str, Any] | None = None, **settings: Any
) -> Check | None:
    exclusive = LauncherSettings(exclusive=settings.pop("exclusive", False))
    (job, *_) = jobs(cluster_study("a", "b", kubernetes=settings, launcher=exclusive))
    status = {"hard": hard, "used": used or {}}
    quota = {"metadata": {"name": "team"}, "spec": spec or {}, "status": status}
    return next(check_quotas(pod(job), N_JOBS, [quota]), None)


@pytest.mark.parametrize(
    ("key", "limit", "needed"),
    [
        ("pods", "0", "1"),
        ("count/pods", "0", "1"),
        ("requests.cpu", "1", "4"),
        ("cpu", "3999m", "4"),
        ("limits.memory", "1Gi", "16Gi"),
        ("memory", "16G", "16Gi"),
        ("requests.ephemeral-storage", "2e10", "20Gi"),
        (GPU, "0", "1"),
        ("count/jobs.batch", "2", "3"),
        ("configmaps", "2", "3"),
    ],
)
def test_a_limit_that_no_job_can_meet_is_a_problem(key: str, limit: str, needed: str) -> None:
    seen = check({key: limit, "services": "0"})
    assert seen is not None
    assert (seen.name, seen.state) == ("quota team", "problem")
    assert seen.found == f"{key}: 0 of {limit} used, {needed} needed"


def test_what_is_used_now_makes_pods_wait_and_jobs_be_refused() -> None:
    waiting = check({"requests.cpu": "8", "pods": "4"}, {"requests.cpu": "4500m", "pods": "1"})
    assert waiting is not None
    assert (waiting.state, waiting.next_step) == ("warning", "Pods wait for room.")
    assert waiting.found == "requests.cpu: 4500m of 8 used, 4 needed"
    refused = check({"count/jobs.batch": "4"}, {"count/jobs.batch": "2"})
    assert refused is not None
    assert (refused.state, refused.next_step) == ("warning", "Wait for room: Jobs that do not fit are refused.")


def test_quotas_with_room_and_those_that_count_nothing_of_ours() -> None:
    roomy = check({GPU: "4", "limits.memory": "64Gi", "pods": "10"}, {GPU: "3", "limits.memory": "48Gi"})
    assert roomy is not None
    assert roomy.state == "ok"
    assert "requests.nvidia.com/gpu: 3 of 4 used, 1 needed" in roomy.found
    assert check({"services": "0", "requests.amd.com/gpu": "0"}) is None


def chosen(operator: str, *values: str) -> dict[str, Any]:
    about: dict[str, Any] = {"scopeName": "PriorityClass", "operator": operator}
    return {"scopeSelector": {"matchExpressions": [about | ({"values": list(values)} if values else {})]}}


@pytest.mark.parametrize(
    ("spec", "settings", "counts"),
    [
        ({"scopes": ["Terminating", "NotBestEffort"]}, {}, True),
        ({"scopes": ["NotTerminating"]}, {}, False),
        ({"scopes": ["BestEffort"]}, {}, False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, {}, False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, {"exclusive": True}, True),
        ({"scopes": ["PriorityClass"]}, {}, False),
        (chosen("In", "low", "high"), {"priority_class": "low"}, True),
        (chosen("In", "high"), {"priority_class": "low"}, False),
        (chosen("NotIn", "high"), {"priority_class": "low"}, True),
        (chosen("Exists"), {"priority_class": "low"}, True),
        (chosen("DoesNotExist"), {}, True),
        (chosen("DoesNotExist"), {"priority_class": "low"}, False),
    ],
)
def test_a_quota_of_other_pods_is_none_of_ours(spec: dict[str, Any], settings: dict[str, Any], counts: bool) -> None:
    """Ours have a deadline, their limits are their requests."""
    assert (check({"pods": "0"}, spec=spec, **settings) is not None) is counts
