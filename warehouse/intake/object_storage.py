"""Result directories in object storage (S3 and what speaks like it), as a source of ingest.

One recursive listing tells names, sizes and times, so nothing unchanged is opened. Of the rest, the files that
ingest reads are copied into numbered local folders: no key, whatever is in it, becomes part of a local path.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import ArrowException, ArrowInvalid, fs

from images.contract import files
from warehouse.errors import WarehouseError
from warehouse.intake.sources import MARKS, READ, Candidate, Unreachable
from warehouse.scratch import scratch_folder

SCHEME = "s3://"
MAX_BYTES = dict.fromkeys((files.RESULT_FILE, files.FAILURE_FILE), 256 * 2**20) | dict.fromkeys(
    files.SIDECAR_SCHEMAS, 2**30
)
"""The largest file of each name that is fetched (bytes)."""

_N_CONNECTIONS = 16
_CHUNK_BYTES = 8 * 2**20
# Together they end the wait for an endpoint that never answers after about 20 s.
_CONNECT_TIMEOUT_S = 3
_SILENCE_TIMEOUT_S = 5
_N_ATTEMPTS = 3

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ERROR_CODE = re.compile(r"AWS Error (?:([A-Z_]+) (?!\(HTTP)|UNKNOWN \((HTTP status \d+)\)|\[(code \d+)\])")
_CERTIFICATE_ERROR = re.compile(r"curlCode: (?:60|77)\b")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_CREDENTIALS = "Correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE."
_ADVICE = {
    "NO_SUCH_BUCKET": ("there is no such bucket. Correct the address, or AWS_ENDPOINT_URL.", 2),
    "ACCESS_DENIED": (f"access is denied. {_CREDENTIALS} They must allow to list the bucket and to read it.", 2),
    "INVALID_ACCESS_KEY_ID": (f"the access key is not known there. {_CREDENTIALS}", 2),
    "SIGNATURE_DOES_NOT_MATCH": (f"the secret key does not fit the access key. {_CREDENTIALS}", 2),
    "INVALID_CLIENT_TOKEN_ID": (f"the credentials are not valid. {_CREDENTIALS}", 2),
    "UNRECOGNIZED_CLIENT": (f"the credentials are not valid. {_CREDENTIALS}", 2),
    "REQUEST_EXPIRED": ("the request counts as expired. Set this machine's clock.", 1),
    "REQUEST_TIME_TOO_SKEWED": ("the request counts as expired. Set this machine's clock.", 1),
    "HTTP status 301": ("the bucket lies in another region. Set AWS_REGION to its region.", 2),
    "HTTP status 400": (f"the request is refused. Correct AWS_REGION. {_CREDENTIALS}", 2),
    "CERTIFICATE": ("its certificate is not trusted. Set AWS_CA_BUNDLE to the file of who signed it.", 2),
    "NETWORK_CONNECTION": ("no answer. Check the network and AWS_ENDPOINT_URL, then ingest again.", 1),
}
"""What is said of an error of the service, and the exit code. Its own text is not shown: it may repeat a secret."""


class ObjectStorage:
    """The directories below one prefix of a bucket.

    Dot names are passed over at every level, as on disk.
    """

    def __init__(self, address: str, client: Any, endpoint: str) -> None:
        """
        Args:
            address: s3://bucket or s3://bucket/prefix, without a slash at its end.
            client: a pyarrow S3FileSystem.
            endpoint: host and port, for messages.
        """
        self.address = address
        self.unreadable: list[str] = []
        self.within: Path | None = None
        self._root = address.removeprefix(SCHEME)
        self._client = client
        self._endpoint = endpoint
        self._directories: Collection[str] | None = None
        """Paths of all directories of ours, once they were listed."""

    @classmethod
    def open(cls, address: str) -> ObjectStorage:
        """The source at ``s3://bucket/prefix``, once its bucket has answered.

        Endpoint, region and credentials come from where AWS tools have them: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
        AWS_REGION, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE and
        the files it names, AWS_CA_BUNDLE, and the role of a machine in the cloud.

        Raises:
            WarehouseError: no such address or bucket, no access, no answer.
        """
        source = cls(_checked_address(address), *_client_from_environment())
        source._ask()
        return source

    def scan(self, known: Mapping[str, str]) -> Iterator[Candidate]:  # noqa: ARG002 - the listing tells all
        """Every directory below the prefix, in the order in which a local folder would give them.

        Raises:
            WarehouseError: nothing lies there, or it cannot be listed.
        """
        found = self._listed()
        finished: list[str] | None = None
        for parts in sorted(path.split("/") for path in found):
            # A finished directory is not looked into, and what lies in it follows it at once in this order.
            if finished is not None and parts[: len(finished)] == finished:
                continue
            path = "/".join(parts)
            if not MARKS.isdisjoint(found[path]):
                finished = parts
            yield _candidate(path, found[path])

    @contextmanager
    def fetched(self, batch: Sequence[Candidate]) -> Iterator[list[Path | Unreachable]]:
        """Local copies, removed when the context ends.

        Raises:
            WarehouseError: the storage does not answer any more, or there is no room for the copies.
        """
        with scratch_folder() as scratch:
            folders = [Path(scratch, str(number)) for number in range(len(batch))]
            pool = ThreadPoolExecutor(_N_CONNECTIONS, thread_name_prefix="fetch")
            try:
                copies = list(pool.map(self._fetch, batch, folders))
            finally:
                pool.shutdown(cancel_futures=True)
            yield copies

    def holds(self, name: str) -> bool:
        return name == self.address or name.startswith(self.address + "/")

    def exists(self, name: str) -> bool:
        """As the last scan saw it: many are asked for, and each would be a request."""
        if self._directories is not None:
            return name.removeprefix(SCHEME) in self._directories
        selector = fs.FileSelector(name.removeprefix(SCHEME), allow_not_found=True)
        try:
            return any(info.base_name in READ for info in self._client.get_file_info(selector))
        except (OSError, ArrowException):
            return True

    def emptied(self, names: Iterable[str]) -> Counter[str]:  # noqa: ARG002 - there are no empty folders
        return Counter()

    def _ask(self) -> None:
        """List next to nothing, which tells whether everything below the prefix can be listed.

        Raises:
            WarehouseError: it cannot.
        """
        try:
            self._client.get_file_info(fs.FileSelector(f"{self._root}/.", allow_not_found=True))
        except (OSError, ArrowException) as error:
            raise self._explained(error) from None

    def _listed(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Time (ns) and size (bytes) of the files that ingest reads, by name, by the path of their directory."""
        try:
            infos = self._client.get_file_info(fs.FileSelector(self._root, recursive=True))
        except FileNotFoundError:
            raise WarehouseError(f"there is nothing at {self.address}. Correct the address.", 2) from None
        except (OSError, ArrowException) as error:
            raise self._explained(error) from None
        found: dict[str, dict[str, tuple[int, int]]] = {}
        parents: set[str] = set()
        for info in infos:
            path = info.path
            if "/." in path[len(self._root) :]:
                continue
            folder, _, name = path.rpartition("/")
            if info.type != fs.FileType.File:
                parents.add(folder)
                continue
            if name in READ:
                found.setdefault(folder, {})[name] = (info.mtime_ns, info.size)
        # Sidecars alone are a directory that lost its result, unless it is a folder of directories.
        ours = {path: names for path, names in found.items() if not MARKS.isdisjoint(names) or path not in parents}
        self._directories = ours.keys()
        return ours

    def _fetch(self, candidate: Candidate, folder: Path) -> Path | Unreachable:
        if "" in candidate.name.removeprefix(SCHEME).split("/"):
            return Unreachable("has a key of which a part is empty, and cannot be fetched. Rename it.")
        name = ""
        try:
            folder.mkdir()
            for name, n_bytes in _sizes(candidate.signature).items():
                if n_bytes > MAX_BYTES[name]:
                    raise _Refused(_too_large(name))
                self._copy(f"{candidate.name}/{name}".removeprefix(SCHEME), folder / name)
        except _Refused as refused:
            return Unreachable(f"cannot be fetched: {name} {refused}, then ingest again.")
        except OSError as error:
            raise WarehouseError(
                f"{folder.parent} cannot be written ({error.strerror}). Make room there, or set TMPDIR."
            ) from None
        return folder

    def _copy(self, key: str, path: Path) -> None:
        """
        Raises:
            _Refused: the object cannot be had.
            OSError: `path` cannot be written.
        """
        left = MAX_BYTES[path.name]
        with path.open("wb") as copy:
            for chunk in self._chunks(key):
                left -= len(chunk)
                if left < 0:  # it has grown since it was listed
                    raise _Refused(_too_large(path.name))
                copy.write(chunk)

    def _chunks(self, key: str) -> Iterator[bytes]:
        try:
            with self._client.open_input_stream(key) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            raise _Refused("was removed meanwhile. Put it back") from None
        except (OSError, ArrowException) as error:
            if _code(error) == "NETWORK_CONNECTION":
                raise self._explained(error) from None
            self._ask()  # if it is not about this one object, all is over
            reason = _code(error).lower().replace("_", " ")
            raise _Refused(f"is refused by the storage ({reason}). Correct its permissions") from None

    def _explained(self, error: Exception) -> WarehouseError:
        code = _code(error)
        where = f"{self.address} ({self._endpoint})" if self._endpoint else self.address
        if code.startswith("EXPIRED_TOKEN"):
            code = "INVALID_CLIENT_TOKEN_ID"
        text, exit_code = _ADVICE.get(code, (f"the storage answers with an error ({code}). Try again later.", 1))
        return WarehouseError(f"{where} cannot be read: {text}", exit_code)


class _Refused(Exception):
    """What is wrong with one object and what to do, as the rest of a sentence that begins with its name."""


def _checked_address(address: str) -> str:
    bucket, _, prefix = address.removeprefix(SCHEME).partition("/")
    parts = prefix.strip("/").split("/") if prefix.strip("/") else []
    if not address.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        # Not repeated here, because what stands for the bucket may be a password.
        raise WarehouseError("an address in object storage is s3://BUCKET or s3://BUCKET/PREFIX. Write it so.", 2)
    if not {"", ".", ".."}.isdisjoint(parts):
        raise WarehouseError(f"{address} has an empty part or one of only dots. Correct the address.", 2)
    return SCHEME + "/".join([bucket, *parts])


def _client_from_environment() -> tuple[Any, str]:
    """A client, and the host and port that it speaks to if they are not the cloud's."""
    variable, url = next(((name, os.environ[name]) for name in _ENDPOINT_VARIABLES if os.environ.get(name)), ("", None))
    host = _checked_endpoint(variable, url) if url else ""
    try:
        client = fs.S3FileSystem(
            endpoint_override=url,
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None,
            tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,
            connect_timeout=_CONNECT_TIMEOUT_S,
            request_timeout=_SILENCE_TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_N_ATTEMPTS),
        )
    except (OSError, ArrowInvalid):
        raise WarehouseError("the AWS_... variables and files do not fit together. Correct them.", 2) from None
    return client, host


def _checked_endpoint(variable: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise WarehouseError(f"{variable} is no address of a server. Write http://HOST:PORT or https://HOST.", 2)
    return host


def _candidate(path: str, found: Mapping[str, tuple[int, int]]) -> Candidate:
    names = tuple(name for name in READ if name in found)
    # The first word tells it from a local one, which has the directory's own time there.
    words = ["s3", *(f"{name}:{found[name][0]}:{found[name][1]}" for name in names)]
    return Candidate(SCHEME + path, " ".join(words), sum(found[name][1] for name in names), names)


def _sizes(signature: str) -> dict[str, int]:
    """Of the files that a signature speaks of, by name (bytes)."""
    words = [word.split(":") for word in signature.split(" ")[1:]]
    return {name: int(size) for name, _, size in words}


def _too_large(name: str) -> str:
    return f"is larger than {MAX_BYTES[name] >> 20} MiB. Remove or repair it"


def _code(error: Exception) -> str:
    """The name that the service gives to an error."""
    if _CERTIFICATE_ERROR.search(str(error)):
        return "CERTIFICATE"
    match = _ERROR_CODE.search(str(error))
    return next(filter(None, match.groups()), "unknown") if match else "unknown"
