"""Where the results of a cluster are read from, to bring them home."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import obstore
from obstore import exceptions
from obstore.store import S3Store

from images.contract.job import RESULTS_MOUNT
from runner.cluster import names
from runner.cluster.api import Api
from runner.cluster.pods import claim_of, is_claim, place_of
from runner.launchers import EngineAway, LaunchFailed, LaunchImpossible
from runner.studies.study import Study

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_READERS = "app.kubernetes.io/component=reader"
_PORT = 8080
_START_S = 300.0
_LOOK_EVERY_S = 1.0


class Source(Protocol):
    def read(self, key: str) -> bytes | None:
        """A file of the study's place; None if there is none.

        Raises:
            LaunchFailed: the place cannot be read.
        """
        ...


@contextmanager
def source_of(study: Study, api: Api, image: str) -> Iterator[Source]:
    """
    Args:
        image: any of ours; a pod of it reads a claim that only the cluster sees.

    Raises:
        LaunchFailed: the place cannot be read.
    """
    if not is_claim(study.kubernetes):
        yield BucketSource(place_of(study), study.kubernetes.endpoint_url)
        return
    reader = ClaimSource(study, api, image)
    try:
        yield reader
    finally:
        reader.close()


class BucketSource:
    """Read with this machine's own credentials, as AWS tools have them."""

    def __init__(self, address: str, endpoint: str | None) -> None:
        self._address = address
        endpoint = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), endpoint)
        settings: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
        try:
            self._store = S3Store.from_url(
                address,
                **settings,
                client_options={"allow_http": endpoint is not None and endpoint.startswith("http://")},
            )
        except (ValueError, exceptions.BaseError) as error:
            raise LaunchImpossible(f"{address} cannot be read ({error}).", "Correct kubernetes.results.") from None

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None
        except exceptions.BaseError as error:
            text, stays = str(error), "results stay there, and running again takes them."
            denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
            if denied or "status code: 403" in text:
                raise LaunchImpossible(
                    f"{self._address} may not be read by you.", f"Correct AWS_ACCESS_KEY_ID; {stays}"
                ) from None
            if "NoSuchBucket" in text:
                raise LaunchImpossible(
                    f"there is no bucket for {self._address}.", "Correct kubernetes.results or AWS_ENDPOINT_URL."
                ) from None
            raise EngineAway(f"{self._address} does not answer.", f"Check the network; {stays}") from None


class ClaimSource:
    """Read through a pod that mounts the claim and serves it over HTTP, which starts when it is first needed."""

    def __init__(self, study: Study, api: Api, image: str) -> None:
        self._study, self._api, self._image = study, api, image
        self._name = names.job_name(study.name, "reader", secrets.token_hex(3))
        self._uid: str | None = None

    def read(self, key: str) -> bytes | None:
        if self._uid is None:
            self._start()
        return self._api.read_from_pod(self._name, _PORT, key)

    def close(self) -> None:
        """Remove the pod, and those of runners that were killed."""
        with suppress(LaunchFailed):  # what is told is why the study ended; the next run removes what is left
            for pod in self._api.find("Pod", f"{names.STUDY_ID}={names.study_id(self._study.name)},{_READERS}")[0]:
                self._api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])

    def _start(self) -> None:
        made = self._api.create(reader_pod(self._study, self._name, self._image))
        assert made is not None, "its name is new"
        self._uid = made["metadata"]["uid"]
        give_up_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_s:
            pod = self._api.get("Pod", self._name)
            conditions = ((pod or {}).get("status") or {}).get("conditions") or ()
            if any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions):
                return
            time.sleep(_LOOK_EVERY_S)
        raise EngineAway(
            f"the pod {self._name}, which reads the results, did not start within {_START_S:.0f} s.",
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
            # A claim of one node is read where the jobs are.
            "nodeSelector": dict(settings.node_selector),
            "tolerations": [dict(toleration) for toleration in settings.tolerations],
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
