"""A cluster to run studies on: an API server in memory, pods whose containers really run, and a client's directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runner.cluster import following
from runner.cluster.api import Api
from runner.cluster.pods import claim_of
from runner.cluster.render import rules_of
from runner.cluster.run import run_on_cluster
from runner.interrupt import Stop
from runner.layout import Layout
from runner.schedule import Summary
from runner.studies.study_file import load_study
from runner.view.progress import Progress
from tests.runner.cluster.api_server import ApiServer, running_api_server
from tests.runner.cluster.cluster_studies import IMAGES
from tests.runner.cluster.controllers import Controllers
from tests.runner.cluster.real_pods import ROOT, RealPods
from tests.runner.command import results
from tests.runner.sample_studies import written


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
        file = written(
            self.folder,
            *names,
            launcher={"name": "kubernetes"} | parts.pop("launcher", {}),
            kubernetes=settings,
            **parts,
        )
        # Only what the printed Role allows.
        self.api.allow_only(rules_of(load_study(file).kubernetes))
        if settings["results"].startswith("pvc://"):
            folder = self.pods.claim / claim_of(load_study(file))[1]
            folder.mkdir(parents=True, exist_ok=True)
            self.api.proxied["*"] = folder
        return file

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

    @contextmanager
    def follower(self, file: Path) -> Iterator[Future[Summary]]:
        """A run in a thread, so that something can happen meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.run, file)

    def is_at_work(self) -> bool:
        return any("phase: window" in log.read_text() for log in self.folder.glob("pods/*/log"))

    def lines(self) -> str:
        return (self.folder / "said").read_text()

    def left(self) -> list[str]:
        """Objects of ours in the cluster."""
        kinds = ("jobs", "pods", "configmaps")
        return [f"{kind}/{one['metadata']['name']}" for kind in kinds for one in self.api.objects(kind)]


@contextmanager
def running_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """With a namespace ``bench``, to which the environment's kubeconfig leads."""
    monkeypatch.setattr(following, "_SETTLE_S", 0.3)
    with running_api_server("bench") as api:
        pods = RealPods(api, folder / "pods", folder / "claim")
        made = Cluster(api, pods, Controllers(api, lambda pod: pods.run(pod)), folder)
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(folder / "kubeconfig", "bench")))
        with made.controllers.running():
            yield made


def cells(out: Path) -> Counter[tuple[str | None, int | None]]:
    return Counter((one.experiment, one.cycle) for one in results(out))


def every_cell(*names: str, cycles: int) -> Counter[tuple[str | None, int | None]]:
    return Counter({(name, cycle): 1 for name in names for cycle in range(1, cycles + 1)})


def client(file: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner.cli", "run", str(file), "--output", str(file.parent / "out"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def wait_until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    give_up_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def when(true: Callable[[], bool], then: Callable[[], None]) -> None:
    wait_until(true)
    then()
