"""A study on a cluster, from submission to its results here: a real client, real jobs, an API server in memory."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.contract.job import ExitCode, JobError
from runner.cluster import troubles
from runner.interrupt import Stop
from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.cluster_studies import IMAGES
from tests.runner.cluster.kubelet import PodEnd
from tests.runner.cluster.object_store import Object
from tests.runner.cluster.real_pods import ROOT
from tests.runner.cluster.whole_cluster import Cluster, cells, client, every_cell, wait_until, when
from tests.runner.command import failures, leftovers, results
from tests.s3_server import point_to, running_s3_server

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("cluster")]


def test_blocks_run_in_pods_and_every_result_comes_home_once(cluster: Cluster) -> None:
    summary = cluster.run(cluster.study("a", "b", cycles=3))

    assert summary.problem is None
    assert (summary.n_results, summary.n_wanted) == (6, 6)
    assert cells(cluster.out) == every_cell("a", "b", cycles=3)
    assert len(cluster.pods.began) == 3, "a pod for each block"
    for one in results(cluster.out):
        assert one.environment_snapshot is not None
        assert one.environment_snapshot.launcher == "kubernetes"
        assert one.environment_snapshot.pod in cluster.pods.began
        assert one.environment_snapshot.image_repo_digest == IMAGES["stub"]
        assert one.block == f"c{one.cycle:03d}-cpu"
    assert leftovers(cluster.out) == []
    assert cluster.left() == []
    assert cluster.run(cluster.folder / "study.yaml").n_results == 6
    assert len(cluster.pods.began) == 3, "nothing was left to do"


def test_a_failed_index_is_a_failure_here_and_the_others_go_on_over_object_storage(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running_s3_server() as storage:
        point_to(monkeypatch, storage.url, tmp_path)
        bucket = storage.bucket("measurements")
        file = cluster.study("a", "b", cycles=2, placement="any", kubernetes={"results": f"s3://{bucket}/gpu"})
        document = yaml.safe_load(file.read_text())
        document["experiments"][1]["stub"] = {"fail": "out_of_memory"}
        file.write_text(yaml.safe_dump(document))

        summary = cluster.run(file)

    assert summary.n_results == 2
    assert cells(cluster.out) == every_cell("a", cycles=2)
    failed = failures(cluster.out)
    assert [(one.experiment, one.cycle, one.exit_code) for one in sorted(failed, key=lambda one: one.cycle or 0)] == [
        ("b", 1, ExitCode.OUT_OF_MEMORY),
        ("b", 2, ExitCode.OUT_OF_MEMORY),
    ]
    assert {outcome.exit_code for outcome in summary.outcomes} == {0, ExitCode.OUT_OF_MEMORY}
    assert cluster.left() == []


def test_a_block_goes_on_after_a_failure_in_it(cluster: Cluster) -> None:
    file = cluster.study("a", "b", "c", cycles=1)
    document = yaml.safe_load(file.read_text())
    document["experiments"][0]["stub"] = {"fail": "bug"}
    file.write_text(yaml.safe_dump(document))
    assert cluster.run(file).n_results == 2
    assert cells(cluster.out) == every_cell("b", "c", cycles=1)
    assert [one.experiment for one in failures(cluster.out)] == ["a"]
    assert len(cluster.pods.began) == 1


def test_connections_that_break_are_made_anew(cluster: Cluster) -> None:
    cluster.api.drop_watches(after=3)
    trouble = threading.Thread(target=break_now_and_then, args=(cluster.api,), daemon=True)
    trouble.start()
    summary = cluster.run(cluster.study("a", "b", cycles=3))
    assert (summary.problem, summary.n_results) == (None, 6)
    assert cells(cluster.out) == every_cell("a", "b", cycles=3)


def break_now_and_then(api: ApiServer) -> None:
    for _ in range(4):
        time.sleep(0.5)
        api.drop_connections()
        api.expire_watches()
        with api.refusing():
            time.sleep(0.2)


def test_a_client_that_is_killed_is_taken_up_where_it_was(cluster: Cluster) -> None:
    file = cluster.study("a", "b", cycles=4, stub={"window_s": 0.3})
    command = [sys.executable, "-m", "runner.cli", "run", str(file), "--output", str(cluster.out)]
    for there in (lambda: bool(cluster.pods.began), lambda: cluster.out.is_dir() and bool(results(cluster.out))):
        killed = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(there)
        time.sleep(0.3)
        killed.kill()
        killed.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 cycles" in done.stdout
    assert cells(cluster.out) == every_cell("a", "b", cycles=4)
    assert len(cluster.pods.began) == 4, "no block ran twice"
    assert cluster.left() == []
    assert leftovers(cluster.out) == []


def test_stop_lets_running_pods_finish_and_starts_nothing_more(cluster: Cluster) -> None:
    file = cluster.study("a", cycles=4, launcher={"max_parallel": 1}, stub={"window_s": 1.0})
    stop = Stop()
    asked = threading.Thread(target=when, args=(cluster.is_at_work, stop.ask))
    asked.start()
    summary = cluster.run(file, stop)
    asked.join()
    assert isinstance(summary.problem, JobError)
    assert "interrupted" in str(summary.problem)
    assert 1 <= summary.n_results < 4
    assert len(cluster.pods.began) == summary.n_results
    assert cluster.left() == []
    assert cluster.run(file).n_results == 4


def test_stop_now_ends_what_runs_and_touches_nothing_of_others(cluster: Cluster) -> None:
    other = {"kind": "Job", "metadata": {"name": "of-somebody-else", "namespace": "bench"}, "spec": {"suspend": True}}
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}
    other["spec"]["template"] = template  # type: ignore[index]
    cluster.api.store.add("jobs", other, "bench")
    file = cluster.study("a", "b", cycles=2, stub={"window_s": 30.0})
    stop = Stop()
    asked = threading.Thread(target=when, args=(cluster.is_at_work, stop.end))
    asked.start()
    assert cluster.run(file, stop).n_results == 0
    asked.join()
    assert cluster.left() == ["jobs/of-somebody-else"]


def test_what_keeps_pods_from_running_is_said_and_what_ends_them_from_outside_is_tried_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = iter(["unschedulable", "evicted", "node lost"])
    decided: dict[str, Any] = {}
    unlucky_until_s = time.monotonic() + 1.0

    def fate(pod: Object) -> PodEnd | None:
        name = pod["metadata"]["name"]
        if name not in decided:
            decided[name] = next(fates, None)
        if decided[name] == "unschedulable" and time.monotonic() > unlucky_until_s:
            decided[name] = None
        return None if decided[name] is None else PodEnd(fate=decided[name])

    cluster.pods.fate = fate
    summary = cluster.run(cluster.study("a", "b", cycles=3))
    assert (summary.problem, summary.n_results) == (None, 6)
    said = cluster.lines()
    assert "waits for a node (0/3 nodes are available: 3 Insufficient nvidia.com/gpu). Wait for a free GPU" in said
    assert "was evicted" in said
    assert "does not answer. Its Job goes on when the node is back" in said
    assert "its node went away" in said
    assert failures(cluster.out) == []


@pytest.mark.parametrize(
    ("fate", "says"),
    [
        (PodEnd(fate="image pull"), r"cannot be pulled \(Back-off pulling image .*\)\. Correct kubernetes\.images"),
        (PodEnd(fate="quota"), r"gets no pod \(.*exceeded quota.*\)\. Wait for room"),
    ],
)
def test_what_waiting_does_not_help_is_named_in_one_line(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fate: PodEnd, says: str
) -> None:
    monkeypatch.setattr(troubles, "_FATAL_AFTER_S", 0.5)
    monkeypatch.setattr(troubles, "_QUIET_S", 0.3)
    cluster.pods.fate = lambda _pod: fate
    stop = Stop()
    ending = threading.Timer(6.0, stop.end)
    ending.start()
    summary = cluster.run(cluster.study("a", "b", cycles=1), stop)
    ending.cancel()
    assert re.search(says, cluster.lines())
    if fate.fate == "image pull":
        assert "cannot be pulled" in str(summary.problem)
    assert cluster.left() == []


def test_a_cluster_that_cannot_be_used_is_one_line_with_the_next_step(cluster: Cluster, tmp_path: Path) -> None:
    file = cluster.study("a", "b")

    def refused(says: str, **environment: str) -> None:
        ran = client(file, **environment)
        assert ran.returncode == ExitCode.LAUNCHER, ran.stderr
        assert says in ran.stderr.splitlines()[-1]
        assert "Traceback" not in ran.stderr

    refused(f"there is no kubeconfig {tmp_path / 'absent'}, and no service acc", KUBECONFIG=str(tmp_path / "absent"))
    for number, text in enumerate(("{", "- a list", "clusters: 5")):
        (tmp_path / f"broken-{number}").write_text(text)
        broken = str(tmp_path / f"broken-{number}")
        refused(f"the kubeconfig {broken} cannot be used (", KUBECONFIG=broken)
    cluster.api.denied.add(("create", "jobs"))
    refused("you may not create jobs in the namespace bench. Ask for the Role that `runner render --rbac` prints.")
    cluster.api.denied = {("list", "pods"), ("watch", "pods")}
    refused("you may not list pods, watch pods in the namespace bench. Ask for the Role")
    assert cluster.left() == [], "it is known before anything is submitted"
    cluster.api.denied.clear()
    elsewhere = cluster.study("a", "b", kubernetes={"namespace": "nowhere"})
    assert elsewhere == file
    refused("there is no namespace nowhere")
    with running_api_server("bench") as gone:
        config = str(gone.kubeconfig(tmp_path / "gone", "bench"))
    refused("does not answer", KUBECONFIG=config)
