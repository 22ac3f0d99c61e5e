"""Several clients, a queue, a second stage, and pods that are tried again: a study still counts every cycle once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.contract.job import ExitCode
from runner.cluster import command, troubles
from runner.cluster.submitted import job_of
from runner.studies.study_file import load_study
from tests.runner.cluster.kubelet import PodEnd
from tests.runner.cluster.object_store import Object
from tests.runner.cluster.real_pods import ROOT
from tests.runner.cluster.whole_cluster import Cluster, cells, every_cell, wait_until
from tests.runner.command import failures, results

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("shared-cluster")]


def with_stub(file: Path, experiment: int, **stub: Any) -> Path:
    document = yaml.safe_load(file.read_text())
    document["experiments"][experiment]["stub"] = stub
    file.write_text(yaml.safe_dump(document))
    return file


def test_two_clients_of_one_study_share_what_is_measured(cluster: Cluster) -> None:
    file = cluster.study("a", "b", cycles=3)
    (cluster.folder / "second").mkdir()
    second = replace(cluster, folder=cluster.folder / "second")
    with cluster.follower(file) as one, second.follower(file) as two:
        summaries = [one.result(timeout=120), two.result(timeout=120)]
    assert [(summary.n_results, summary.problem) for summary in summaries] == [(6, None), (6, None)]
    assert cells(cluster.out) == cells(second.out) == every_cell("a", "b", cycles=3)
    ids = [{one.experiment_id for one in results(each.out)} for each in (cluster, second)]
    assert ids[0] == ids[1], "each cycle was measured once, for both"
    assert cluster.left() == []


def test_a_study_in_a_queue_says_what_it_waits_for_and_runs_when_it_is_let_in(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(troubles, "_IN_QUEUE_S", 0.5)
    file = cluster.study("a", "b", cycles=2, kubernetes={"queue": "measurements"})

    def let_in() -> None:
        """As Kueue does it, once there is room."""
        said = cluster.folder / "said"
        wait_until(lambda: said.exists() and "waits in queue measurements" in said.read_text())
        for job in cluster.api.objects("jobs"):
            cluster.api.store.update("jobs", job["metadata"]["name"], "bench", resumed)

    def resumed(job: Object) -> None:
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "measurements"
        job["spec"]["suspend"] = False

    letting_in = threading.Thread(target=let_in)
    letting_in.start()
    summary = cluster.run(file)
    letting_in.join()
    assert (summary.n_results, summary.problem) == (4, None)


def test_the_second_stage_of_an_adaptive_study_is_submitted_when_the_pilot_is_in(cluster: Cluster) -> None:
    cycles = {"min": 5, "max": 6, "metric": "total_inference_time_sec", "half_width": 0.0001}
    summary = cluster.run(cluster.study("a", "b", cycles=cycles))
    assert summary.problem is None
    assert summary.adaptive is not None
    assert cells(cluster.out) == every_cell("a", "b", cycles=6)
    assert len(cluster.pods.began) == 6
    assert cluster.lines().count("submitted to the namespace") == 2


def test_a_failure_whose_last_word_the_cluster_cut_is_found_where_it_was_published(cluster: Cluster) -> None:
    names = [f"experiment-with-a-long-name-{number:02d}" for number in range(40)]
    file = with_stub(cluster.study(*names, cycles=1), 7, fail="out_of_memory")
    summary = cluster.run(file)
    assert summary.n_results == 39
    (failure,) = failures(cluster.out)
    assert (failure.experiment, failure.exit_code) == (names[7], ExitCode.OUT_OF_MEMORY)
    assert failure.error_class == "OutOfMemory", "as the job wrote it itself"


def test_a_broken_gpu_ends_its_pod_and_the_block_is_tried_on_another_one(cluster: Cluster) -> None:
    retries = {"limit": 1, "backoff_s": 0.0}
    file = with_stub(cluster.study("a", "b", order="sequential", retries=retries), 1, fail="gpu_unusable")
    summary = cluster.run(file)
    assert summary.n_results == 1
    assert cells(cluster.out) == every_cell("a", cycles=1)
    assert len(cluster.pods.began) == 3, "two tries, and one that says so"
    assert {one.exit_code for one in failures(cluster.out)} == {ExitCode.GPU_UNUSABLE}
    assert cluster.left() == []


def test_a_job_that_hangs_ends_itself_and_the_next_one_of_its_block_runs(cluster: Cluster) -> None:
    file = with_stub(cluster.study("a", "b", order="sequential", timeouts={"job_s": 12.0}), 0, hang="uninterruptible")
    summary = cluster.run(file)
    assert summary.n_results == 1
    (failure,) = failures(cluster.out)
    assert (failure.experiment, failure.error_class) == ("a", "TimedOut")
    assert failure.message == "no result after 12 s; the job was ended."
    assert len(cluster.pods.began) == 1


def test_no_more_jobs_are_at_work_than_the_study_allows(cluster: Cluster) -> None:
    def working() -> int:
        pods = [pod for pod in cluster.api.objects("pods") if "-reader-" not in pod["metadata"]["name"]]
        return sum(pod["status"].get("phase") in ("Pending", "Running") for pod in pods)

    file = cluster.study("a", "b", cycles=4, launcher={"max_parallel": 2}, stub={"window_s": 0.5})
    most = 0
    with cluster.follower(file) as follower:
        while not follower.done():
            most = max(most, working())
            time.sleep(0.02)
        assert follower.result().n_results == 8
    assert most == 2


def test_two_studies_of_one_name_with_places_of_their_own_keep_to_themselves(cluster: Cluster) -> None:
    file = cluster.study("a", "b", cycles=2, stub={"window_s": 1.5})
    (cluster.folder / "second").mkdir()
    second = replace(cluster, folder=cluster.folder / "second")
    served = cluster.api.proxied["*"]
    theirs = second.study("a", "b", cycles=2, kubernetes={"results": "pvc://results/mine"})
    cluster.api.proxied["*"] = served
    with cluster.follower(file) as one:
        wait_until(cluster.is_at_work)
        command.stop(load_study(theirs), now=True)
        assert one.result(timeout=90).n_results == 4
    assert failures(cluster.out) == []


def test_pods_that_a_stopped_run_left_are_waited_for(cluster: Cluster) -> None:
    file = cluster.study("a", "b", cycles=1, stub={"window_s": 2.0})
    program = [sys.executable, "-m", "runner.cli", "run", str(file), "--output", str(cluster.out)]
    killed = subprocess.Popen(program, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(cluster.is_at_work)
    killed.kill()
    killed.wait()
    study = load_study(file)
    assert "1 Job removed; 1 running pod may finish" in command.stop(study, now=False)
    assert any("of a run that was stopped: pod study-" in line for line in command.status(study))
    summary = cluster.run(file)
    assert summary.n_results == 2
    assert "1 pod of a stopped run still at work; waiting for the end" in cluster.lines()
    assert cells(cluster.out) == every_cell("a", "b", cycles=1)
    assert [name for name in cluster.left() if not name.startswith("configmaps/")] == []
    command.stop(study, now=True)
    assert cluster.left() == []


def test_jobs_that_wait_with_other_settings_are_replaced(cluster: Cluster) -> None:
    file = cluster.study("a", "b", cycles=2)
    cluster.pods.fate = lambda _pod: PodEnd(fate="unschedulable")
    with cluster.follower(file) as follower:
        wait_until(lambda: len(cluster.api.objects("pods")) >= 2)
        again = cluster.folder / "again"
        again.mkdir()
        edited = replace(cluster, folder=again)
        changed = edited.study("a", "b", cycles=2, kubernetes={"memory": "8Gi"})
        before = {job["metadata"]["name"] for job in cluster.api.objects("jobs")}
        cluster.pods.fate = lambda pod: PodEnd(fate="unschedulable") if job_of(pod) in before else None
        assert edited.run(changed).n_results == 4
        assert "2 Jobs with other settings or images had not begun; replaced" in edited.lines()
        follower.result(timeout=60)  # it has lost its Jobs, says so, and ends
    assert not before & set(cluster.pods.began)
