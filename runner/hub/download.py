"""The download of one hub model, as a process of its own: `python -m runner.hub.download REQUEST`.

A thread that waits for a silent hub cannot be ended; a process can. It talks to its parent in lines of JSON on
standard output, and ends, taking half-written files with it, as soon as its standard input closes, so also when
the parent is killed. Nothing it says holds the user's token.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, RepoFile, constants, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import tqdm
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from images.contract.job import ExitCode, ModelUnavailable
from runner.hub.download_events import Event, Request, cache_not_writable, size_text
from runner.hub.hub_cache import indexed_files, repository_folder, wanted_files, weight_files, weight_index

_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_REPORT_S = 0.25
_LONGEST_PAUSE_S = 30.0
_UNFINISHED = ".incomplete"

T = TypeVar("T")


def main() -> int:
    request = Request.model_validate_json(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _Download(request).run()
    except ModelUnavailable as error:
        _tell(Event(message=error.message, advice=error.advice))
        return int(error.exit_code)
    return int(ExitCode.OK)


class _Download:
    """Ask, compare with the disk, get."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._folder = repository_folder(request.cache, request.model)
        self._begun = False

    def run(self) -> None:
        """
        Raises:
            ModelUnavailable: one line that says why, and what to do.
        """
        request = self._request
        with _explained(request, lambda: self._begun):
            _require_sendable_token()
            revision = self._patiently(
                lambda: HfApi().resolve_revision(request.model, revision=request.revision, cache_dir=request.cache)
            )
            commit = str(revision.resolved)
            files = self._patiently(lambda: _list_files(request.model, commit))
            index = weight_index(files.keys())
            shards = self._patiently(lambda: self._read_index(index, commit)) if index else set()
            weights = weight_files(files.keys(), lambda _: shards)
            if not weights:
                raise ModelUnavailable(
                    f"the model {request.model} has no weights as safetensors or pytorch_model.bin.",
                    "Name a repository in the transformers format.",
                )
            wanted = wanted_files(files.keys(), lambda _: shards, request.with_code) & files.keys()
            missing = [files[name] for name in sorted(wanted) if not self._is_here(files[name], commit)]
            self._require_space(sum(file.size for file in missing))
            _tell(Event(needed_bytes=sum(file.size for file in missing), n_files=len(missing), commit=commit))
            self._begun = True
            meter = _Meter()
            # The weights last: whoever finds them here, without the hub's list, knows that the rest is here, too.
            for part in (wanted - weights, wanted & weights):
                self._patiently(partial(self._get, sorted(part), revision, meter))
            if wanted < files.keys():
                # The list of all files: with it, engines without network call this folder incomplete.
                (self._folder / "trees" / f"{commit}.json").unlink(missing_ok=True)

    def _read_index(self, index: str, commit: str) -> set[str]:
        request = self._request
        path = Path(hf_hub_download(request.model, index, revision=commit, cache_dir=request.cache))
        try:
            return indexed_files(path)
        except ValueError as error:
            raise ModelUnavailable(f"the model {request.model} is damaged ({error}).", "Tell its authors.") from None

    def _is_here(self, file: RepoFile, commit: str) -> bool:
        """As a file of this revision, or with the same content of another one."""
        content = file.lfs.sha256 if file.lfs is not None else file.blob_id
        snapshot = self._folder / "snapshots" / commit
        return (snapshot / str(file.path)).exists() or (self._folder / "blobs" / str(content)).exists()

    def _require_space(self, needed_bytes: int) -> None:
        request = self._request
        free_bytes = shutil.disk_usage(request.cache).free
        if needed_bytes and needed_bytes + request.reserve_bytes > free_bytes:
            raise ModelUnavailable(
                f"the model {request.model} needs {size_text(needed_bytes)} more in {request.cache}, and "
                f"{size_text(free_bytes)} are free there, {size_text(request.reserve_bytes)} of them to stay free.",
                "Make room there, or set HF_HOME to a folder on a larger disk.",
            )

    def _get(self, names: Sequence[str], revision: Any, meter: _Meter) -> None:
        """Finished files are not downloaded again, and of an unfinished one only the rest, while this call lasts."""
        if names:
            snapshot_download(
                self._request.model,
                revision=revision,
                cache_dir=self._request.cache,
                allow_patterns=[glob.escape(name) for name in names],
                tqdm_class=meter.bar_class(),
            )

    def _patiently(self, call: Callable[[], T]) -> T:
        request = self._request
        return Retrying(
            retry=retry_if_exception(_will_pass),
            stop=stop_after_attempt(request.tries),
            wait=wait_exponential(request.pause_s, max=_LONGEST_PAUSE_S),
            before_sleep=self._tell_retry,
            reraise=True,
        )(call)

    def _tell_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        reason = _reason(error) if error is not None else "it failed"
        again = f"trying again ({state.attempt_number + 1} of {self._request.tries})"
        _tell(Event(note=f"model {self._request.model}: {reason}; {again}"))


class _Meter:
    """Bytes of finished and running files, told to the parent now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bars: list[int] = []
        self._before = 0
        self._told_s = 0.0

    def bar_class(self) -> type[tqdm]:
        """For one call of `snapshot_download`, which makes several bars of bytes: from the network, and to the disk."""
        meter = self
        with self._lock:
            self._before += max(self._bars, default=0)
            self._bars = []

        class Bar(tqdm):  # type: ignore[misc]
            """Counts, and draws nothing."""

            def __init__(self, *arguments: Any, **options: Any) -> None:
                self._number = meter.add() if options.get("unit") == "B" else None
                super().__init__(*arguments, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                if self._number is not None:
                    self.n += n or 0
                    meter.count(self._number, int(n or 0))
                return None

        return Bar

    def add(self) -> int:
        with self._lock:
            self._bars.append(0)
            return len(self._bars) - 1

    def count(self, number: int, n_bytes: int) -> None:
        with self._lock:
            self._bars[number] += n_bytes
            if time.monotonic() - self._told_s > _REPORT_S:
                self._told_s = time.monotonic()
                _tell(Event(got_bytes=self._before + max(self._bars)))


def _list_files(model: str, commit: str) -> dict[str, RepoFile]:
    tree = HfApi().list_repo_tree(model, recursive=True, revision=commit)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


@contextmanager
def _explained(request: Request, begun: Callable[[], bool]) -> Iterator[None]:
    try:
        yield
    except HFValidationError:
        raise ModelUnavailable(
            f"'{request.model}' is not a name that a model of the hub can have.", _or_a_folder(request.model)
        ) from None
    except (HTTPError, OSError, RuntimeError, RevisionResolutionError) as error:  # RuntimeError: the Rust client's
        raise _explain(error, request, begun()) from None


def _explain(error: Exception, request: Request, begun: bool) -> ModelUnavailable:
    model = request.model
    if _find(error, GatedRepoError):
        who = "the account of this token has no access" if get_token() else "there is no token"
        return ModelUnavailable(
            f"the model {model} is gated, and {who}.",
            f"Accept its licence at https://huggingface.co/{model} and set HF_TOKEN to a token of that account.",
        )
    if _find(error, RevisionNotFoundError):
        return ModelUnavailable(f"the model {model} has no revision {request.revision}.", "Correct model_revision.")
    if _find(error, RepositoryNotFoundError):
        return ModelUnavailable(
            f"the hub has no model {model}, or shows it only to others.",
            f"{_or_a_folder(model)} For a private model set HF_TOKEN.",
        )
    if _find(error, OfflineModeIsEnabled):
        return ModelUnavailable(
            f"the model {model} is not whole in {request.cache}, and HF_HUB_OFFLINE forbids to get it.",
            "Run once without HF_HUB_OFFLINE, or name a local folder.",
        )
    answer = _find(error, HfHubHTTPError)
    if isinstance(answer, HfHubHTTPError) and answer.response.status_code not in _PASSING_STATUS:
        return _explain_refusal(answer, model)
    if _will_pass(error):
        if begun:
            return ModelUnavailable(
                f"the download of {model} broke off ({_reason(error)}).",
                "Run again when the network is better: files that are whole are kept.",
            )
        return ModelUnavailable(
            f"the hub ({urlsplit(constants.ENDPOINT).hostname}) cannot be reached ({_reason(error)}), and the model "
            f"{model} is not whole in {request.cache}.",
            "Check the network and HF_ENDPOINT, or name a local folder.",
        )
    return _explain_disk(error, request)


def _explain_refusal(answer: HfHubHTTPError, model: str) -> ModelUnavailable:
    status = answer.response.status_code
    if isinstance(answer, DisabledRepoError):
        return ModelUnavailable(f"the hub has disabled the model {model}.", "Take another one.")
    if status == 401:
        return _bad_token()
    return ModelUnavailable(
        f"the hub refuses the model {model} (status {status}).", "See the model's page, and the rights of HF_TOKEN."
    )


def _explain_disk(error: Exception, request: Request) -> ModelUnavailable:
    number = error.errno if isinstance(error, OSError) else None
    if number in _DISK_FULL or "No space left" in str(error):
        return ModelUnavailable(
            f"the disk with {request.cache} became full while the model {request.model} was downloaded.",
            "Make room and run again, or set HF_HOME to a folder on a larger disk; files that are whole are kept.",
        )
    if number in _NOT_WRITABLE:
        return cache_not_writable(request.cache, str(error.strerror) if isinstance(error, OSError) else "refused")
    return ModelUnavailable(f"the download of {request.model} failed ({_reason(error)}).", "Run again.")


def _bad_token() -> ModelUnavailable:
    return ModelUnavailable(
        "the hub does not accept the token of HF_TOKEN or `hf auth login`.",
        "Set HF_TOKEN to a valid one, or remove it if the model is public.",
    )


def _require_sendable_token() -> None:
    """The client would quote one that does not fit into a header in its error."""
    token = get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise _bad_token()


def _or_a_folder(model: str) -> str:
    if Path(model).is_dir():
        return f"There is a folder of that name here: write ./{model} for it."
    return "Correct the name; a local folder starts with ./, / or ~."


def _will_pass(error: BaseException) -> bool:
    """Whether it can be worth it to try again: the connection, or a hub that is busy; files cut on the way."""
    if _find(error, OfflineModeIsEnabled):
        return False
    answer = _find(error, HfHubHTTPError)
    if isinstance(answer, HfHubHTTPError):
        return answer.response.status_code in _PASSING_STATUS
    lost = _find(error, HTTPError) is not None or "Consistency check failed" in str(error)
    return lost or (isinstance(error, RuntimeError) and "No space left" not in str(error))


def _find(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first of this kind among the error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _reason(error: BaseException) -> str:
    """A few words; never the address, which may be signed."""
    answer = _find(error, HfHubHTTPError)
    if isinstance(answer, HfHubHTTPError):
        return f"status {answer.response.status_code}"
    cause = _find(error, HTTPError) or error
    if "Consistency check failed" in str(cause):
        return "a file came incomplete"
    text = str(cause).strip().splitlines()
    return text[0][:100] if text and "://" not in text[0] else type(cause).__name__


def _tell(event: Event) -> None:
    with suppress(BrokenPipeError):  # the parent is gone, and so are we in a moment
        os.write(sys.stdout.fileno(), f"{event.model_dump_json(exclude_none=True)}\n".encode())


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            file = link.readlink()
            if file.name.endswith(_UNFINISHED):
                file.unlink()
    os._exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
