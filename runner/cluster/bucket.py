"""Results in object storage, read with this machine's own credentials, which are those of AWS tools and of ingest."""

from __future__ import annotations

import os
import re

from pyarrow import ArrowException, ArrowInvalid, fs

from runner.launchers import EngineAway, LaunchFailed, LaunchImpossible

SCHEME = "s3://"
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# Together they end the wait for an endpoint that never answers after about 20 s.
_CONNECT_S, _SILENCE_S, _N_ATTEMPTS = 3, 5, 3
_CODE = re.compile(r"AWS Error (?:([A-Z_]+) (?!\(HTTP)|UNKNOWN \(HTTP status (\d+)\))")
_DENIED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|TOKEN|UNRECOGNIZED_CLIENT|40[013]")
_STAYS = "results stay there, and running again takes them."


class BucketSource:
    """
    Args:
        address: s3://bucket/prefix.
        endpoint: of storage that is not AWS's; the environment's comes first.

    Raises:
        LaunchFailed: it cannot be read.
    """

    early = True

    def __init__(self, address: str, endpoint: str | None) -> None:
        self._address = address
        endpoint = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), endpoint)
        try:
            self._client = fs.S3FileSystem(
                endpoint_override=endpoint,
                region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None,
                tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,
                connect_timeout=_CONNECT_S,
                request_timeout=_SILENCE_S,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_N_ATTEMPTS),
            )
        except (OSError, ArrowInvalid):
            raise LaunchImpossible(
                "the AWS_... variables and files do not fit together.", "Correct them, or kubernetes.endpoint_url."
            ) from None
        self._require_bucket()

    def read(self, key: str) -> bytes | None:
        try:
            with self._client.open_input_file(self._path(key)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except (OSError, ArrowException) as error:
            raise self._explained(error) from None

    def _require_bucket(self) -> None:
        """A bucket that is not there, and a key that is not there, are the same to a reader."""
        try:
            self._client.get_file_info(fs.FileSelector(self._path(".")))
        except FileNotFoundError:
            return
        except (OSError, ArrowException) as error:
            raise self._explained(error) from None

    def _path(self, key: str) -> str:
        return f"{self._address.removeprefix(SCHEME)}/{key}"

    def _explained(self, error: Exception) -> LaunchFailed:
        """The service's own text is not shown: it may repeat a secret."""
        match = _CODE.search(str(error))
        code = "" if match is None else next(filter(None, match.groups()))
        if code == "NO_SUCH_BUCKET":
            return LaunchImpossible(
                f"there is no bucket for {self._address}.",
                "Make it, or correct kubernetes.results, kubernetes.endpoint_url or AWS_ENDPOINT_URL.",
            )
        if _DENIED.fullmatch(code) or "TOKEN" in code:
            return LaunchImpossible(
                f"{self._address} may not be read by you ({code}).",
                f"Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_REGION here; {_STAYS}",
            )
        reason = f" ({code})" if code else ""
        return EngineAway(
            f"{self._address} does not answer{reason}.",
            f"Check the network, kubernetes.endpoint_url and AWS_ENDPOINT_URL; {_STAYS}",
        )
