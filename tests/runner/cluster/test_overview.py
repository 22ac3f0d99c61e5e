"""`runner status` and `runner stop` for a study in a cluster that nobody follows any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.cluster.kubelet import PodEnd
from tests.runner.cluster.real_pods import ROOT
from tests.runner.cluster.whole_cluster import Cluster, wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("shared-cluster")]


def runner(folder: Path, *arguments: str, **environment: str) -> str:
    """Its output, in a directory that holds ``results``."""
    command = [sys.executable, "-m", "runner.cli", *arguments]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    ran = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_what_is_in_the_cluster_is_told_and_ended_without_a_follower(cluster: Cluster) -> None:
    file = cluster.study("a", "b", cycles=2, stub={"window_s": 30.0})
    cluster.pods.fate = lambda pod: PodEnd(fate="unschedulable") if "-c002-" in pod["metadata"]["name"] else None
    command = [sys.executable, "-m", "runner.cli", "run", str(file)]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(
        command, cwd=cluster.folder, env=surroundings, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_until(cluster.is_at_work)
    killed.kill()
    killed.wait()

    assert "namespace" not in runner(cluster.folder, "status", "results/study"), "it does not say which cluster"
    told = runner(cluster.folder, "status", str(file))
    assert "2 Jobs in the namespace bench of http://127.0.0.1:" in told
    assert " of 2 cycles: pod study-" in told
    assert "waits for a node (0/3 nodes are available: 3 Insufficient nvidia.com/gpu)" in told
    assert "works on e001-" in told

    assert "study 'study' in the namespace bench: 2 Jobs and 1 running pod ended" in runner(
        cluster.folder, "stop", str(file), "--now"
    )
    wait_until(lambda: cluster.left() == [])
    assert "nothing in the namespace bench" in runner(cluster.folder, "status", str(file))
    away = runner(cluster.folder, "status", str(file), KUBECONFIG=str(cluster.folder / "absent"))
    assert "there is no kubeconfig" in away
