"""A study on a cluster, from submission to its results here: a real client, real jobs, an API server in memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from images.contract.job import ExitCode, JobError
from runner.cluster import run as cluster_run
from runner.cluster.api import Api
from runner.cluster.run import run_on_cluster
from runner.interrupt import Stop
from runner.layout import Layout
from runner.schedule import Summary
from runner.studies.study_file import load_study
from runner.view.progress import Progress
from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.cluster_studies import IMAGES
from tests.runner.cluster.controllers import Controllers
from tests.runner.cluster.kubelet import PodEnd
from tests.runner.cluster.object_store import Object
from tests.runner.cluster.real_pods import ROOT, RealPods
from tests.runner.command import failures, leftovers, results
from tests.runner.sample_studies import written
from tests.s3_server import point_to, running_s3_server

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("cluster")]


@dataclass
class Cluster:
    """An API server, the machines behind it, and a client's directory."""

    api: ApiServer
    pods: RealPods
    controllers: Controllers
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def study(self, *names: str, kubernetes: dict[str, Any] | None = None, **parts: Any) -> Path:
        settings = {"namespace": "bench", "images": IMAGES, "results": "pvc://results/team", **(kubernetes or {})}
        return written(
            self.folder,
            *names,
            launcher={"name": "kubernetes"} | parts.pop("launcher", {}),
            kubernetes=settings,
            **parts,
        )

    def run(self, file: Path, stop: Stop | None = None) -> Summary:
        study = load_study(file)
        self.said = Console(file=(self.folder / "said").open("a"), width=400)
        progress = Progress(self.said)
        try:
            api = Api(study.kubernetes.namespace)
            layout = Layout(self.out)
            return run_on_cluster(study, layout, api, progress, stop or Stop(), allow_tag=False, extend=False)
        finally:
            progress.stop()

    def is_at_work(self) -> bool:
        return any("phase: window" in log.read_text() for log in self.folder.glob("pods/*/log"))

    def lines(self) -> str:
        return (self.folder / "said").read_text()

    def left(self) -> list[str]:
        """Objects of ours in the cluster."""
        kinds = ("jobs", "pods", "configmaps")
        return [f"{kind}/{one['metadata']['name']}" for kind in kinds for one in self.api.objects(kind)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(cluster_run, "_SETTLE_S", 0.3)
    with running_api_server("bench") as api:
        claim = tmp_path / "claim"
        (claim / "team" / "study").mkdir(parents=True)
        api.proxied["*"] = claim / "team" / "study"
        pods = RealPods(api, tmp_path / "pods", claim)
        made = Cluster(api, pods, Controllers(api, lambda pod: pods.run(pod)), tmp_path)
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig", "bench")))
        with made.controllers.running():
            yield made


def cells(out: Path) -> Counter[tuple[str | None, int | None]]:
    return Counter((one.experiment, one.cycle) for one in results(out))


def every_cell(*names: str, cycles: int) -> Counter[tuple[str | None, int | None]]:
    return Counter({(name, cycle): 1 for name in names for cycle in range(1, cycles + 1)})


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
    monkeypatch.setattr(cluster_run, "_FATAL_AFTER_S", 0.5)
    monkeypatch.setattr(cluster_run, "_QUIET_S", 0.3)
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


def client(file: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner.cli", "run", str(file), "--output", str(file.parent / "out"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_a_cluster_that_cannot_be_used_is_one_line_with_the_next_step(cluster: Cluster, tmp_path: Path) -> None:
    file = cluster.study("a", "b")

    def refused(says: str, **environment: str) -> None:
        ran = client(file, **environment)
        assert ran.returncode == ExitCode.LAUNCHER, ran.stderr
        assert says in ran.stderr.splitlines()[-1]
        assert "Traceback" not in ran.stderr

    refused("there is no kubeconfig that can be used", KUBECONFIG=str(tmp_path / "absent"))
    for number, text in enumerate(("{", "- a list", "clusters: 5")):
        (tmp_path / f"broken-{number}").write_text(text)
        refused("there is no kubeconfig that can be used", KUBECONFIG=str(tmp_path / f"broken-{number}"))
    cluster.api.denied.add(("create", "jobs"))
    refused("you may not create jobs in the namespace bench. Ask for the Role that `runner render --rbac` prints.")
    cluster.api.denied.clear()
    elsewhere = cluster.study("a", "b", kubernetes={"namespace": "nowhere"})
    assert elsewhere == file
    refused("there is no namespace nowhere")
    with running_api_server("bench") as gone:
        config = str(gone.kubeconfig(tmp_path / "gone", "bench"))
    refused("does not answer", KUBECONFIG=config)


def wait_until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    give_up_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def when(true: Callable[[], bool], then: Callable[[], None]) -> None:
    wait_until(true)
    then()
