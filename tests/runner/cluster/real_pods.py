"""Pods whose containers really run: each as a process of this machine, with the arguments and files of its manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.contract.job import RESULTS_MOUNT
from tests.runner.cluster.api_server import ApiServer
from tests.runner.cluster.kubelet import ContainerEnd, PodEnd
from tests.runner.cluster.object_store import Object, Refused

ROOT = Path(__file__).resolve().parents[3]
Fate = Callable[[Object], PodEnd | None]


@dataclass
class RealPods:
    """
    Args:
        claim: folder that stands for the PersistentVolumeClaim.
        fate: what happens to a pod in the place of running; None: it runs.
        environment: of every container, beside its own.

    Attributes:
        began: names of pods that ran, in order.
    """

    api: ApiServer
    folder: Path
    claim: Path
    fate: Fate = lambda _pod: None
    environment: dict[str, str] = field(default_factory=dict)
    began: list[str] = field(default_factory=list)
    _ends: dict[str, list[ContainerEnd]] = field(default_factory=dict)

    def run(self, pod: Object) -> PodEnd:
        """Of `Controllers`: what has ended of it so far."""
        name = pod["metadata"]["name"]
        if not pod["spec"]["containers"][0].get("args"):
            return PodEnd()  # it serves files and never ends; the API server has them
        decided = self.fate(pod)
        if decided is not None:
            return decided
        if name not in self._ends:
            self._ends[name] = []
            self.began.append(name)
            threading.Thread(target=self._work, args=(pod, self._ends[name]), daemon=True).start()
        return PodEnd(tuple(self._ends[name]))

    def _work(self, pod: Object, ends: list[ContainerEnd]) -> None:
        spec = pod["spec"]
        while not self._exists(pod):
            time.sleep(0.01)  # it is asked for just before it is there
        try:
            inputs = self._inputs(pod)
        except Refused:
            return  # removed before it began
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            ends.append(self._container(pod, container, inputs))
            if ends[-1].exit_code or not self._exists(pod):
                return

    def _exists(self, pod: Object) -> bool:
        return any(one["metadata"]["name"] == pod["metadata"]["name"] for one in self.api.objects("pods"))

    def _container(self, pod: Object, container: dict[str, Any], inputs: dict[str, str]) -> ContainerEnd:
        own = self.folder / f"{pod['metadata']['name']}-{container['name']}"
        for place in ("inputs", "scratch"):
            (own / place).mkdir(parents=True)
        report = own / "report"
        report.touch()
        for name, text in inputs.items():
            (own / "inputs" / name).write_text(text)
        environment = {one["name"]: self._value(one, pod) for one in container.get("env", ())}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        places = {"/inputs": own / "inputs", "/scratch": own / "scratch", "/dev/termination-log": report}
        if RESULTS_MOUNT in mounts:
            places[RESULTS_MOUNT] = self.claim / mounts[RESULTS_MOUNT]["subPath"]
            places[RESULTS_MOUNT].mkdir(parents=True, exist_ok=True)
        arguments = [_here(_expanded(argument, environment), places) for argument in container["args"]]
        backend = json.loads(Path(arguments[arguments.index("--config") + 1]).read_text())["backend"]
        with (own / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"images.{backend}", *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **environment, **self.environment},
                stderr=log,
            )
            while process.poll() is None:
                if not self._exists(pod):
                    process.terminate()
                    process.wait(30)
                time.sleep(0.05)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return ContainerEnd(code, report.read_text(), log=(own / "log").read_text().splitlines())

    def _inputs(self, pod: Object) -> dict[str, str]:
        """Of its ConfigMap, as they are when it begins."""
        named = next(volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume)
        found: dict[str, str] = self.api.store.get("configmaps", named, pod["metadata"]["namespace"])["data"]
        return found

    @staticmethod
    def _value(variable: dict[str, Any], pod: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        if path.startswith("metadata.labels["):
            return str(pod["metadata"]["labels"][path.split("'")[1]])
        return str(pod["spec"].get("nodeName", "") if path == "spec.nodeName" else pod["metadata"]["name"])


def _expanded(argument: str, environment: dict[str, str]) -> str:
    for name, value in environment.items():
        argument = argument.replace(f"$({name})", value)
    return argument


def _here(argument: str, places: dict[str, Path]) -> str:
    """A path in the container as it is on this machine."""
    for inside, outside in places.items():
        if argument == inside or argument.startswith(f"{inside}/"):
            return f"{outside}{argument[len(inside) :]}"
    return argument
