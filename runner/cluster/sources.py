"""Where the results of a cluster are read from, to bring them home."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol

from images.contract.job import RESULTS_MOUNT
from runner.cluster import names
from runner.cluster.api import Api, Object
from runner.cluster.bucket import BucketSource
from runner.cluster.observed import is_over, trouble_of
from runner.cluster.pods import claim_of, is_claim, place_of
from runner.cluster.submitted import selector
from runner.launchers import EngineAway, LaunchFailed, LaunchImpossible
from runner.studies.study import Study

_READERS = "app.kubernetes.io/component=reader"
_CLAIMS: Literal["persistentvolumeclaims"] = "persistentvolumeclaims"
_PORT = 8080
_START_S = 300.0
_MOST_STARTS = 3
_LOOK_EVERY_S = 1.0


class ReaderWaits(EngineAway):
    """The place cannot be read before a pod of ours is ready, or jobs have let go of it."""


class Source(Protocol):
    @property
    def early(self) -> bool:
        """Whether it can be read before any job of the study has begun."""
        ...

    def read(self, key: str) -> bytes | None:
        """A file of the study's place; None if there is none.

        Raises:
            EngineAway: not now; ask again.
            LaunchFailed: the place cannot be read.
        """
        ...


@contextmanager
def source_of(study: Study, api: Api, image: str, *, began_before: bool) -> Iterator[Source]:
    """
    Args:
        image: any of ours; a pod of it reads a claim that only the cluster sees.
        began_before: the study was submitted from here before.

    Raises:
        LaunchFailed: the place cannot be read.
    """
    if not is_claim(study.kubernetes):
        yield BucketSource(place_of(study), study.kubernetes.endpoint_url)
        return
    reader = ClaimSource(study, api, image, began_before)
    try:
        yield reader
    finally:
        reader.close()


class ClaimSource:
    """Read through a pod that mounts the claim and serves it over HTTP.

    It starts when it is first needed, and anew when it is gone; nobody is kept waiting for it.
    """

    def __init__(self, study: Study, api: Api, image: str, began_before: bool) -> None:
        self._study, self._api, self._image = study, api, image
        self._began_before = began_before
        self._pod: str | None = None
        self._began_s: float | None = None
        self._looked_s = 0.0
        self._n_started = 0
        self._is_ready = False

    @property
    def early(self) -> bool:
        """A new study has most likely nothing there, which is no reason to pull an image on a node without GPUs. And a
        claim that waits for its first pod, or that only one node can have, is left to the jobs.
        """
        if not self._began_before:
            return False
        name = claim_of(self._study)[0]
        claim = next((one for one in self._api.look(_CLAIMS) or () if one["metadata"]["name"] == name), None)
        if claim is None:
            return False
        modes = claim["spec"].get("accessModes") or ()
        return (claim.get("status") or {}).get("phase") == "Bound" and "ReadWriteMany" in modes

    def read(self, key: str) -> bytes | None:
        self._require_reader()
        assert self._pod is not None
        try:
            answer = self._api.read_from_pod(self._pod, _PORT, key)
        except EngineAway:
            self._is_ready, self._began_s = False, None  # it may be gone, with its node
            raise
        self._n_started = 0
        return answer

    def close(self) -> None:
        """Remove the pod, and those of runners that were killed."""
        with suppress(LaunchFailed):  # what is told is why the study ended; the next run removes what is left
            for pod in self._api.find("Pod", f"{names.STUDY_ID}={names.study_id(self._study)},{_READERS}")[0]:
                self._api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])

    def _require_reader(self) -> None:
        """
        Raises:
            ReaderWaits: it is on its way; ask again.
            LaunchImpossible: it has been for too long.
        """
        now_s = time.monotonic()
        if self._is_ready:
            return
        self._began_s = now_s if self._began_s is None else self._began_s
        if now_s - self._looked_s < _LOOK_EVERY_S:
            raise self._waits()
        self._looked_s = now_s
        pod = None if self._pod is None else self._api.get("Pod", self._pod)
        if pod is None or is_over(pod) or "deletionTimestamp" in pod["metadata"]:
            self._start(pod)
            raise self._waits()
        conditions = (pod.get("status") or {}).get("conditions") or ()
        self._is_ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
        if self._is_ready:
            return
        if now_s - self._began_s > _START_S and not self._jobs_hold_the_claim():
            trouble = trouble_of(pod)
            raise self._gives_up("it does not become ready" if trouble is None else trouble.message.rstrip("."))
        raise self._waits()

    def _start(self, before: Object | None) -> None:
        """
        Args:
            before: the one that is over; None if there is none.
        """
        if self._n_started > _MOST_STARTS:
            tail = [] if before is None else self._api.log_tail(before["metadata"]["name"], "reader", 1)
            raise self._gives_up(f"it ends each time ({''.join(tail)[:200] or 'its log is empty'})")
        if before is not None:
            self._api.delete("Pod", before["metadata"]["name"], before["metadata"]["uid"])
        self._pod = names.job_name(self._study, "reader", secrets.token_hex(3))
        self._n_started += 1
        self._api.create(reader_pod(self._study, self._pod, self._image))

    def _jobs_hold_the_claim(self) -> bool:
        """A claim that one pod, or one node, can have at a time is free when they have ended."""
        return not all(is_over(pod) for pod in self._api.find("Pod", selector(self._study))[0])

    def _waits(self) -> ReaderWaits:
        return ReaderWaits("the pod that reads the claim is not ready; results come home when it is.", "Wait for it.")

    def _gives_up(self, why: str) -> LaunchImpossible:
        return LaunchImpossible(
            f"the pod that reads the claim did not start within {_START_S:.0f} s: {why}.",
            "Look at it with kubectl describe; results stay in the claim, and running again takes them.",
        )


def reader_pod(study: Study, name: str, image: str) -> dict[str, Any]:
    """A pod that serves the study's folder of the claim, read only, and may do nothing else."""
    settings = study.kubernetes
    claim, folder = claim_of(study)
    small = {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "64Mi"}
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.run_as_user is not None:
        security |= {"runAsUser": settings.run_as_user, "runAsGroup": 0, "fsGroup": 0}
        security["fsGroupChangePolicy"] = "OnRootMismatch"
    place = {} if settings.namespace is None else {"namespace": settings.namespace}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            **place,
            "labels": names.labels(study, component="reader"),
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": dict(settings.node_selector),
            # A claim of one node is read where the jobs are.
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [_beside_jobs(study)]}},
            "tolerations": [toleration.manifest() for toleration in settings.tolerations],
            "securityContext": security,
            **(
                {"imagePullSecrets": [{"name": one} for one in settings.image_pull_secrets]}
                if settings.image_pull_secrets
                else {}
            ),
            "containers": [
                {
                    "name": "reader",
                    "image": image,
                    "command": ["python3", "-m", "http.server", str(_PORT), "--directory", RESULTS_MOUNT],
                    "ports": [{"containerPort": _PORT}],
                    "readinessProbe": {"tcpSocket": {"port": _PORT}, "periodSeconds": 2},
                    "resources": {"requests": small, "limits": small},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "results", "mountPath": RESULTS_MOUNT, "subPath": folder, "readOnly": True}
                    ],
                }
            ],
            "volumes": [{"name": "results", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }


def _beside_jobs(study: Study) -> dict[str, Any]:
    jobs = {names.STUDY_ID: names.study_id(study), "app.kubernetes.io/component": "job"}
    term = {"labelSelector": {"matchLabels": jobs}, "topologyKey": "kubernetes.io/hostname"}
    return {"weight": 100, "podAffinityTerm": term}
