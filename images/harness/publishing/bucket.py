"""A prefix in object storage that speaks S3. Endpoint, region and credentials are those that AWS tools use."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import S3Store

from images.contract.publication import UPLOADS, Manifest
from images.harness.publishing.place import PlaceAway, PlaceDenied, PlaceError, PlaceUnusable

log = logging.getLogger(__name__)

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_ANSWER = re.compile(r"status code: (?P<status>\d{3})(?:.*?<Code>(?P<code>\w+)</Code>)?", re.DOTALL)
_DENIED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
_METADATA = "169.254.169.254"
"""Where a machine in the cloud is asked for its role."""
_BUSY = ("408", "429")
_PASSES = ("RequestTimeout", "SlowDown", "RequestTimeTooSkewed", "ExpiredToken", "ServiceUnavailable", "InternalError")
"""Codes that come with a status of the client's fault and are nobody's, or pass."""
_CONNECT_S = 5
_REQUEST_S = 60
_RETRY_FOR = timedelta(minutes=4)
_MAX_RETRIES = 1000  # the time decides
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=200), timedelta(seconds=20)
_LOOK_AGAIN = 3
"""Times to read a key that is taken and not there yet."""


class Bucket:
    """
    Args:
        address: s3://bucket/prefix.
        retry_for: how long a request that fails is made again.

    Raises:
        PlaceUnusable: the address or the settings for it make no sense.
    """

    def __init__(self, address: str, retry_for: timedelta = _RETRY_FOR) -> None:
        self.address = address.rstrip("/")
        endpoint = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), None)
        settings: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
        try:
            self._store = S3Store.from_url(
                self.address,
                **settings,
                checksum_algorithm="SHA256",  # so that what arrives is what was sent
                client_options={
                    "allow_http": endpoint is not None and endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=_CONNECT_S),
                    "timeout": timedelta(seconds=_REQUEST_S),
                },
                retry_config={
                    "max_retries": _MAX_RETRIES,
                    "retry_timeout": retry_for,
                    "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
                },
            )
        except (ValueError, exceptions.BaseError) as error:
            raise PlaceUnusable(
                f"{self.address} cannot be published to ({_first_line(error)}).",
                "Give s3://bucket/prefix, and settings as AWS tools have them.",
            ) from None

    def create(self, key: str, data: bytes) -> bool:
        with self._failing():
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError:
                # It may be ours: the answer to a try before this one was lost.
                there = next((found for _ in range(_LOOK_AGAIN) if (found := self.read(key)) is not None), None)
                return there == data
        return True

    def read(self, key: str) -> bytes | None:
        with self._failing():
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                self._require_bucket()
                return None

    def names(self, folder: str) -> Sequence[str]:
        with self._failing():
            return sorted(Path(one["path"]).name for one in obstore.list(self._store, folder).collect())

    def remove(self, key: str) -> None:
        with self._failing():
            obstore.delete(self._store, key)

    def bring(self, directory: Path, manifest: Manifest) -> None:
        with self._failing():
            try:
                for file in manifest.files:
                    obstore.put(self._store, _on_its_way(manifest, file.name), directory / file.name)
            except FileNotFoundError:
                raise self._no_bucket() from None

    def finish(self, manifest: Manifest) -> None:
        *sidecars, last = (file.name for file in manifest.files)
        target = f"{manifest.directory}/{last}"
        with self._failing():
            there = self.read(target)
            try:
                document = bytes(obstore.get(self._store, _on_its_way(manifest, last)).bytes())
                if there not in (None, document):
                    raise self._taken(manifest)
                for name in sidecars:
                    obstore.copy(self._store, _on_its_way(manifest, name), f"{manifest.directory}/{name}")
            except FileNotFoundError:
                if there is None and self.read(target) is None:
                    raise
                return  # another one was faster
            if not self.create(target, document):
                raise self._taken(manifest)
        try:
            self.drop(manifest)
        except PlaceError as problem:
            log.warning("%s What was brought stays under %s.", problem.message, UPLOADS)

    def drop(self, manifest: Manifest) -> None:
        with self._failing():
            obstore.delete(self._store, [_on_its_way(manifest, file.name) for file in manifest.files])

    def _taken(self, manifest: Manifest) -> PlaceUnusable:
        return PlaceUnusable(
            f"{self.address}/{manifest.directory} is another result's.", "Publish each study to its own prefix."
        )

    def _require_bucket(self) -> None:
        """A bucket that is not there, and a key that is not there, are the same error."""
        obstore.list_with_delimiter(self._store, UPLOADS)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except exceptions.BaseError as error:
            raise self._explained(error) from None

    def _explained(self, error: exceptions.BaseError) -> PlaceError:
        """The library has one class for most of what a service answers; its text has status and code."""
        if _METADATA in str(error):
            # Of a machine with a role it may be back in a moment, so it is no reason to give up.
            return PlaceAway(
                f"there are no credentials for {self.address}, and this machine has no role to be asked for.",
                "Name kubernetes.credentials_secret, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )
        found = _ANSWER.search(str(error))
        status, code = (found["status"], found["code"] or found["status"]) if found else (None, None)
        if status in _BUSY or code in _PASSES:
            return self._away(code)
        if isinstance(error, _DENIED) or status in ("401", "403"):
            return PlaceDenied(
                f"access to {self.address} is denied{f' ({code})' if code else ''}.",
                "Correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the role; it must allow to list, read, write and "
                "delete below the prefix.",
            )
        if code == "NoSuchBucket":
            return self._no_bucket()
        if status is not None and status < "500":
            return PlaceDenied(
                f"{self.address} refuses what is asked of it ({code}).", "Correct AWS_REGION and AWS_ENDPOINT_URL."
            )
        return self._away(code)

    def _no_bucket(self) -> PlaceDenied:
        return PlaceDenied(
            f"there is no bucket for {self.address}.", "Make it, or correct the address or AWS_ENDPOINT_URL."
        )

    def _away(self, code: str | None) -> PlaceAway:
        return PlaceAway(
            f"{self.address} does not answer{f' as it should ({code})' if code else ''}.",
            "Check the network and AWS_ENDPOINT_URL; run again.",
        )


def _on_its_way(manifest: Manifest, name: str) -> str:
    return f"{UPLOADS}/{manifest.experiment_id}/{name}"


def _first_line(error: Exception) -> str:
    """Without what may repeat a secret: the rest of the library's text is the request."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
